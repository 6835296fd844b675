/* The kernels except attention, each forward pass with its backward pass.  kernels.h defines what each one computes.

   f32.c and f64.c include this file, and define `real`.  Compile with -ffp-contract=off and without -ffast-math: then
   only fmadd fuses a multiply with an add, and AVX-512, AVX2, NEON and plain C give the same bits.

   m, k and n are the sizes of matrices, and ldx is the distance between the columns of x.  The compiler specializes an
   INLINE function for each constant that is passed as a `const int`. */

#include "common.h"
#include "kernels.h"
#include "vector.h"
#include "functions.h"

/* ---- transposing ---- */

/* dst = src^T, in blocks of W x W.  dst: cols x rows, leading dimension ldd; src: rows x cols, leading dimension lds.
   `pad` fills each column of dst with zeros up to a whole vector; `add` computes dst += src^T. */
INLINE void transpose_to(real *dst, size_t ldd, const real *src, size_t lds, int rows, int cols, const int pad,
                         const int add)
{
    for (int j = 0; j < cols; j += W) {
        const int width = cols - j < W ? cols - j : W;
        for (int i = 0; i < rows; i += W) {
            const int height = rows - i < W ? rows - i : W;
            const real *from = src + (size_t)j * lds + i;
            real *to = dst + (size_t)i * ldd + j;
            vec r[W];
            for (int l = 0; l < W; l++)
                r[l] = l < width ? load_left(from + l * lds, height) : set1(0);
            transpose_lanes(r);
            for (int l = 0; l < height; l++, to += ldd)
                store_left(to, add ? load_left(to, width) + r[l] : r[l], pad ? W : width);
        }
    }
}

static void transpose(real *dst, size_t ldd, const real *src, size_t lds, int rows, int cols)
{
    transpose_to(dst, ldd, src, lds, rows, cols, 0, 0);
}

static void transpose_pad(real *dst, size_t ldd, const real *src, size_t lds, int rows, int cols)
{
    transpose_to(dst, ldd, src, lds, rows, cols, 1, 0);
}

static void transpose_add(real *dst, size_t ldd, const real *src, size_t lds, int rows, int cols)
{
    transpose_to(dst, ldd, src, lds, rows, cols, 0, 1);
}

/* ---- matmul: one product computes y, dw and dx, which differ only in which matrix is transposed ----

   product() computes c = a b in tiles of up to TILE_HEIGHT vectors by TILE_WIDTH columns.  The sums of a tile stay in
   registers for the whole loop over k.  Each step of k loads one column of a, as high as the tile, and multiplies it by
   one number of b for each column of c. */

/* What the tiles of a strip share.  A strip of c is a row of tiles. */
struct strip {
    size_t ldc, lda, b_k, b_n;
    int k, accumulate;
    mask last; /* which rows of a tile's last vector exist */
};

/* One tile of c = a b or c += a b, `height` vectors high and `width` columns wide.  strip->last masks the last vector.
   Unrolling the loops keeps every `sum` in a register.  Element (i, p) of a is a[i + p*lda]; element (p, j) of b is
   b[p*b_k + j*b_n]. */
INLINE void tile(real *c, const real *a, const real *b, const struct strip *strip, const int height, const int width)
{
    const size_t ldc = strip->ldc, lda = strip->lda, b_k = strip->b_k, b_n = strip->b_n;
    const int k = strip->k, accumulate = strip->accumulate;
    const mask last = strip->last;
    vec sum[TILE_HEIGHT][12];
#pragma GCC unroll 12
    for (int j = 0; j < width; j++)
#pragma GCC unroll 4
        for (int i = 0; i < height; i++)
            sum[i][j] = accumulate ? load_some(c + j * ldc + i * W, i == height - 1 ? last : first(W)) : set1(0);
    for (int p = 0; p < k; p++) {
        vec column[TILE_HEIGHT];
        for (int i = 0; i < height - 1; i++)
            column[i] = load(a + i * W);
        column[height - 1] = load_some(a + (height - 1) * W, last);
#pragma GCC unroll 12
        for (int j = 0; j < width; j++) {
            const vec x = set1(b[j * b_n]);
            for (int i = 0; i < height; i++)
                sum[i][j] = fmadd(column[i], x, sum[i][j]);
        }
        a += lda;
        b += b_k;
    }
#pragma GCC unroll 12
    for (int j = 0; j < width; j++)
#pragma GCC unroll 4
        for (int i = 0; i < height; i++)
            store_some(c + j * ldc + i * W, sum[i][j], i == height - 1 ? last : first(W));
}

/* tiles[height][width] computes n_tiles tiles of that size, side by side.  Each size of tile has its own function. */
typedef void tile_function(real *c, const real *a, const real *b, const struct strip *strip, int n_tiles);

#define UP_TO_2(size, h) size(h, 1) size(h, 2)
#define UP_TO_6(size, h) UP_TO_2(size, h) size(h, 3) size(h, 4) size(h, 5) size(h, 6)
#define UP_TO_8(size, h) UP_TO_6(size, h) size(h, 7) size(h, 8)
#define UP_TO_12(size, h) UP_TO_8(size, h) size(h, 9) size(h, 10) size(h, 11) size(h, 12)
#if W == 1
#define TILES(size) UP_TO_2(size, 1) UP_TO_2(size, 2) UP_TO_2(size, 3) UP_TO_2(size, 4)
#elif TILE_HEIGHT == 2
#define TILES(size) UP_TO_12(size, 1) UP_TO_6(size, 2)
#else
#define TILES(size) UP_TO_12(size, 1) UP_TO_12(size, 2) UP_TO_8(size, 3) UP_TO_6(size, 4)
#endif

#define DEFINE_TILE(height, width)                                                                                    \
    static void tiles_##height##x##width(real *c, const real *a, const real *b, const struct strip *strip, int n)    \
    {                                                                                                                 \
        for (; n > 0; n--, c += width * strip->ldc, b += width * strip->b_n)                                          \
            tile(c, a, b, strip, height, width);                                                                      \
    }
TILES(DEFINE_TILE)

#define TILE_ENTRY(height, width) [height][width] = tiles_##height##x##width,
static tile_function *const tiles[TILE_HEIGHT + 1][13] = {TILES(TILE_ENTRY)};

/* A panel is a copy of PANEL_ROWS rows and up to PANEL_DEPTH columns of a, contiguous column by column, so that tiles
   read memory in order.  If c has fewer than MIN_COLUMNS_TO_PACK columns, packing costs more than it saves. */
enum { PANEL_ROWS = TILE_HEIGHT * W, PANEL_DEPTH = 384, MIN_COLUMNS_TO_PACK = 192 };

static void pack(real *panel, const real *a, size_t a_m, size_t a_k, int rows, int depth)
{
    if (a_m != 1)
        transpose(panel, PANEL_ROWS, a, a_m, depth, rows);
    else
        for (int p = 0; p < depth; p++)
            for (int i = 0; i < rows; i += W)
                store(panel + p * PANEL_ROWS + i, load_some(a + p * a_k + i, first(rows - i)));
}

/* c = a b or c += a b.  c: m x n, a: m x k, b: k x n.  Element (i, p) of a is a[i*a_m + p*a_k], where a_m or a_k is 1;
   element (p, j) of b is b[p*b_k + j*b_n].  Each element of c adds its products in the order of p, in any tiling. */
static void product(real *c, size_t ldc, const real *a, size_t a_m, size_t a_k, const real *b, size_t b_k, size_t b_n,
                    int m, int n, int k, int accumulate)
{
    real panel[PANEL_DEPTH * PANEL_ROWS];
    if (n == 0)
        return;
    if (m > 0 && k == 0 && !accumulate)
        for (int j = 0; j < n; j++)
            memset(c + j * ldc, 0, m * sizeof *c);
    for (int p = 0; p < k; p += PANEL_DEPTH) {
        const int depth = k - p < PANEL_DEPTH ? k - p : PANEL_DEPTH;
        struct strip strip = {.ldc = ldc, .b_k = b_k, .b_n = b_n, .k = depth, .accumulate = accumulate || p > 0};
        for (int i = 0; i < m; i += PANEL_ROWS) {
            const int rows = m - i < PANEL_ROWS ? m - i : PANEL_ROWS, height = (rows + W - 1) / W;
            const real *block = a + i * a_m + p * a_k;
            strip.lda = a_k;
            strip.last = first(rows - (height - 1) * W);
            if (a_m != 1 || n >= MIN_COLUMNS_TO_PACK) {
                pack(panel, block, a_m, a_k, rows, depth);
                block = panel;
                strip.lda = PANEL_ROWS;
            }
            const int widest = TILE_WIDTH(height), n_tiles = (n + widest - 1) / widest;
            const int narrow = n / n_tiles, n_wide = n % n_tiles; /* nearly equal widths: 7 columns are 4 + 3 */
            real *tile_c = c + i;
            const real *tile_b = b + p * b_k;
            if (n_wide > 0)
                tiles[height][narrow + 1](tile_c, block, tile_b, &strip, n_wide);
            const size_t done = (size_t)n_wide * (narrow + 1);
            tiles[height][narrow](tile_c + done * ldc, block, tile_b + done * b_n, &strip, n_tiles - n_wide);
        }
    }
}

void API(matmul_forward)(real *y, const real *w, const real *x, int m, int k, int n, int ldy, int ldw, int ldx)
{
    product(y, ldy, w, 1, ldw, x, 1, ldx, m, n, k, 0);
}

void API(matmul_backward)(real *dw, real *dx, const real *dy, const real *w, const real *x, int m, int k, int n,
                          int lddw, int lddx, int lddy, int ldw, int ldx, int accumulate)
{
    if (dw) /* m x k: dy x^T sums over the n tokens */
        product(dw, lddw, dy, 1, lddy, x, ldx, 1, m, k, n, accumulate & 1);
    if (dx) /* k x n: w^T dy sums over the m rows of w */
        product(dx, lddx, w, ldw, 1, dy, 1, lddy, k, n, m, accumulate & 2);
}

/* ---- column by column: softmax and rmsnorm ---- */

/* the dot product of a and b, in LANES partial sums */
INLINE real dot(const real *a, const real *b, int m)
{
    vec sum[LANES / W] = {0};
    ptrdiff_t i = 0;
    for (; m - i >= LANES; i += LANES)
        for (int l = 0; l < LANES / W; l++)
            sum[l] = fmadd(load(a + i + l * W), load(b + i + l * W), sum[l]);
    for (int l = 0; i < m; l++, i += W)
        /* lanes past the end keep their sum: adding 0 would turn -0 into 0, for some widths and not for others */
        sum[l] = fmadd_some(load_left(a + i, m - i), load_left(b + i, m - i), sum[l], first(m - i));
    return reduce(sum);
}

INLINE real largest(const real *x, int m)
{
    vec top = set1(x[0]);
    ptrdiff_t i = 0;
    for (; m - i >= W; i += W)
        top = max(top, load(x + i));
    const mask rest = first(m - i);
    top = choose(rest, max(top, load_some(x + i, rest)), top);
    return lane0(max_lanes(top));
}

/* p = exp(x - top); returns the sum of p, added in LANES partial sums */
INLINE real exp_column(real *p, const real *x, real top, int m)
{
    vec sum[LANES / W] = {0};
    ptrdiff_t i = 0;
    for (; m - i >= LANES; i += LANES)
        for (int l = 0; l < LANES / W; l++) {
            const vec e = exp_nonpositive(load(x + i + l * W) - top, EXP_MIN);
            store(p + i + l * W, e);
            sum[l] += e;
        }
    for (int l = 0; i < m; l++, i += W) {
        const vec e = exp_nonpositive(load_left(x + i, m - i) - top, EXP_MIN);
        store_left(p + i, e, m - i);
        sum[l] += choose(first(m - i), e, set1(0));
    }
    return reduce(sum);
}

INLINE void scale_column(real *y, const real *x, real by, int m)
{
    for (ptrdiff_t i = 0; i < m; i += W)
        store_left(y + i, load_left(x + i, m - i) * by, m - i);
}

/* Whether to process the columns from last to first.  Processors first compare only the low 12 bits of addresses, so a
   load waits for an earlier store that agrees in these bits.  If `out` starts less than half a page after `in`, modulo
   4096, the loads of the next columns would match the stores of this one.  In reverse order they do not. */
INLINE int backwards(const void *out, const void *in) { return ((uintptr_t)out - (uintptr_t)in) % 4096 < 2048; }

/* call(m) for every column j.  m is a constant for common sizes: a column then stays in registers between passes. */
#define EACH_COLUMN(out, in, call)            \
    const int from_last = backwards(out, in); \
    switch (m) {                              \
    case 16:                                  \
        COLUMNS(call, 16)                     \
        break;                                \
    case 32:                                  \
        COLUMNS(call, 32)                     \
        break;                                \
    case 64:                                  \
        COLUMNS(call, 64)                     \
        break;                                \
    default:                                  \
        COLUMNS(call, m)                      \
    }
#define COLUMNS(call, m)                            \
    for (int i = 0; i < n; i++) {                   \
        const size_t j = from_last ? n - 1 - i : i; \
        call(m);                                    \
    }

INLINE void softmax_column(real *restrict p, const real *restrict x, int m)
{
    if (m == 0)
        return;
    const real sum = exp_column(p, x, largest(x, m), m);
    scale_column(p, p, 1 / sum, m);
}

#define SOFTMAX(m) softmax_column(p + j * ldp, x + j * ldx, m)
void API(softmax_forward)(real *p, const real *x, int m, int n, int ldp, int ldx) { EACH_COLUMN(p, x, SOFTMAX); }

INLINE void softmax_column_backward(real *restrict dx, const real *restrict dp, const real *restrict p, int m,
                                    int accumulate)
{
    const real mean = dot(dp, p, m); /* of dp, weighted by the probabilities p */
    for (ptrdiff_t i = 0; i < m; i += W) {
        const vec d = load_left(dp + i, m - i) - mean, before = accumulate & 1 ? load_left(dx + i, m - i) : set1(0);
        store_left(dx + i, fmadd(load_left(p + i, m - i), d, before), m - i);
    }
}

#define SOFTMAX_BACKWARD(m) softmax_column_backward(dx + j * lddx, dp + j * lddp, p + j * ldp, m, accumulate)
void API(softmax_backward)(real *dx, const real *dp, const real *p, int m, int n, int lddx, int lddp, int ldp,
                           int accumulate)
{
    EACH_COLUMN(dx, p, SOFTMAX_BACKWARD);
}

INLINE void rmsnorm_column(real *restrict y, real *restrict rstd, const real *restrict x, real eps, int m)
{
    *rstd = 1 / SQRT(dot(x, x, m) / m + eps);
    scale_column(y, x, *rstd, m);
}

#define RMSNORM(m) rmsnorm_column(y + j * ldy, rstd + j, x + j * ldx, eps, m)
void API(rmsnorm_forward)(real *y, real *rstd, const real *x, real eps, int m, int n, int ldy, int ldx)
{
    EACH_COLUMN(y, x, RMSNORM);
}

INLINE void rmsnorm_column_backward(real *restrict dx, const real *restrict dy, const real *restrict y, real rstd,
                                    int m, int accumulate)
{
    /* forward: y = x rstd, and d rstd / dx = -rstd^3 x / m = -rstd^2 y / m */
    const vec mean = set1(dot(dy, y, m) / m), scale = set1(rstd);
    for (ptrdiff_t i = 0; i < m; i += W) {
        const vec d = fmadd(set1(0) - mean, load_left(y + i, m - i), load_left(dy + i, m - i));
        const vec before = accumulate & 1 ? load_left(dx + i, m - i) : set1(0);
        store_left(dx + i, fmadd(scale, d, before), m - i);
    }
}

#define RMSNORM_BACKWARD(m) rmsnorm_column_backward(dx + j * lddx, dy + j * lddy, y + j * ldy, rstd[j], m, accumulate)
void API(rmsnorm_backward)(real *dx, const real *dy, const real *y, const real *rstd, int m, int n, int lddx, int lddy,
                           int ldy, int accumulate)
{
    EACH_COLUMN(dx, y, RMSNORM_BACKWARD);
}

/* ---- elementwise ---- */

void API(relu_forward)(real *y, const real *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = 0 > x[i] ? 0 : x[i]; /* NaN stays NaN */
}

void API(relu_backward)(real *dx, const real *dy, const real *y, size_t n, int accumulate)
{
    for (size_t i = 0; i < n; i += W) {
        const ptrdiff_t left = n - i;
        const mask on = less(set1(0), load_left(y + i, left));
        const vec d = choose(on, load_left(dy + i, left), set1(0));
        const vec before = accumulate & 1 ? load_left(dx + i, left) : set1(0);
        store_left(dx + i, before + d, left); /* never writes -0 when overwriting, because 0 + -0 is 0 */
    }
}

void API(add_forward)(real *y, const real *a, const real *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

/* d = dy, or d += dy */
INLINE void add_to(real *d, const real *dy, size_t n, int accumulate)
{
    if (accumulate)
        API(add_forward)(d, d, dy, n);
    else if (n > 0)
        memcpy(d, dy, n * sizeof *d);
}

void API(add_backward)(real *da, real *db, const real *dy, size_t n, int accumulate)
{
    if (da)
        add_to(da, dy, n, accumulate & 1);
    if (db)
        add_to(db, dy, n, accumulate & 2);
}

/* ---- embedding ---- */

void API(embedding_forward)(real *x, const real *wte, const real *wpe, const int32_t *token, const int32_t *position,
                            int n_embd, int n_tokens)
{
    for (int t = 0; t < n_tokens; t++)
        API(add_forward)(x + (size_t)t * n_embd, wte + (size_t)token[t] * n_embd, wpe + (size_t)position[t] * n_embd,
                         n_embd);
}

/* d[:, i] = or += the sum of the columns t of dx with index[t] = first + i, in order.  d: n_embd x n_columns. */
static void scatter_add(real *d, const real *dx, const int32_t *index, int n_embd, int first, int n_columns,
                        int n_tokens, int accumulate)
{
    if (n_embd > 0 && n_columns > 0 && !accumulate)
        memset(d, 0, (size_t)n_embd * n_columns * sizeof *d);
    for (int t = 0; t < n_tokens; t++, dx += n_embd)
        if (index[t] >= first && index[t] - first < n_columns) {
            real *to = d + (size_t)(index[t] - first) * n_embd;
            API(add_forward)(to, to, dx, n_embd);
        }
}

/* microgpt_embedding_backward for a part of the tables: column 0 of dwte and dwpe is column `first` of the whole. */
static void embedding_backward(real *dwte, real *dwpe, const real *dx, const int32_t *token, const int32_t *position,
                               int n_embd, int first, int vocab_size, int block_size, int n_tokens, int accumulate)
{
    if (dwte)
        scatter_add(dwte, dx, token, n_embd, first, vocab_size, n_tokens, accumulate & 1);
    if (dwpe)
        scatter_add(dwpe, dx, position, n_embd, first, block_size, n_tokens, accumulate & 2);
}

void API(embedding_backward)(real *dwte, real *dwpe, const real *dx, const int32_t *token, const int32_t *position,
                             int n_embd, int vocab_size, int block_size, int n_tokens, int accumulate)
{
    embedding_backward(dwte, dwpe, dx, token, position, n_embd, 0, vocab_size, block_size, n_tokens, accumulate);
}

/* ---- cross-entropy: softmax and -log together ---- */

void API(cross_entropy_forward)(real *losses, real *probs, real *loss, const real *logits, const int32_t *target,
                                const real *weight, int m, int n)
{
    /* -log p[target] = log(sum exp(x - max)) - (x[target] - max).  The sum contains exp(0), so it is at least 1. */
    for (int j = 0; j < n; j += W) {
        const int columns = n - j < W ? n - j : W;
        real top[W], sum[W] = {0}, picked[W] = {0};
        for (int l = 0; l < columns; l++, logits += m) {
            top[l] = largest(logits, m);
            sum[l] = exp_column(probs + (size_t)l * m, logits, top[l], m);
            picked[l] = logits[target[j + l]] - top[l];
        }
        for (int l = 0; l < columns; l++, probs += m)
            scale_column(probs, probs, 1 / sum[l], m);
        store_left(losses + j, log_from_one(load(sum)) - load(picked), columns);
    }
    if (loss)
        API(cross_entropy_sum)(loss, losses, weight, n);
}

void API(cross_entropy_sum)(real *loss, const real *losses, const real *weight, int n)
{
    real sum = 0;
    for (int j = 0; j < n; j++)
        sum = FMA(weight[j], losses[j], sum);
    *loss = sum;
}

void API(cross_entropy_backward)(real *dlogits, const real *probs, const int32_t *target, const real *weight, int m,
                                 int n, int accumulate)
{
    for (int j = 0; j < n; j++, dlogits += m, probs += m) {
        const vec w = set1(weight[j]);
        for (ptrdiff_t i = 0; i < m; i += W) {
            const vec p = drop_tiny(load_left(probs + i, m - i), TINY);
            const vec before = accumulate & 1 ? load_left(dlogits + i, m - i) : set1(0);
            store_left(dlogits + i, fmadd(w, p, before), m - i);
        }
        dlogits[target[j]] -= weight[j]; /* d -log p[target] / dx = p - onehot(target) */
    }
}

/* ---- Adam ----

   A tiny gradient has a subnormal square, and m and v become subnormal while gradients stay 0.  Subnormal numbers are
   slow, so drop_tiny replaces these by 0 earlier, when they are already far too small to matter beside eps. */

void API(adam)(real *param, real *m, real *v, const real *grad, double learning_rate, double beta1, double beta2,
               double eps, double m_correction, double v_correction, size_t n)
{
    const vec b1 = set1(beta1), b2 = set1(beta2), c1 = set1(1 - beta1), c2 = set1(1 - beta2);
    const vec rate = set1(-learning_rate / m_correction), widen = set1(1 / v_correction);
    const vec eps_ = set1(eps);
    for (size_t i = 0; i < n; i += W) {
        const ptrdiff_t left = n - i;
        const vec g = drop_tiny(load_left(grad + i, left), TINY);
        const vec m_ = fmadd(b1, load_left(m + i, left), c1 * g);
        const vec v_ = fmadd(b2, load_left(v + i, left), c2 * (g * g));
        const vec root = square_root(v_ * widen) + eps_;
        store_left(m + i, drop_tiny(m_, TINY_STATE), left);
        store_left(v + i, drop_tiny(v_, TINY_STATE), left);
        store_left(param + i, fmadd(rate, m_ / root, load_left(param + i, left)), left);
    }
}
