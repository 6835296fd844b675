/* Attention over packed documents, forward, backward and from a cache.  f32.c and f64.c include this after kernels.c.

   The lanes of a vector are W neighbouring tokens, of the same or of different documents.  At each lag, every lane
   attends to the token `lag` before its own: one load, `lag` elements earlier in the transposed keys or values.  A lane
   is active while lag <= position.  So short heads and short documents still fill whole vectors, and softmax needs no
   sum across lanes.  Sums run over head dimensions, or over lags, in order.  A weight below TINY counts as 0.

   Tokens are processed in chunks of whole documents, so that scratch stays in the cache.  Scratch is transposed: it has
   a column for each feature or lag, `ld` elements apart.  An inactive lane computes with numbers of other tokens or of
   the adjacent column, and its result is discarded.

   Names: q_t is q transposed (tokens x n_embd), and likewise k_t, v_t and so on; reach[l] is the largest lag at which
   lane l is active; `lags` is the number of lags until no lane of the vector is active. */

/* The end of the chunk that begins at token `start`: the first start of a document at least CHUNK tokens later. */
static int chunk_end(const int32_t *position, int start, int n_tokens)
{
    int end = n_tokens - start > CHUNK ? start + CHUNK : n_tokens;
    while (end < n_tokens && position[end] > 0)
        end++;
    return end;
}

/* s[i] = sum over d of a[d*ld] b[d*ld - i*step], for n lags i, over the dimensions d of a head in order */
INLINE void scores(vec *s, const real *a, const real *b, size_t ld, ptrdiff_t step, int head_dim, const int n)
{
    for (int i = 0; i < n; i++)
        s[i] = set1(0);
    for (int d = 0; d < head_dim; d++, a += ld, b += ld)
        for (int i = 0; i < n; i++)
            s[i] = fmadd(load(a), load(b - i * step), s[i]);
}

enum { LAG_BLOCK = 4 }; /* the number of lags whose sums fit in registers together */

/* scores() for any number of lags, stored at s[lag*ld] */
INLINE void all_scores(real *s, const real *a, const real *b, size_t ld, ptrdiff_t step, int head_dim, int lags)
{
    vec some[LAG_BLOCK];
    for (; lags >= LAG_BLOCK; lags -= LAG_BLOCK, b -= LAG_BLOCK * step, s += LAG_BLOCK * ld) {
        scores(some, a, b, ld, step, head_dim, LAG_BLOCK);
        for (int i = 0; i < LAG_BLOCK; i++)
            store(s + i * ld, some[i]);
    }
    for (; lags > 0; lags--, b -= step, s += ld) {
        scores(some, a, b, ld, step, head_dim, 1);
        store(s, some[0]);
    }
}

/* y[d*ld] = sum over lags of p[lag*p_lag] x[d*ld + lag*x_lag], for n dimensions d; lane l stops after lag reach[l] */
INLINE void gather(real *y, const real *p, ptrdiff_t p_lag, const real *x, ptrdiff_t x_lag, size_t ld, int lags,
                   vec reach, const int n)
{
    vec sum[8];
    for (int d = 0; d < n; d++)
        sum[d] = set1(0);
    for (int lag = 0; lag < lags; lag++, p += p_lag, x += x_lag, reach -= set1(1)) {
        const mask on = not_less(reach, set1(0));
        const vec weight = load_some(p, on);
        for (int d = 0; d < n; d++)
            sum[d] = fmadd_some(weight, load(x + d * ld), sum[d], on);
    }
    for (int d = 0; d < n; d++)
        store(y + d * ld, sum[d]);
}

/* gather() for any number of dimensions, with up to 8 sums in registers */
static void gather_head(real *y, const real *p, ptrdiff_t p_lag, const real *x, ptrdiff_t x_lag, size_t ld, int lags,
                        vec reach, int head_dim)
{
#define GATHER(n)                                          \
    {                                                      \
        gather(y, p, p_lag, x, x_lag, ld, lags, reach, n); \
        head_dim -= n, y += (n) * ld, x += (n) * ld;       \
    }
    while (head_dim >= 8)
        GATHER(8)
    if (head_dim >= 4)
        GATHER(4)
    while (head_dim > 0)
        GATHER(1)
}

/* reach of tokens t .. t + W - 1: their positions; -1 past the end.  Returns the number of lags. */
INLINE int lags_back(vec *reach, const int32_t *position, int t, int n_tokens)
{
    real lane[W];
    int lags = 0;
    for (int l = 0; l < W; l++) {
        const int back = t + l < n_tokens ? position[t + l] : -1;
        lane[l] = back;
        lags = back >= lags ? back + 1 : lags;
    }
    *reach = load(lane);
    return lags;
}

/* reach of keys s .. s + W - 1: how many tokens follow in the document; -1 past the end.  Returns the lag count. */
INLINE int lags_ahead(vec *reach, const int32_t *position, int s, int n_tokens)
{
    real lane[W];
    int lags = 0;
    for (int l = W - 1, ahead = -1; l >= 0; l--) {
        if (s + l < n_tokens) {
            if (ahead < 0) /* the last key: count the tokens that follow */
                for (ahead = 0; s + l + ahead + 1 < n_tokens && position[s + l + ahead + 1] > 0;)
                    ahead++;
            else /* one more than the next key, if that belongs to the same document */
                ahead = position[s + l + 1] > 0 ? ahead + 1 : 0;
        }
        lane[l] = ahead;
        lags = ahead >= lags ? ahead + 1 : lags;
    }
    *reach = load(lane);
    return lags;
}

/* out_t and probs from transposed q, k and v.  The previous token's key and value are `step` elements earlier. */
static void attend(real *out_t, real *probs, const real *q_t, const real *k_t, const real *v_t, size_t ld,
                   ptrdiff_t step, const int32_t *position, int n_embd, int n_head, int block_size, int n_tokens)
{
    const int head_dim = n_embd / n_head;
    const vec scale = set1(1 / SQRT(head_dim));
    for (int h = 0; h < n_head; h++)
        for (int t = 0; t < n_tokens; t += W) {
            const mask some = first(n_tokens - t);
            vec reach, top = set1(-INFINITY), sum = choose(some, set1(0), set1(1));
            const int lags = lags_back(&reach, position, t, n_tokens);
            const size_t head = t + h * head_dim * ld;
            real *p = probs + t + (size_t)h * block_size * ld;
            all_scores(p, q_t + head, k_t + head, ld, step, head_dim, lags);
            vec left = reach;
            for (int lag = 0; lag < lags; lag++, left -= set1(1)) {
                const vec s = choose(not_less(left, set1(0)), load(p + lag * ld) * scale, set1(-INFINITY));
                store(p + lag * ld, s);
                top = max(top, s);
            }
            top = choose(some, top, set1(0)); /* makes the weights of lanes past the end 0 */
            for (int lag = 0; lag < lags; lag++) {
                const vec e = exp_nonpositive(load(p + lag * ld) - top, LOG_TINY);
                store(p + lag * ld, e);
                sum += e;
            }
            const vec share = set1(1) / sum;
            for (int lag = 0; lag < lags; lag++)
                store(p + lag * ld, load(p + lag * ld) * share);
            gather_head(out_t + head, p, ld, v_t + head, -step, ld, lags, reach, head_dim);
        }
}

void API(attention_forward)(real *out, real *probs, real *work, const real *q, const real *k, const real *v,
                            const int32_t *position, int n_embd, int n_head, int block_size, int n_tokens)
{
    for (int start = 0, end; start < n_tokens; start = end) {
        end = chunk_end(position, start, n_tokens);
        const int n = end - start;
        const size_t ld = microgpt_token_rows(n), size = n_embd * ld, begin = (size_t)start * n_embd;
        /* a lane may load up to `lag` elements before k_t or v_t: these are inside q_t or k_t, never outside work */
        real *q_t = work, *k_t = q_t + size, *v_t = k_t + size, *out_t = v_t + size;
        transpose_pad(q_t, ld, q + begin, n_embd, n_embd, n);
        transpose_pad(k_t, ld, k + begin, n_embd, n_embd, n);
        transpose_pad(v_t, ld, v + begin, n_embd, n_embd, n);
        attend(out_t, probs, q_t, k_t, v_t, ld, 1, position + start, n_embd, n_head, block_size, n);
        transpose(out + begin, n_embd, out_t, ld, n, n_embd);
        probs += ld * n_head * block_size;
    }
}

void API(attention_cached)(real *out, real *probs, real *keys, real *values, real *work, const real *q, const real *k,
                           const real *v, const int32_t *position, int n_embd, int n_head, int block_size, int n_tokens)
{
    if (n_tokens == 0)
        return;
    const size_t ld = microgpt_token_rows(n_tokens), size = n_embd * ld, now = position[0] * size;
    transpose_pad(work, ld, q, n_embd, n_embd, n_tokens);
    transpose_pad(keys + now, ld, k, n_embd, n_embd, n_tokens);
    transpose_pad(values + now, ld, v, n_embd, n_embd, n_tokens);
    attend(work + size, probs, work, keys + now, values + now, ld, size, position, n_embd, n_head, block_size,
           n_tokens);
    transpose(out, n_embd, work + size, ld, n_tokens, n_embd);
}

/* dq_t, dk_t and dv_t from transposed arrays.  ds: tokens x block_size of scratch, the gradient of a head's scores. */
static void attend_backward(real *dq_t, real *dk_t, real *dv_t, real *ds, const real *dout_t, const real *probs,
                            const real *q_t, const real *k_t, const real *v_t, size_t ld, const int32_t *position,
                            int n_embd, int n_head, int block_size, int n_tokens)
{
    const int head_dim = n_embd / n_head;
    const vec scale = set1(1 / SQRT(head_dim));
    for (int h = 0; h < n_head; h++, probs += block_size * ld) {
        const size_t head = h * head_dim * ld;
        for (int t = 0; t < n_tokens; t += W) {
            vec reach, mean = set1(0);
            const int lags = lags_back(&reach, position, t, n_tokens);
            const real *p = probs + t;
            real *d = ds + t;
            /* forward: out = sum over lags of p v, so dp = dout . v */
            all_scores(d, dout_t + head + t, v_t + head + t, ld, 1, head_dim, lags);
            /* forward: p = softmax(scale s), so ds = scale p (dp - sum of p dp) */
            vec left = reach;
            for (int lag = 0; lag < lags; lag++, left -= set1(1))
                mean = fmadd_some(load(p + lag * ld), load(d + lag * ld), mean, not_less(left, set1(0)));
            for (int lag = 0; lag < lags; lag++)
                store(d + lag * ld, load(p + lag * ld) * (load(d + lag * ld) - mean) * scale);
            gather_head(dq_t + head + t, d, ld, k_t + head + t, -1, ld, lags, reach, head_dim);
        }
        /* the gradient of a key or value sums over the later tokens of its document */
        for (int s = 0; s < n_tokens; s += W) {
            vec reach;
            const int lags = lags_ahead(&reach, position, s, n_tokens);
            gather_head(dk_t + head + s, ds + s, ld + 1, q_t + head + s, 1, ld, lags, reach, head_dim);
            gather_head(dv_t + head + s, probs + s, ld + 1, dout_t + head + s, 1, ld, lags, reach, head_dim);
        }
    }
}

void API(attention_backward)(real *dq, real *dk, real *dv, real *work, const real *dout, const real *probs,
                             const real *q, const real *k, const real *v, const int32_t *position, int n_embd,
                             int n_head, int block_size, int n_tokens, int accumulate)
{
    for (int start = 0, end; start < n_tokens; start = end) {
        end = chunk_end(position, start, n_tokens);
        const int n = end - start;
        const size_t ld = microgpt_token_rows(n), size = n_embd * ld, begin = (size_t)start * n_embd;
        real *q_t = work, *k_t = q_t + size, *v_t = k_t + size, *dout_t = v_t + size;
        real *dq_t = dout_t + size, *dk_t = dq_t + size, *dv_t = dk_t + size, *ds = dv_t + size;
        transpose_pad(q_t, ld, q + begin, n_embd, n_embd, n);
        transpose_pad(k_t, ld, k + begin, n_embd, n_embd, n);
        transpose_pad(v_t, ld, v + begin, n_embd, n_embd, n);
        transpose_pad(dout_t, ld, dout + begin, n_embd, n_embd, n);
        attend_backward(dq_t, dk_t, dv_t, ds, dout_t, probs, q_t, k_t, v_t, ld, position + start, n_embd, n_head,
                        block_size, n);
        (accumulate & 1 ? transpose_add : transpose)(dq + begin, n_embd, dq_t, ld, n, n_embd);
        (accumulate & 2 ? transpose_add : transpose)(dk + begin, n_embd, dk_t, ld, n, n_embd);
        (accumulate & 4 ? transpose_add : transpose)(dv + begin, n_embd, dv_t, ld, n, n_embd);
        probs += ld * n_head * block_size;
    }
}
