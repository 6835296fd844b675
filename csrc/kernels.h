/* The kernels of microgpt: every forward pass with its backward pass, for float (_f32) and double (_f64).

   Compile f32.c, f64.c and common.c, with -ffp-contract=off and no part of -ffast-math, and link the mathematical
   library (-lm).

   Matrices are column-major: element (i, j) of an m x n matrix with leading dimension ld >= m is at [j*ld + i]; where no
   ld is given, ld = m.  An activation is features x tokens, one column per token.  Arguments: outputs, inputs, sizes.
   A forward kernel overwrites its outputs.  A backward kernel overwrites its gradients or adds to them, as `accumulate`
   says: with bit i set it adds to the i-th of them, in the order of the arguments, and otherwise overwrites it; so 0
   overwrites them all and -1 adds to all.
   Outputs overlap nothing else, and neither they nor scratch need to hold anything before.  Sizes are from 0 to
   2^30 - 1, a size_t n may be more; an empty matrix is allowed.
   Kernels allocate nothing, keep no state and cannot fail; checking arguments is the caller's part.  Each is the work of
   the thread that calls it, and callers may share out columns.  matmul takes up to 100 KB of stack.
   The bits of a result do not depend on the instruction set, but for which NaN a NaN is.  They are those of a thread that
   rounds to nearest and keeps subnormal numbers; one that was told otherwise gets what it asked for.
   A column of a forward result depends on that column alone, unless the comment says otherwise. */

#ifndef MICROGPT_KERNELS_H
#define MICROGPT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* y = w x.  w: m x k, x: k x n, y: m x n.  Sums run over k in order, by fused multiply-adds. */
void microgpt_matmul_forward_f32(float *y, const float *w, const float *x, int m, int k, int n, int ldy, int ldw,
                                 int ldx);
void microgpt_matmul_forward_f64(double *y, const double *w, const double *x, int m, int k, int n, int ldy, int ldw,
                                 int ldx);
/* dw = dy x^T, dx = w^T dy.  dw or dx may be NULL, and is then left out. */
void microgpt_matmul_backward_f32(float *dw, float *dx, const float *dy, const float *w, const float *x, int m, int k,
                                  int n, int lddw, int lddx, int lddy, int ldw, int ldx, int accumulate);
void microgpt_matmul_backward_f64(double *dw, double *dx, const double *dy, const double *w, const double *x, int m,
                                  int k, int n, int lddw, int lddx, int lddy, int ldw, int ldx, int accumulate);

/* p[:, j] = exp(x[:, j]) / sum(exp(x[:, j])).  All m x n.  A column with a NaN or +inf, or all -inf, becomes NaN;
   an exp(x - max x) that would be subnormal counts as 0. */
void microgpt_softmax_forward_f32(float *p, const float *x, int m, int n, int ldp, int ldx);
void microgpt_softmax_forward_f64(double *p, const double *x, int m, int n, int ldp, int ldx);
/* dx[:, j] = p (dp - sum(dp p)). */
void microgpt_softmax_backward_f32(float *dx, const float *dp, const float *p, int m, int n, int lddx, int lddp,
                                   int ldp, int accumulate);
void microgpt_softmax_backward_f64(double *dx, const double *dp, const double *p, int m, int n, int lddx, int lddp,
                                   int ldp, int accumulate);

/* y[:, j] = x[:, j] rstd[j] with rstd[j] = 1 / sqrt(mean(x[:, j]^2) + eps).  x, y: m x n, rstd: n.
   Where the sum of squares is beyond the type (one |x| of 1.8e19 in float, of 1.3e154 in double), rstd and y are 0. */
void microgpt_rmsnorm_forward_f32(float *y, float *rstd, const float *x, float eps, int m, int n, int ldy, int ldx);
void microgpt_rmsnorm_forward_f64(double *y, double *rstd, const double *x, double eps, int m, int n, int ldy, int ldx);
/* dx[:, j] = rstd[j] (dy - y mean(dy y)). */
void microgpt_rmsnorm_backward_f32(float *dx, const float *dy, const float *y, const float *rstd, int m, int n,
                                   int lddx, int lddy, int ldy, int accumulate);
void microgpt_rmsnorm_backward_f64(double *dx, const double *dy, const double *y, const double *rstd, int m, int n,
                                   int lddx, int lddy, int ldy, int accumulate);

/* x[:, t] = wte[:, token[t]] + wpe[:, position[t]].  x: n_embd x n_tokens. */
void microgpt_embedding_forward_f32(float *x, const float *wte, const float *wpe, const int32_t *token,
                                    const int32_t *position, int n_embd, int n_tokens);
void microgpt_embedding_forward_f64(double *x, const double *wte, const double *wpe, const int32_t *token,
                                    const int32_t *position, int n_embd, int n_tokens);
/* dwte[:, token[t]] += dx[:, t], dwpe[:, position[t]] += dx[:, t], for t in order, from 0 or from what they hold.
   dwte: n_embd x vocab_size, dwpe: n_embd x block_size.  Either may be NULL, and is then left out. */
void microgpt_embedding_backward_f32(float *dwte, float *dwpe, const float *dx, const int32_t *token,
                                     const int32_t *position, int n_embd, int vocab_size, int block_size, int n_tokens,
                                     int accumulate);
void microgpt_embedding_backward_f64(double *dwte, double *dwpe, const double *dx, const int32_t *token,
                                     const int32_t *position, int n_embd, int vocab_size, int block_size, int n_tokens,
                                     int accumulate);

/* Causal multi-head attention within each document of a packed batch.  q, k, v, out: n_embd x n_tokens; head h has the
   n_embd / n_head rows from h n_embd / n_head on, and n_head divides n_embd.  position[t] is the place of token t in its
   document: 0 at each beginning and then 1, 2, ... below block_size, which is at most 2^24.  Token t looks back
   lag = 0 .. position[t] tokens:
     p[t, lag] = softmax over lag of (q_h[:, t] . k_h[:, t - lag]) / sqrt(n_embd / n_head)
     out_h[:, t] = sum over lag of p[t, lag] v_h[:, t - lag]
   A weight p below 2^-52 (float) or 2^-460 (double) of the largest is 0.
   probs: R x n_head block_size, R being microgpt_attention_rows(n_tokens): the weights, in an order that only the
   backward pass need know.  work: R x 4 n_embd of scratch, of which only the first rows are touched: those for 256
   tokens and one more document. */
void microgpt_attention_forward_f32(float *out, float *probs, float *work, const float *q, const float *k,
                                    const float *v, const int32_t *position, int n_embd, int n_head, int block_size,
                                    int n_tokens);
void microgpt_attention_forward_f64(double *out, double *probs, double *work, const double *q, const double *k,
                                    const double *v, const int32_t *position, int n_embd, int n_head, int block_size,
                                    int n_tokens);
/* dq, dk, dv: n_embd x n_tokens.  work: R x (7 n_embd + block_size) of scratch, likewise. */
void microgpt_attention_backward_f32(float *dq, float *dk, float *dv, float *work, const float *dout,
                                     const float *probs, const float *q, const float *k, const float *v,
                                     const int32_t *position, int n_embd, int n_head, int block_size, int n_tokens,
                                     int accumulate);
void microgpt_attention_backward_f64(double *dq, double *dk, double *dv, double *work, const double *dout,
                                     const double *probs, const double *q, const double *k, const double *v,
                                     const int32_t *position, int n_embd, int n_head, int block_size, int n_tokens,
                                     int accumulate);
/* One more token for each of n_tokens documents of equal length: the same numbers as attention_forward, from a cache.
   position[t] is the same for all t, and n_tokens is what it was at the earlier positions.  With P for
   microgpt_token_rows(n_tokens), keys, values: P x n_embd for each position; this one's are written, the earlier ones
   read.  probs: P x n_head block_size and work: P x 2 n_embd, of scratch. */
void microgpt_attention_cached_f32(float *out, float *probs, float *keys, float *values, float *work, const float *q,
                                   const float *k, const float *v, const int32_t *position, int n_embd, int n_head,
                                   int block_size, int n_tokens);
void microgpt_attention_cached_f64(double *out, double *probs, double *keys, double *values, double *work,
                                   const double *q, const double *k, const double *v, const int32_t *position,
                                   int n_embd, int n_head, int block_size, int n_tokens);
/* How many rows the arrays have down whose columns n_tokens tokens run: attention_rows for probs and work of
   attention_forward and attention_backward, token_rows for all of attention_cached. */
size_t microgpt_attention_rows(int n_tokens);
size_t microgpt_token_rows(int n_tokens);

/* y = max(0, x), n elements. */
void microgpt_relu_forward_f32(float *y, const float *x, size_t n);
void microgpt_relu_forward_f64(double *y, const double *x, size_t n);
/* dx = dy where y > 0, and 0 elsewhere. */
void microgpt_relu_backward_f32(float *dx, const float *dy, const float *y, size_t n, int accumulate);
void microgpt_relu_backward_f64(double *dx, const double *dy, const double *y, size_t n, int accumulate);

/* y = a + b, n elements. */
void microgpt_add_forward_f32(float *y, const float *a, const float *b, size_t n);
void microgpt_add_forward_f64(double *y, const double *a, const double *b, size_t n);
/* da = dy, db = dy.  Either may be NULL, and is then left out. */
void microgpt_add_backward_f32(float *da, float *db, const float *dy, size_t n, int accumulate);
void microgpt_add_backward_f64(double *da, double *db, const double *dy, size_t n, int accumulate);

/* probs = softmax(logits) down each column, losses[j] = -log probs[target[j], j], loss[0] = sum over j of
   weight[j] losses[j].  logits, probs: m x n; the others n.  loss depends on all columns; it may be NULL, and weight
   too then. */
void microgpt_cross_entropy_forward_f32(float *losses, float *probs, float *loss, const float *logits,
                                        const int32_t *target, const float *weight, int m, int n);
void microgpt_cross_entropy_forward_f64(double *losses, double *probs, double *loss, const double *logits,
                                        const int32_t *target, const double *weight, int m, int n);
/* loss[0] alone, from losses and weight: n.  The sum runs over j in order, by fused multiply-adds. */
void microgpt_cross_entropy_sum_f32(float *loss, const float *losses, const float *weight, int n);
void microgpt_cross_entropy_sum_f64(double *loss, const double *losses, const double *weight, int n);
/* dlogits[:, j] = weight[j] (probs[:, j] - onehot(target[j])): the gradient of loss.  A probability below 2^-52 (float)
   or 2^-460 (double) counts as 0. */
void microgpt_cross_entropy_backward_f32(float *dlogits, const float *probs, const int32_t *target, const float *weight,
                                         int m, int n, int accumulate);
void microgpt_cross_entropy_backward_f64(double *dlogits, const double *probs, const int32_t *target,
                                         const double *weight, int m, int n, int accumulate);

/* One step of Adam on n parameters: m = beta1 m + (1 - beta1) grad, v = beta2 v + (1 - beta2) grad^2,
   param -= learning_rate (m / m_correction) / (sqrt(v / v_correction) + eps), x_correction being 1 - beta^t at step t.
   A grad below 2^-52 (float) or 2^-460 (double) counts as 0, and an m or v below 2^-108 or 2^-924 becomes 0, so eps
   should be 1e-12 or more.  Where grad^2 overflows, param becomes NaN. */
void microgpt_adam_f32(float *param, float *m, float *v, const float *grad, double learning_rate, double beta1,
                       double beta2, double eps, double m_correction, double v_correction, size_t n);
void microgpt_adam_f64(double *param, double *m, double *v, const double *grad, double learning_rate, double beta1,
                       double beta2, double eps, double m_correction, double v_correction, size_t n);

/* token[j]: drawn from p = softmax(logits[:, j] / temperature), being the first i at which the sum of p so far is above
   uniform[j] (from 0, below 1) times the whole; sums are double's.  Of p count only the top_k largest, of equals the
   first, and of these only the largest that make up top_p.  At temperature 0, or one so low that p overflows, it is the
   largest logit.  probs: m x (n + 1), and work: m, of scratch.  The result is 0, and there are no tokens, if a logit is not
   finite. */
int microgpt_draw_f32(int32_t *token, float *probs, int32_t *work, const float *logits, const double *uniform,
                      double temperature, int top_k, double top_p, int m, int n);
int microgpt_draw_f64(int32_t *token, double *probs, int32_t *work, const double *logits, const double *uniform,
                      double temperature, int top_k, double top_p, int m, int n);

#ifdef __cplusplus
}
#endif

#endif
