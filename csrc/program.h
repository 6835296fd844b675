/* Recorded calls: kernel calls whose arrays and sizes are written down once and then replayed by one call.

   For this package's Python, and not stable.  kernels.h is the API. */

#ifndef MICROGPT_PROGRAM_H
#define MICROGPT_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

/* A row of table.h; the last has no name. */
struct microgpt_kernel {
    const char *name, *shapes;
    int strided, split;
};
extern const struct microgpt_kernel microgpt_kernels[];
/* The names of the table's sizes beside n, in the order of microgpt_call.size; the last is NULL. */
extern const char *const microgpt_sizes[];

/* A kernel call on all tokens of a batch.  It computes columns of tokens, which threads share out; or one sum over
   tokens, and then threads share out the columns of this result. */
struct microgpt_call {
    int kernel;     /* its place in the table */
    int accumulate; /* as in kernels.h */
    double eps;
    int size[8]; /* those of microgpt_sizes */
    int n_arrays;
    void *array[10];
    int ld[10];
    int column[10]; /* bytes from an array's column to the next; 0 if it has none for each token */
    int given;      /* bit i: array i has the columns of all batches, and a batch begins at `start` */
    int apart;      /* bit i: array i is laid out by the kernel, and has room for attention_rows(n) columns */

    int sums;            /* whether this is a sum over tokens; the fields below describe it */
    int result;          /* which array it makes */
    int rows, n_columns; /* of the result; one column of all its numbers if it cannot be split */
    int split;           /* which size counts n_columns; -1 if the result cannot be split */
    int part[10];        /* bytes from what an array has for one of these columns to the next; 0 if it has nothing */
    int waits;           /* whether threads have to meet before it */
    int is_gradient;     /* whether the result is the whole gradient of a parameter that no later call reads */
};

/* Adam's update of flat arrays of `count` numbers.  If the calls permit it (`early`), each parameter is updated as soon as
   its gradient is known.  If there is a `clip`, all are updated at the end: a gradient whose 2-norm is above it is
   shortened before. */
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
    int early; /* whether is_gradient is set for every parameter: then updates need not wait for the last call */
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
