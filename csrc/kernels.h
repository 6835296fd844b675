/* The kernels of microgpt: each forward pass with its backward pass, for float (_f32) and double (_f64).

   Build: compile f32.c, f64.c and common.c with -ffp-contract=off and without -ffast-math or any part of it; link -lm.

   Layout: matrices are column-major.  Element (i, j) of an m x n matrix with leading dimension ld >= m is [j*ld + i].
   Without an ld argument, ld = m.  An activation is features x tokens: one column per token.
   Arguments: outputs, then inputs, then sizes.  Sizes are 0 to 2^30 - 1, but a size_t n may be larger.  Outputs and
   scratch must not overlap any other argument, and their previous contents do not matter.
   accumulate: if bit i is set, a backward kernel adds to its i-th gradient instead of overwriting it, in the order of
   the arguments.  So 0 overwrites all gradients, and -1 adds to all.
   Kernels allocate nothing, keep no state and do not check their arguments.  They run in the calling thread, which
   needs up to 100 KB of stack for matmul.  Several threads may work on different columns at the same time.
   NaN and infinity follow IEEE arithmetic, except where a comment says otherwise.  Every instruction set gives the same
   bits, except for the sign and payload of a NaN, if the thread rounds to nearest and keeps subnormal numbers.
   A column of a forward result depends only on that column of the inputs, except where a comment says otherwise. */

#ifndef MICROGPT_KERNELS_H
#define MICROGPT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* y = w x, summed over k in order by fused multiply-adds.  y: m x n, w: m x k, x: k x n; y overlaps neither w nor x. */
void microgpt_matmul_forward_f32(float *y, const float *w, const float *x, int m, int k, int n, int ldy, int ldw,
                                 int ldx);
void microgpt_matmul_forward_f64(double *y, const double *w, const double *x, int m, int k, int n, int ldy, int ldw,
                                 int ldx);
/* dw = dy x^T and dx = w^T dy.  dw, w: m x k; dx, x: k x n; dy: m x n.  accumulate: bit 0 adds to dw, bit 1 to dx.
   A gradient that is NULL is not computed; dw and dx overlap no other argument. */
void microgpt_matmul_backward_f32(float *dw, float *dx, const float *dy, const float *w, const float *x, int m, int k,
                                  int n, int lddw, int lddx, int lddy, int ldw, int ldx, int accumulate);
void microgpt_matmul_backward_f64(double *dw, double *dx, const double *dy, const double *w, const double *x, int m,
                                  int k, int n, int lddw, int lddx, int lddy, int ldw, int ldx, int accumulate);

/* p[:, j] = exp(x[:, j]) / sum(exp(x[:, j])).  p, x: m x n; p does not overlap x.  A column that contains NaN or +inf,
   or only -inf, becomes NaN.  An exp(x - max x) that would be subnormal counts as 0. */
void microgpt_softmax_forward_f32(float *p, const float *x, int m, int n, int ldp, int ldx);
void microgpt_softmax_forward_f64(double *p, const double *x, int m, int n, int ldp, int ldx);
/* dx[:, j] = p (dp - sum(dp p)), with column j of p and dp.  dx, dp, p: m x n; dx overlaps neither dp nor p.
   accumulate: bit 0 adds to dx. */
void microgpt_softmax_backward_f32(float *dx, const float *dp, const float *p, int m, int n, int lddx, int lddp,
                                   int ldp, int accumulate);
void microgpt_softmax_backward_f64(double *dx, const double *dp, const double *p, int m, int n, int lddx, int lddp,
                                   int ldp, int accumulate);

/* y[:, j] = x[:, j] rstd[j] with rstd[j] = 1 / sqrt(mean(x[:, j]^2) + eps).  y, x: m x n, rstd: n; y, rstd and x do not
   overlap.  If the sum of squares overflows (one |x| of 1.9e19 in float or 1.4e154 in double suffices), rstd is 0 and y
   is 0 where x is finite.  A column of zeros with eps = 0 becomes NaN. */
void microgpt_rmsnorm_forward_f32(float *y, float *rstd, const float *x, float eps, int m, int n, int ldy, int ldx);
void microgpt_rmsnorm_forward_f64(double *y, double *rstd, const double *x, double eps, int m, int n, int ldy, int ldx);
/* dx[:, j] = rstd[j] (dy - y mean(dy y)), with column j of dy and y.  dx, dy, y: m x n, rstd: n; y and rstd are the
   results of rmsnorm_forward; dx overlaps no other argument.  accumulate: bit 0 adds to dx. */
void microgpt_rmsnorm_backward_f32(float *dx, const float *dy, const float *y, const float *rstd, int m, int n,
                                   int lddx, int lddy, int ldy, int accumulate);
void microgpt_rmsnorm_backward_f64(double *dx, const double *dy, const double *y, const double *rstd, int m, int n,
                                   int lddx, int lddy, int ldy, int accumulate);

/* x[:, t] = wte[:, token[t]] + wpe[:, position[t]].  x: n_embd x n_tokens, wte: n_embd x vocab_size, wpe: n_embd x
   block_size, token, position: n_tokens; x overlaps no other argument. */
void microgpt_embedding_forward_f32(float *x, const float *wte, const float *wpe, const int32_t *token,
                                    const int32_t *position, int n_embd, int n_tokens);
void microgpt_embedding_forward_f64(double *x, const double *wte, const double *wpe, const int32_t *token,
                                    const int32_t *position, int n_embd, int n_tokens);
/* dwte[:, token[t]] += dx[:, t] and dwpe[:, position[t]] += dx[:, t], for t in order.  dwte: n_embd x vocab_size,
   dwpe: n_embd x block_size, dx: n_embd x n_tokens, token, position: n_tokens.  accumulate: bit 0 starts the sums from
   dwte, bit 1 from dwpe, instead of 0.  A NULL gradient is not computed; dwte and dwpe overlap no other argument. */
void microgpt_embedding_backward_f32(float *dwte, float *dwpe, const float *dx, const int32_t *token,
                                     const int32_t *position, int n_embd, int vocab_size, int block_size, int n_tokens,
                                     int accumulate);
void microgpt_embedding_backward_f64(double *dwte, double *dwpe, const double *dx, const int32_t *token,
                                     const int32_t *position, int n_embd, int vocab_size, int block_size, int n_tokens,
                                     int accumulate);

/* Causal multi-head attention within each document of a packed batch.  out, q, k, v: n_embd x n_tokens.  n_head divides
   n_embd; head h is the n_embd / n_head rows that begin at row h n_embd / n_head.  position[t] is the index of token t
   in its document: 0 at the first token, then 1, 2, ... below block_size, which is at most 2^24.  Token t attends to
   the tokens t - lag of its document, lag = 0 .. position[t]:
     p[t, lag] = softmax over lag of (q_h[:, t] . k_h[:, t - lag]) / sqrt(n_embd / n_head)
     out_h[:, t] = sum over lag of p[t, lag] v_h[:, t - lag]
   A weight p below 2^-52 (float) or 2^-460 (double) of the largest counts as 0.
   probs: R x n_head block_size with R = microgpt_attention_rows(n_tokens): the weights, in an order that only
   attention_backward needs to know.  work: R x 4 n_embd of scratch; the kernel touches only its beginning, enough for
   256 tokens and one document.  out, probs and work overlap no other argument. */
void microgpt_attention_forward_f32(float *out, float *probs, float *work, const float *q, const float *k,
                                    const float *v, const int32_t *position, int n_embd, int n_head, int block_size,
                                    int n_tokens);
void microgpt_attention_forward_f64(double *out, double *probs, double *work, const double *q, const double *k,
                                    const double *v, const int32_t *position, int n_embd, int n_head, int block_size,
                                    int n_tokens);
/* The gradients of attention_forward.  With dp[t, lag] = dout_h[:, t] . v_h[:, t - lag] and
   ds[t, lag] = p[t, lag] (dp[t, lag] - sum over l of p[t, l] dp[t, l]) / sqrt(n_embd / n_head):
     dq_h[:, t] = sum over lag of ds[t, lag] k_h[:, t - lag]
     dk_h[:, s] = sum over lag of ds[s + lag, lag] q_h[:, s + lag], over the tokens s + lag of the same document
     dv_h[:, s] = sum over lag of p[s + lag, lag] dout_h[:, s + lag], likewise
   dq, dk, dv, dout, q, k, v: n_embd x n_tokens.  accumulate: bits 0, 1 and 2 add to dq, dk and dv.  probs: as forward
   wrote it.  work: R x (7 n_embd + block_size) of scratch with R = microgpt_attention_rows(n_tokens), used only at its
   beginning, as in forward.  dq, dk, dv and work overlap no other argument. */
void microgpt_attention_backward_f32(float *dq, float *dk, float *dv, float *work, const float *dout,
                                     const float *probs, const float *q, const float *k, const float *v,
                                     const int32_t *position, int n_embd, int n_head, int block_size, int n_tokens,
                                     int accumulate);
void microgpt_attention_backward_f64(double *dq, double *dk, double *dv, double *work, const double *dout,
                                     const double *probs, const double *q, const double *k, const double *v,
                                     const int32_t *position, int n_embd, int n_head, int block_size, int n_tokens,
                                     int accumulate);
/* Attention for one more token of each of n_tokens documents of equal length, from cached keys and values, with the
   results of attention_forward.  out, q, k, v: n_embd x n_tokens.  position[t] is the same for all t, and n_tokens is
   the same for all positions.  keys, values: P x n_embd for each position, with P = microgpt_token_rows(n_tokens); the
   kernel writes those of this position and reads the earlier ones.  probs: P x n_head block_size, work: P x 2 n_embd,
   both scratch.  out, probs, keys, values and work overlap no other argument. */
void microgpt_attention_cached_f32(float *out, float *probs, float *keys, float *values, float *work, const float *q,
                                   const float *k, const float *v, const int32_t *position, int n_embd, int n_head,
                                   int block_size, int n_tokens);
void microgpt_attention_cached_f64(double *out, double *probs, double *keys, double *values, double *work,
                                   const double *q, const double *k, const double *v, const int32_t *position,
                                   int n_embd, int n_head, int block_size, int n_tokens);
/* The number of rows that n_tokens tokens need: attention_rows in probs and work of attention_forward and
   attention_backward, token_rows in keys, values, probs and work of attention_cached. */
size_t microgpt_attention_rows(int n_tokens);
size_t microgpt_token_rows(int n_tokens);

/* y = max(0, x).  y, x: n; y does not overlap x.  NaN and -0 stay as they are. */
void microgpt_relu_forward_f32(float *y, const float *x, size_t n);
void microgpt_relu_forward_f64(double *y, const double *x, size_t n);
/* dx = dy where y > 0, and 0 elsewhere.  dx, dy, y: n; dx overlaps neither dy nor y.  accumulate: bit 0 adds to dx. */
void microgpt_relu_backward_f32(float *dx, const float *dy, const float *y, size_t n, int accumulate);
void microgpt_relu_backward_f64(double *dx, const double *dy, const double *y, size_t n, int accumulate);

/* y = a + b.  y, a, b: n; y overlaps neither a nor b. */
void microgpt_add_forward_f32(float *y, const float *a, const float *b, size_t n);
void microgpt_add_forward_f64(double *y, const double *a, const double *b, size_t n);
/* da = dy and db = dy.  da, db, dy: n.  accumulate: bit 0 adds to da, bit 1 to db.  A gradient that is NULL is not
   computed; da and db overlap no other argument. */
void microgpt_add_backward_f32(float *da, float *db, const float *dy, size_t n, int accumulate);
void microgpt_add_backward_f64(double *da, double *db, const double *dy, size_t n, int accumulate);

/* probs[:, j] = softmax(logits[:, j]), losses[j] = -log probs[target[j], j], loss[0] = sum over j of weight[j]
   losses[j].  losses, target, weight: n; probs, logits: m x n; outputs overlap no other argument.  loss depends on all
   columns; it may be NULL, and then weight too.  Special values: as in softmax_forward, but losses are computed from
   logits, so they stay finite where probs rounds to 0. */
void microgpt_cross_entropy_forward_f32(float *losses, float *probs, float *loss, const float *logits,
                                        const int32_t *target, const float *weight, int m, int n);
void microgpt_cross_entropy_forward_f64(double *losses, double *probs, double *loss, const double *logits,
                                        const int32_t *target, const double *weight, int m, int n);
/* loss[0] = sum over j of weight[j] losses[j], in order, by fused multiply-adds.  losses, weight: n; no overlap. */
void microgpt_cross_entropy_sum_f32(float *loss, const float *losses, const float *weight, int n);
void microgpt_cross_entropy_sum_f64(double *loss, const double *losses, const double *weight, int n);
/* dlogits[:, j] = weight[j] (probs[:, j] - onehot(target[j])), the gradient of loss[0].  dlogits, probs: m x n; target,
   weight: n; dlogits overlaps no other argument.  accumulate: bit 0 adds to dlogits.  A probability below 2^-52 (float)
   or 2^-460 (double) counts as 0. */
void microgpt_cross_entropy_backward_f32(float *dlogits, const float *probs, const int32_t *target, const float *weight,
                                         int m, int n, int accumulate);
void microgpt_cross_entropy_backward_f64(double *dlogits, const double *probs, const int32_t *target,
                                         const double *weight, int m, int n, int accumulate);

/* One step of Adam: m = beta1 m + (1 - beta1) grad, v = beta2 v + (1 - beta2) grad^2,
   param -= learning_rate (m / m_correction) / (sqrt(v / v_correction) + eps).  param, m, v, grad: n, without overlap.
   m_correction = 1 - beta1^t and v_correction = 1 - beta2^t at step t = 1, 2, ...  A |grad| below 2^-52 (float) or
   2^-460 (double) counts as 0, and a new |m| or v below 2^-108 or 2^-924 is stored as 0, so eps should be at least
   1e-12.  If grad^2 overflows, param becomes NaN. */
void microgpt_adam_f32(float *param, float *m, float *v, const float *grad, double learning_rate, double beta1,
                       double beta2, double eps, double m_correction, double v_correction, size_t n);
void microgpt_adam_f64(double *param, double *m, double *v, const double *grad, double learning_rate, double beta1,
                       double beta2, double eps, double m_correction, double v_correction, size_t n);

/* Draw token[j] from p = softmax(logits[:, j] / temperature): the first i for which p[0] + ... + p[i], summed in
   double, exceeds uniform[j] sum(p), with 0 <= uniform[j] < 1.  First, p is set to 0 except for the top_k largest
   (among equals, the first) and, among these, the fewest largest whose sum reaches top_p.  If temperature is 0, or so
   low that logits / temperature overflows, token[j] is the first largest logit.  token, uniform: n; logits: m x n;
   probs: m x (n + 1) and work: m, both scratch; token, probs and work overlap no other argument.  Returns 1; or 0
   without drawing if a logit is not finite. */
int microgpt_draw_f32(int32_t *token, float *probs, int32_t *work, const float *logits, const double *uniform,
                      double temperature, int top_k, double top_p, int m, int n);
int microgpt_draw_f64(int32_t *token, double *probs, int32_t *work, const double *logits, const double *uniform,
                      double temperature, int top_k, double top_p, int m, int n);

#ifdef __cplusplus
}
#endif

#endif
