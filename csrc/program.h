/* Recorded calls: kernel calls whose arrays and sizes are written down once and then replayed by one call.

   For this package's Python, and not stable.  kernels.h is the API. */

#ifndef MICROGPT_PROGRAM_H
#define MICROGPT_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

/* A row of table.h; the last has no name. */
struct microgpt_kernel {
    const char *name, *shapes;
    int strided;
};
extern const struct microgpt_kernel microgpt_kernels[];

struct microgpt_call {
    int kernel;     /* its place in the table */
    int accumulate; /* as in kernels.h */
    double eps;
    int m, k, vocab_size, block_size, n_head; /* the sizes of the table, but for n */
    void *array[10];
    int ld[5];
    int step[10]; /* so many bytes further on begins an array for each column that a batch begins later */
    int moves;    /* whether any of these is not 0 */
};

/* The calls, on n columns from column `start` of the arrays that move. */
void microgpt_replay_f32(const struct microgpt_call *call, int n_calls, int start, int n);
void microgpt_replay_f64(const struct microgpt_call *call, int n_calls, int start, int n);

/* The best instruction set of this machine: 2 AVX-512, 1 AVX2 with FMA or NEON, 0 none of them. */
int microgpt_best_isa(void);
/* Name and version of the compiler these kernels were built with. */
const char *microgpt_compiler(void);

#endif
