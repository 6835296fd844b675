/* Drawing tokens from logits.  Part of f32.c and f64.c, after kernels.c. */

/* Whether p[a] ranks before p[b]: it is larger, or the first of equals. */
INLINE int ranks_before(const real *p, int a, int b) { return p[a] > p[b] || (p[a] == p[b] && a < b); }

/* Let heap[i] sink to where it ranks before all below it. */
static void sink(int32_t *heap, const real *p, int i, int n)
{
    const int32_t sinking = heap[i];
    for (int below; (below = 2 * i + 1) < n; i = below) {
        if (below + 1 < n && ranks_before(p, heap[below + 1], heap[below]))
            below++;
        if (ranks_before(p, sinking, heap[below]))
            break;
        heap[i] = heap[below];
    }
    heap[i] = sinking;
}

/* Make 0 of all p but the top_k largest, and of these but the largest that make up top_p. */
static void keep_likeliest(real *p, int32_t *heap, int top_k, double top_p, int m)
{
    int n = m;
    double sum = 0;
    for (int i = 0; i < m; i++)
        heap[i] = i;
    for (int i = m / 2 - 1; i >= 0; i--)
        sink(heap, p, i, m);
    for (int rank = 0; rank < top_k && n > 0; rank++) {
        sum += p[heap[0]];
        if (sum - p[heap[0]] >= top_p) /* what ranks before makes it up */
            break;
        heap[0] = heap[--n];
        sink(heap, p, 0, n);
    }
    for (int i = 0; i < n; i++)
        p[heap[i]] = 0;
}

INLINE int is_finite(const real *x, size_t n)
{
    vec sum = set1(0);
    for (size_t i = 0; i < n; i += W) {
        const vec some = load_left(x + i, (ptrdiff_t)(n - i));
        sum += some - some; /* 0, or NaN */
    }
    real lane[W];
    store(lane, sum);
    for (int l = 0; l < W; l++)
        if (lane[l] != 0)
            return 0;
    return 1;
}

static int first_largest(const real *x, int m)
{
    const real top = largest(x, m);
    int i = 0;
    while (x[i] != top)
        i++;
    return i;
}

enum { SIDE_BY_SIDE = 8 }; /* columns whose sums do not wait for each other */

/* token[l] of n columns of p, up to SIDE_BY_SIDE */
INLINE void pick(int32_t *token, const real *p, const double *uniform, int m, const int n)
{
    double sum[SIDE_BY_SIDE] = {0}, so_far[SIDE_BY_SIDE] = {0};
    for (int l = 0; l < n; l++)
        token[l] = 0;
    for (int i = 0; i < m; i++)
        for (int l = 0; l < n; l++)
            sum[l] += p[(size_t)l * m + i];
    for (int l = 0; l < n; l++)
        sum[l] *= uniform[l]; /* which is below the whole, rounded too: uniform is at most 1 - 2^-53 */
    for (int i = 0; i < m; i++)
        for (int l = 0; l < n; l++) {
            so_far[l] += p[(size_t)l * m + i];
            token[l] += so_far[l] <= sum[l];
        }
}

int API(draw)(int32_t *token, real *probs, int32_t *work, const real *logits, const double *uniform, double temperature,
              int top_k, double top_p, int m, int n)
{
    if (!is_finite(logits, (size_t)m * n))
        return 0;
    if (temperature == 0) {
        for (int j = 0; j < n; j++)
            token[j] = first_largest(logits + (size_t)j * m, m);
        return 1;
    }
    const vec divisor = set1(temperature);
    real *scaled = probs + (size_t)n * m;
    for (int j = 0; j < n; j++) {
        const real *x = logits + (size_t)j * m;
        real *p = probs + (size_t)j * m;
        for (ptrdiff_t i = 0; i < m; i += W)
            store_left(scaled + i, load_left(x + i, m - i) / divisor, m - i);
        softmax_column(p, scaled, m);
        if (p[0] != p[0]) { /* a NaN: then all are */
            memset(p, 0, m * sizeof *p);
            p[first_largest(x, m)] = 1;
        }
        if (top_k < m || top_p < 1)
            keep_likeliest(p, work, top_k, top_p, m);
    }
    int j = 0;
    for (; n - j >= SIDE_BY_SIDE; j += SIDE_BY_SIDE)
        pick(token + j, probs + (size_t)j * m, uniform + j, m, SIDE_BY_SIDE);
    for (; j < n; j++)
        pick(token + j, probs + (size_t)j * m, uniform + j, m, 1);
    return 1;
}
