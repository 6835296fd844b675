/* The kernels of microgpt: every forward pass with its backward pass, for float (_f32) and double (_f64).

   This file is C's header and, word for word, cffi's cdef; include <stddef.h> and <stdint.h> before it.

   Matrices are column-major: element (i, j) of an m x n matrix with leading dimension ld >= m is at [j*ld + i]; where no
   ld is given, ld = m.  An activation is features x tokens, one column per token.  Arguments: outputs, inputs, sizes.
   Forward overwrites its outputs (=); backward accumulates into the gradients (+=), and backward_set, where there is
   one, overwrites them.
   Outputs overlap nothing else.  Sizes are from 0 to 2^30 - 1, a size_t n may be more; an empty matrix is allowed.
   Kernels allocate nothing (but matmul takes 100 KB of stack), keep no state and cannot fail; checking arguments is the
   caller's part.
   The bits of a result do not depend on the instruction set, but for which NaN a NaN is.  A column of a forward result
   depends on that column alone, unless the comment says otherwise. */

/* Every sum down a column runs in so many partial sums, whatever the width of a vector. */
enum { LANES = 16 };

/* y = w x.  w: m x k, x: k x n, y: m x n.  Sums run over k in order, by fused multiply-adds. */
void matmul_forward_f32(float *y, const float *w, const float *x, int m, int k, int n, int ldy, int ldw, int ldx);
void matmul_forward_f64(double *y, const double *w, const double *x, int m, int k, int n, int ldy, int ldw, int ldx);
/* dw += dy x^T, dx += w^T dy.  dw or dx may be NULL, and is then left out. */
void matmul_backward_f32(float *dw, float *dx, const float *dy, const float *w, const float *x,
                         int m, int k, int n, int lddw, int lddx, int lddy, int ldw, int ldx);
void matmul_backward_f64(double *dw, double *dx, const double *dy, const double *w, const double *x,
                         int m, int k, int n, int lddw, int lddx, int lddy, int ldw, int ldx);
void matmul_backward_set_f32(float *dw, float *dx, const float *dy, const float *w, const float *x,
                             int m, int k, int n, int lddw, int lddx, int lddy, int ldw, int ldx);
void matmul_backward_set_f64(double *dw, double *dx, const double *dy, const double *w, const double *x,
                             int m, int k, int n, int lddw, int lddx, int lddy, int ldw, int ldx);

/* p[:, j] = exp(x[:, j]) / sum(exp(x[:, j])).  All m x n.  A column with a NaN or +inf, or all -inf, becomes NaN;
   an exp(x - max x) that would be subnormal counts as 0. */
void softmax_forward_f32(float *p, const float *x, int m, int n, int ldp, int ldx);
void softmax_forward_f64(double *p, const double *x, int m, int n, int ldp, int ldx);
/* dx[:, j] += p (dp - sum(dp p)). */
void softmax_backward_f32(float *dx, const float *dp, const float *p, int m, int n, int lddx, int lddp, int ldp);
void softmax_backward_f64(double *dx, const double *dp, const double *p, int m, int n, int lddx, int lddp, int ldp);
void softmax_backward_set_f32(float *dx, const float *dp, const float *p, int m, int n, int lddx, int lddp, int ldp);
void softmax_backward_set_f64(double *dx, const double *dp, const double *p, int m, int n, int lddx, int lddp, int ldp);

/* y[:, j] = x[:, j] rstd[j] with rstd[j] = 1 / sqrt(mean(x[:, j]^2) + eps).  x, y: m x n, rstd: n. */
void rmsnorm_forward_f32(float *y, float *rstd, const float *x, float eps, int m, int n, int ldy, int ldx);
void rmsnorm_forward_f64(double *y, double *rstd, const double *x, double eps, int m, int n, int ldy, int ldx);
/* dx[:, j] += rstd[j] (dy - y mean(dy y)). */
void rmsnorm_backward_f32(float *dx, const float *dy, const float *y, const float *rstd,
                          int m, int n, int lddx, int lddy, int ldy);
void rmsnorm_backward_f64(double *dx, const double *dy, const double *y, const double *rstd,
                          int m, int n, int lddx, int lddy, int ldy);
void rmsnorm_backward_set_f32(float *dx, const float *dy, const float *y, const float *rstd,
                              int m, int n, int lddx, int lddy, int ldy);
void rmsnorm_backward_set_f64(double *dx, const double *dy, const double *y, const double *rstd,
                              int m, int n, int lddx, int lddy, int ldy);

/* x[:, t] = wte[:, token[t]] + wpe[:, position[t]].  x: n_embd x n_tokens. */
void embedding_forward_f32(float *x, const float *wte, const float *wpe, const int32_t *token, const int32_t *position,
                           int n_embd, int n_tokens);
void embedding_forward_f64(double *x, const double *wte, const double *wpe, const int32_t *token,
                           const int32_t *position, int n_embd, int n_tokens);
/* dwte[:, token[t]] += dx[:, t], dwpe[:, position[t]] += dx[:, t], for t in order. */
void embedding_backward_f32(float *dwte, float *dwpe, const float *dx, const int32_t *token, const int32_t *position,
                            int n_embd, int n_tokens);
void embedding_backward_f64(double *dwte, double *dwpe, const double *dx, const int32_t *token,
                            const int32_t *position, int n_embd, int n_tokens);

/* Causal multi-head attention within each document of a packed batch.  q, k, v, out: n_embd x n_tokens; head h has the
   n_embd / n_head rows from h n_embd / n_head on, and n_head divides n_embd.  position[t] is the place of token t in its
   document: 0 at each beginning and then 1, 2, ... below block_size, which is at most 2^24.  Token t looks back
   lag = 0 .. position[t] tokens:
     p[t, lag] = softmax over lag of (q_h[:, t] . k_h[:, t - lag]) / sqrt(n_embd / n_head)
     out_h[:, t] = sum over lag of p[t, lag] v_h[:, t - lag]
   A weight p below 2^-52 (float) or 2^-460 (double) of the largest is 0.
   probs: R x n_head block_size, R being attention_rows(n_tokens): the weights, in an order that only the backward pass
   need know.  work: R x 4 n_embd of scratch, of which so much is used as 256 tokens need, or a document more. */
void attention_forward_f32(float *out, float *probs, float *work, const float *q, const float *k, const float *v,
                           const int32_t *position, int n_embd, int n_head, int block_size, int n_tokens);
void attention_forward_f64(double *out, double *probs, double *work, const double *q, const double *k, const double *v,
                           const int32_t *position, int n_embd, int n_head, int block_size, int n_tokens);
/* dq, dk, dv += the gradients.  work: R x (7 n_embd + block_size) of scratch, likewise. */
void attention_backward_f32(float *dq, float *dk, float *dv, float *work, const float *dout, const float *probs,
                            const float *q, const float *k, const float *v, const int32_t *position, int n_embd,
                            int n_head, int block_size, int n_tokens);
void attention_backward_f64(double *dq, double *dk, double *dv, double *work, const double *dout, const double *probs,
                            const double *q, const double *k, const double *v, const int32_t *position, int n_embd,
                            int n_head, int block_size, int n_tokens);
/* One more token for each of n_tokens documents of equal length: the same numbers as attention_forward, from a cache.
   position[t] is the same for all t, and n_tokens is what it was at the earlier positions.  With P for
   token_rows(n_tokens), keys, values: P x n_embd for each position; this one's are written, the earlier ones read.
   probs: P x n_head block_size and work: P x 2 n_embd, of scratch. */
void attention_cached_f32(float *out, float *probs, float *keys, float *values, float *work, const float *q,
                          const float *k, const float *v, const int32_t *position, int n_embd, int n_head,
                          int block_size, int n_tokens);
void attention_cached_f64(double *out, double *probs, double *keys, double *values, double *work, const double *q,
                          const double *k, const double *v, const int32_t *position, int n_embd, int n_head,
                          int block_size, int n_tokens);
/* How many rows the arrays have down whose columns n_tokens tokens run: attention_rows for probs and work of
   attention_forward and attention_backward, token_rows for all of attention_cached. */
size_t attention_rows(int n_tokens);
size_t token_rows(int n_tokens);

/* y = max(0, x), n elements. */
void relu_forward_f32(float *y, const float *x, size_t n);
void relu_forward_f64(double *y, const double *x, size_t n);
/* dx += dy where y > 0. */
void relu_backward_f32(float *dx, const float *dy, const float *y, size_t n);
void relu_backward_f64(double *dx, const double *dy, const double *y, size_t n);

/* y = a + b, n elements. */
void add_forward_f32(float *y, const float *a, const float *b, size_t n);
void add_forward_f64(double *y, const double *a, const double *b, size_t n);
/* da += dy, db += dy. */
void add_backward_f32(float *da, float *db, const float *dy, size_t n);
void add_backward_f64(double *da, double *db, const double *dy, size_t n);

/* probs = softmax(logits) down each column, losses[j] = -log probs[target[j], j], loss[0] = sum over j of
   weight[j] losses[j].  logits, probs: m x n; the others n.  loss depends on all columns. */
void cross_entropy_forward_f32(float *loss, float *losses, float *probs, const float *logits, const int32_t *target,
                               const float *weight, int m, int n);
void cross_entropy_forward_f64(double *loss, double *losses, double *probs, const double *logits,
                               const int32_t *target, const double *weight, int m, int n);
/* dlogits[:, j] += weight[j] (probs[:, j] - onehot(target[j])): the gradient of loss.  A probability below 2^-52 (float)
   or 2^-460 (double) counts as 0. */
void cross_entropy_backward_f32(float *dlogits, const float *probs, const int32_t *target, const float *weight,
                                int m, int n);
void cross_entropy_backward_f64(double *dlogits, const double *probs, const int32_t *target, const double *weight,
                                int m, int n);

/* One step of Adam on n parameters: m = beta1 m + (1 - beta1) grad, v = beta2 v + (1 - beta2) grad^2,
   param -= learning_rate (m / m_correction) / (sqrt(v / v_correction) + eps), x_correction being 1 - beta^t at step t.
   A grad below 2^-52 (float) or 2^-460 (double) counts as 0, and an m or v below 2^-108 or 2^-924 becomes 0, so eps
   should be 1e-12 or more.  Where grad^2 overflows, param becomes NaN. */
void adam_f32(float *param, float *m, float *v, const float *grad, double learning_rate, double beta1, double beta2,
              double eps, double m_correction, double v_correction, size_t n);
void adam_f64(double *param, double *m, double *v, const double *grad, double learning_rate, double beta1, double beta2,
              double eps, double m_correction, double v_correction, size_t n);

/* The best instruction set of this machine: 2 AVX-512, 1 AVX2 with FMA or NEON, 0 none of them. */
int best_isa(void);
/* Name and version of the compiler these kernels were built with. */
const char *compiler(void);

/* A program: kernel calls whose arrays and sizes were written down once, run by one call.  `array` holds a call's
   pointers and `size` its sizes, in the order of the kernel's arguments; what differs from step to step (token,
   position, target, weight and n_tokens, the number of columns) comes from the batch. */
enum kernel {
    ZERO, /* array[0], size[0] * n_tokens + size[1] elements = 0 */
    MATMUL_FORWARD,
    MATMUL_BACKWARD,
    SOFTMAX_FORWARD,
    SOFTMAX_BACKWARD,
    RMSNORM_FORWARD,
    RMSNORM_BACKWARD,
    EMBEDDING_FORWARD,
    EMBEDDING_BACKWARD,
    ATTENTION_FORWARD,
    ATTENTION_BACKWARD,
    ATTENTION_CACHED,
    RELU_FORWARD,
    RELU_BACKWARD,
    ADD_FORWARD,
    CROSS_ENTROPY_FORWARD,
    CROSS_ENTROPY_BACKWARD
};
struct call {
    enum kernel kernel;
    int size[3];
    int set; /* 1: the first gradient is set instead of added to, 2: the second, 4: the third; never an embedding's */
    double eps;
    void *array[9];
};
struct batch {
    const int32_t *token, *position, *target;
    const void *weight;
};
/* Run the calls on columns start .. start + n_tokens of the batch's arrays. */
void run_f32(const struct call *call, int n_calls, const struct batch *batch, int start, int n_tokens);
void run_f64(const struct call *call, int n_calls, const struct batch *batch, int start, int n_tokens);
