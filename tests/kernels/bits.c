/* Prints hashes of the kernels' results for pseudo-random inputs of many sizes.  Equal hashes mean equal bits. */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

static uint64_t state = 1, hash;

static void hash_bytes(const void *p, size_t n)
{
    for (const unsigned char *c = p, *end = c + n; c < end; c++)
        hash = (hash ^ *c) * 0x100000001b3u;
}

/* A uniform pseudo-random number in [-1, 1), the same in both precisions. */
static float number(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 41) / (float)(1 << 22) - 1;
}

#define SIZES(X) X(1, 1, 1) X(3, 2, 5) X(16, 16, 7) X(27, 16, 33) X(64, 15, 17) X(130, 400, 20) X(24, 24, 200)

#define SUITE(real, S)                                                                                                 \
    static real *fill_##S(size_t n)                                                                                    \
    {                                                                                                                  \
        real *p = malloc(n * sizeof *p);                                                                               \
        for (size_t i = 0; i < n; i++)                                                                                 \
            p[i] = number();                                                                                           \
        return p;                                                                                                      \
    }                                                                                                                  \
    static void report_##S(const char *name)                                                                           \
    {                                                                                                                  \
        printf("%s_%s %016llx\n", name, #S, (unsigned long long)hash);                                                 \
        hash = 0xcbf29ce484222325u;                                                                                    \
    }                                                                                                                  \
    static void matrices_##S(int m, int k, int n)                                                                      \
    {                                                                                                                  \
        real *w = fill_##S((size_t)m * k), *x = fill_##S((size_t)k * n), *y = fill_##S((size_t)m * n);                 \
        real *dw = fill_##S((size_t)m * k), *dx = fill_##S((size_t)k * n), *p = fill_##S((size_t)m * n);               \
        real *dp = fill_##S((size_t)m * n), *rstd = fill_##S(n), *losses = fill_##S(n), *weight = fill_##S(n), loss;   \
        int32_t *target = malloc(n * sizeof *target);                                                                  \
        for (int j = 0; j < n; j++)                                                                                    \
            target[j] = (int32_t)((uint64_t)j * 7 % m);                                                                \
        microgpt_matmul_forward_##S(y, w, x, m, k, n, m, m, k);                                                        \
        hash_bytes(y, sizeof(real) * m * n);                                                                           \
        microgpt_matmul_backward_##S(dw, dx, y, w, x, m, k, n, m, k, m, m, k, -1);                                     \
        hash_bytes(dw, sizeof(real) * m * k), hash_bytes(dx, sizeof(real) * k * n);                                    \
        microgpt_softmax_forward_##S(p, y, m, n, m, m);                                                                \
        hash_bytes(p, sizeof(real) * m * n);                                                                           \
        microgpt_softmax_backward_##S(y, dp, p, m, n, m, m, m, -1);                                                    \
        hash_bytes(y, sizeof(real) * m * n);                                                                           \
        microgpt_rmsnorm_forward_##S(p, rstd, y, (real)1e-5, m, n, m, m);                                              \
        hash_bytes(p, sizeof(real) * m * n), hash_bytes(rstd, sizeof(real) * n);                                       \
        microgpt_rmsnorm_backward_##S(y, p, p, rstd, m, n, m, m, m, -1);                                               \
        hash_bytes(y, sizeof(real) * m * n);                                                                           \
        microgpt_relu_backward_##S(y, p, p, (size_t)m * n, -1);                                                        \
        microgpt_cross_entropy_forward_##S(losses, p, &loss, y, target, weight, m, n);                                 \
        hash_bytes(&loss, sizeof loss), hash_bytes(losses, sizeof(real) * n);                                          \
        microgpt_cross_entropy_backward_##S(y, p, target, weight, m, n, -1);                                           \
        hash_bytes(y, sizeof(real) * m * n);                                                                           \
        for (int i = 0; i < m * n; i++) /* Adam's v is never negative */                                               \
            p[i] = y[i] * y[i];                                                                                        \
        real *moment = fill_##S((size_t)m * n), *param = fill_##S((size_t)m * n);                                      \
        microgpt_adam_##S(param, moment, p, y, 0.01, 0.85, 0.99, 1e-8, 0.15, 0.01, (size_t)m * n);                     \
        hash_bytes(param, sizeof(real) * m * n), hash_bytes(p, sizeof(real) * m * n);                                  \
        free(w), free(x), free(y), free(dw), free(dx), free(p), free(rstd), free(losses), free(weight);                \
        free(target), free(moment), free(param), free(dp);                                                             \
    }                                                                                                                  \
    static void attention_##S(int n_embd, int n_head, int block, int n)                                                \
    {                                                                                                                  \
        size_t size = (size_t)n_embd * n;                                                                              \
        int32_t *position = malloc(n * sizeof *position);                                                              \
        for (int t = 0, place = 0, length = 1; t < n; t++, place++) {                                                  \
            if (place == length)                                                                                       \
                place = 0, length = (length * 5 + 3) % block + 1;                                                      \
            position[t] = place;                                                                                       \
        }                                                                                                              \
        real *q = fill_##S(size), *k = fill_##S(size), *v = fill_##S(size), *out = fill_##S(size);                     \
        const size_t rows = microgpt_attention_rows(n), probs_size = rows * n_head * block * sizeof(real);             \
        const size_t work_size = rows * (7 * n_embd + block) * sizeof(real);                                           \
        real *probs = malloc(probs_size), *work = malloc(work_size);                                                   \
        memset(probs, 0xff, probs_size), memset(work, 0xff, work_size); /* NaN: no result may use it */                \
        real *dq = fill_##S(size), *dk = fill_##S(size), *dv = fill_##S(size);                                         \
        microgpt_attention_forward_##S(out, probs, work, q, k, v, position, n_embd, n_head, block, n);                 \
        hash_bytes(out, size * sizeof(real));                                                                          \
        microgpt_attention_backward_##S(dq, dk, dv, work, out, probs, q, k, v, position, n_embd, n_head, block, n,     \
                                        -1);                                                                           \
        hash_bytes(dq, size * sizeof(real)), hash_bytes(dk, size * sizeof(real)), hash_bytes(dv, size * sizeof(real)); \
        free(position), free(q), free(k), free(v), free(out), free(probs), free(work);                                 \
        free(dq), free(dk), free(dv);                                                                                  \
    }                                                                                                                  \
    static void suite_##S(void)                                                                                        \
    {                                                                                                                  \
        SIZES(matrices_##S##_)                                                                                         \
        report_##S("columns");                                                                                         \
        attention_##S(1, 1, 40, 1), attention_##S(16, 4, 40, 119), attention_##S(24, 3, 40, 50);                       \
        attention_##S(10, 2, 40, 7), attention_##S(8, 2, 300, 700);                                                    \
        report_##S("attention");                                                                                       \
    }
#define matrices_f32_(m, k, n) matrices_f32(m, k, n);
#define matrices_f64_(m, k, n) matrices_f64(m, k, n);
SUITE(float, f32)
SUITE(double, f64)

int main(void)
{
    hash = 0xcbf29ce484222325u;
    suite_f32();
    suite_f64();
    return 0;
}
