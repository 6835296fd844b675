/* A C program that uses microgpt's kernels: it prints y = w x and the gradient dw, as exact hexadecimal numbers. */

#include <stdio.h>

#include "kernels.h"

int main(void)
{
    const float w[] = {1, 2, 3, 4, 5, 6}, x[] = {0.1f, 0.2f}, dy[] = {1, -1, 2}; /* w: 3 x 2, column by column */
    float y[3], dw[6];
    microgpt_matmul_forward_f32(y, w, x, 3, 2, 1, 3, 3, 2);
    microgpt_matmul_backward_f32(dw, NULL, dy, w, x, 3, 2, 1, 3, 2, 3, 3, 2, 0);
    for (int i = 0; i < 3; i++)
        printf("%a\n", y[i]);
    for (int i = 0; i < 6; i++)
        printf("%a\n", dw[i]);
    return 0;
}
