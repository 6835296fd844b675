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
    int n_arrays;
    void *array[10];
    int ld[5];
    int column[10]; /* bytes from an array's column to the next; 0 if it has none for each token */
    int given;      /* bit i: array i has the columns of all batches, of which one begins at `start` */
    int apart;      /* bit i: array i has an order of its own, and room for attention_rows(n) columns */
    int private;    /* bit i: array i has `column` bytes for each thread */
    int sums;       /* whether it sums over columns: then threads share out results, and otherwise columns */
};

/* Adam's update of flat arrays of `count` numbers, to be done to each gradient as soon as there is one, or, if there is a
   `clip`, to all at the end: then a gradient whose 2-norm is above it is shortened before. */
struct microgpt_update {
    void *param, *m, *v, *grad;
    double learning_rate, beta1, beta2, eps, m_correction, v_correction;
    double decay; /* what a parameter is multiplied by before */
    double clip;
    double *squares; /* the sum of the gradient's squares in each block; if they are not finite there is no update */
    size_t count;
};
enum { MICROGPT_BLOCK = 16384 }; /* numbers */

/* Calls to be replayed on n columns, from column `start` of the arrays that are given. */
struct microgpt_replay {
    const struct microgpt_call *calls;
    int n_calls, start, n;
    const int32_t *position; /* of each column, those of all batches, or NULL: threads then part columns anywhere */
    /* or NULL, and then nothing is updated; or else losses and their weights, whose sum must be finite for an update */
    const struct microgpt_update *update;
    const void *losses, *weights; /* those of all batches */
    double loss;
    void (*meet)(int n_threads); /* wait until all threads have called it */
};

/* The part of one of the threads that call this together. */
void microgpt_replay_f32(struct microgpt_replay *replay, int thread, int n_threads);
void microgpt_replay_f64(struct microgpt_replay *replay, int thread, int n_threads);

/* How many columns come before `begin`, a thread's first, where attention's arrays are laid out thread by thread: each has
   room for attention_rows of its own. */
size_t microgpt_columns_apart(int begin, int thread);

/* The best instruction set of this machine: 2 AVX-512, 1 AVX2 with FMA or NEON, 0 none of them. */
int microgpt_best_isa(void);
/* Name and version of the compiler these kernels were built with. */
const char *microgpt_compiler(void);

#endif
