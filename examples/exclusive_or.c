/* A network of two layers that learns exclusive or, in C against kernels.h:

       CSRC=$(python -c 'import microgpt; print(microgpt.get_include())')
       gcc -O3 -ffp-contract=off -mavx2 -mfma -I"$CSRC" examples/exclusive_or.c \
           "$CSRC"/f32.c "$CSRC"/f64.c "$CSRC"/common.c -lm -o xor

   Matrices are column-major.  Each call takes the sizes, then the leading dimensions: the distance between columns. */

#include <stdio.h>

#include "kernels.h"

enum { N_IN = 3, N_HIDDEN = 8, N_CLASSES = 2, N = 4, N_STEPS = 200 };
enum { N_W1 = N_HIDDEN * N_IN, N_W2 = N_CLASSES * N_HIDDEN, N_PARAMS = N_W1 + N_W2 };

int main(void)
{
    const double x[N_IN * N] = {0, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1}; /* four columns: two bits and a bias */
    const int32_t targets[N] = {0, 1, 1, 0};
    const double weights[N] = {0.25, 0.25, 0.25, 0.25}; /* of each token in the loss: a mean */
    double params[N_PARAMS], grads[N_PARAMS], m[N_PARAMS] = {0}, v[N_PARAMS] = {0};
    double *const w1 = params, *const w2 = params + N_W1, *const dw1 = grads, *const dw2 = grads + N_W1;
    double z[N_HIDDEN * N], dz[N_HIDDEN * N], hidden[N_HIDDEN * N], dhidden[N_HIDDEN * N];
    double logits[N_CLASSES * N], probs[N_CLASSES * N], dlogits[N_CLASSES * N], losses[N], loss;
    double beta1_power = 1, beta2_power = 1;

    uint32_t state = 2; /* a simple generator is enough to make the rows differ; the weights are from -1 to 1 */
    for (int i = 0; i < N_PARAMS; i++)
        params[i] = (double)((state = state * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1;

    for (int step = 1; step <= N_STEPS; step++) {
        microgpt_matmul_forward_f64(z, w1, x, N_HIDDEN, N_IN, N, N_HIDDEN, N_HIDDEN, N_IN);
        microgpt_relu_forward_f64(hidden, z, (size_t)(N_HIDDEN * N));
        microgpt_matmul_forward_f64(logits, w2, hidden, N_CLASSES, N_HIDDEN, N, N_CLASSES, N_CLASSES, N_HIDDEN);
        microgpt_cross_entropy_forward_f64(losses, probs, &loss, logits, targets, weights, N_CLASSES, N);

        microgpt_cross_entropy_backward_f64(dlogits, probs, targets, weights, N_CLASSES, N, 0);
        microgpt_matmul_backward_f64(dw2, dhidden, dlogits, w2, hidden, N_CLASSES, N_HIDDEN, N, N_CLASSES, N_HIDDEN,
                                     N_CLASSES, N_CLASSES, N_HIDDEN, 0);
        microgpt_relu_backward_f64(dz, dhidden, hidden, (size_t)(N_HIDDEN * N), 0);
        microgpt_matmul_backward_f64(dw1, NULL, dz, w1, x, N_HIDDEN, N_IN, N, N_HIDDEN, N_IN, N_HIDDEN, N_HIDDEN, N_IN,
                                     0);

        beta1_power *= 0.9, beta2_power *= 0.99;
        microgpt_adam_f64(params, m, v, grads, 0.05, 0.9, 0.99, 1e-8, 1 - beta1_power, 1 - beta2_power, N_PARAMS);
        if (step == 1 || step % 100 == 0)
            printf("step %3d | loss %.4f\n", step, loss);
    }
    for (int j = 0; j < N; j++)
        printf("%g xor %g: %.3f\n", x[N_IN * j], x[N_IN * j + 1], probs[N_CLASSES * j + 1]);
    return 0;
}
