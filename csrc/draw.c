/* Drawing tokens from logits.  f32.c and f64.c include this after kernels.c. */

/* Whether p[a] ranks before p[b]: it is larger, or they are equal and a < b. */
INLINE int ranks_before(const real *p, int a, int b) { return p[a] > p[b] || (p[a] == p[b] && a < b); }

/* Move heap[i] down a binary heap of n indices until it ranks before its children. */
static void sift_down(int32_t *heap, const real *p, int i, int n)
{
    const int32_t moving = heap[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && ranks_before(p, heap[child + 1], heap[child]))
            child++;
        if (ranks_before(p, moving, heap[child]))
            break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

/* Keep the top_k largest p and, of these, the fewest largest whose sum reaches top_p; set the others to 0. */
static void keep_top(real *p, int32_t *heap, int top_k, double top_p, int m)
{
    int n = m;
    double sum = 0;
    for (int i = 0; i < m; i++)
        heap[i] = i;
    for (int i = m / 2 - 1; i >= 0; i--)
        sift_down(heap, p, i, m);
    for (int rank = 0; rank < top_k && n > 0; rank++) {
        sum += p[heap[0]];
        if (sum - p[heap[0]] >= top_p) /* those that rank before reach top_p */
            break;
        heap[0] = heap[--n];
        sift_down(heap, p, 0, n);
    }
    for (int i = 0; i < n; i++)
        p[heap[i]] = 0;
}

INLINE int is_finite(const real *x, size_t n)
{
    vec sum = set1(0);
    for (size_t i = 0; i < n; i += W) {
        const vec some = load_left(x + i, (ptrdiff_t)(n - i));
        sum += some - some; /* 0 for a finite number, else NaN */
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

enum { INTERLEAVED = 8 }; /* the number of columns to sum at a time: one column's additions depend on each other */

/* token[l] for n columns of p, at most INTERLEAVED */
INLINE void pick(int32_t *token, const real *p, const double *uniform, int m, const int n)
{
    double sum[INTERLEAVED] = {0}, cumulative[INTERLEAVED] = {0};
    for (int l = 0; l < n; l++)
        token[l] = 0;
    for (int i = 0; i < m; i++)
        for (int l = 0; l < n; l++)
            sum[l] += p[(size_t)l * m + i];
    for (int l = 0; l < n; l++)
        sum[l] *= uniform[l]; /* stays below the sum even when rounded, because uniform is at most 1 - 2^-53 */
    for (int i = 0; i < m; i++)
        for (int l = 0; l < n; l++) {
            cumulative[l] += p[(size_t)l * m + i];
            token[l] += cumulative[l] <= sum[l];
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
        if (p[0] != p[0]) { /* then the whole column is NaN: the scaled logits overflowed */
            memset(p, 0, m * sizeof *p);
            p[first_largest(x, m)] = 1;
        }
        if (top_k < m || top_p < 1)
            keep_top(p, work, top_k, top_p, m);
    }
    int j = 0;
    for (; n - j >= INTERLEAVED; j += INTERLEAVED)
        pick(token + j, probs + (size_t)j * m, uniform + j, m, INTERLEAVED);
    for (; j < n; j++)
        pick(token + j, probs + (size_t)j * m, uniform + j, m, 1);
    return 1;
}
