/* Recorded calls: the arrays and sizes of a list of kernel calls are recorded once, and one call replays the list.

   This interface serves only this package's Python and may change.  kernels.h is the stable C API. */

#ifndef MICROGPT_PROGRAM_H
#define MICROGPT_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

/* A row of table.h.  In the row that ends the table, `name` is NULL. */
struct microgpt_kernel {
    const char *name, *shapes;
    int strided, split;
};
extern const struct microgpt_kernel microgpt_kernels[];
/* The names of the sizes in table.h, without n, in the order of microgpt_call.size.  A NULL ends the list. */
extern const char *const microgpt_sizes[];

/* A kernel call on all tokens of a batch.  It computes either results with a column for each token, and threads divide
   the tokens; or one sum over tokens, and threads divide the columns of this sum. */
struct microgpt_call {
    int kernel;     /* its index in microgpt_kernels */
    int accumulate; /* as in kernels.h */
    double eps;
    int size[8]; /* in the order of microgpt_sizes */
    int n_arrays;
    void *array[10];
    int ld[10];
    int column[10]; /* bytes between the columns of an array; 0 if it does not have a column for each token */
    int given;      /* bit i: array i holds the columns of all batches, and this batch begins at replay.start */
    int own_layout; /* bit i: the kernel chooses the layout of array i, which has room for attention_rows(n) columns */

    int sums; /* whether this is a sum over tokens, which the fields below describe */
    int result; /* the index of the array with the sum */
    int rows, n_columns; /* the size of the result; if it cannot be split, n_columns is 1 and rows counts all numbers */
    int split; /* the index of the size that counts n_columns; -1 if the result cannot be split */
    int part[10]; /* bytes between an array's data for one of these columns and for the next; 0 if it has none */
    int needs_barrier; /* whether it depends on the sums before it, so that threads must wait for these */
    int is_gradient; /* whether the result is the whole gradient of a parameter, and no later call reads either */
};

/* Adam's update of flat arrays of `count` numbers.  Each parameter is updated as soon as its gradient is complete, if
   replay.early is set and `clip` is 0.  Otherwise all are updated at the end, and a `clip` above 0 first scales the
   gradient down so that its 2-norm is at most `clip`. */
struct microgpt_update {
    void *param, *m, *v, *grad;
    double learning_rate, beta1, beta2, eps, m_correction, v_correction;
    double decay; /* every parameter is multiplied by this before the update */
    double clip;
    double *squares; /* scratch: the sum of squares of each block of grad; if not finite, nothing is updated */
    size_t count;
};
enum { MICROGPT_BLOCK = 16384 }; /* the numbers in a block */

/* Calls to replay on a batch of n columns, which begins at column `start` of the `given` arrays. */
struct microgpt_replay {
    const struct microgpt_call *calls;
    int n_calls, start, n;
    int early; /* whether every parameter has a call with is_gradient: then updates need not wait for the last call */
    const int32_t *position; /* of each column of all batches; if NULL, threads may divide the columns anywhere */
    const struct microgpt_update *update; /* if NULL, nothing is updated, and the next three fields are unused */
    const void *losses, *weights; /* losses: n, of this batch; weights: of all batches */
    double loss; /* result: the sum of weights * losses; if it is not finite, nothing is updated */
    void (*barrier)(int n_threads); /* waits until all threads have called it */
};

/* Compute one thread's part.  All n_threads threads call this at the same time. */
void microgpt_replay_f32(struct microgpt_replay *replay, int thread, int n_threads);
void microgpt_replay_f64(struct microgpt_replay *replay, int thread, int n_threads);

/* The first column of a thread's part of an array that attention lays out, if the thread's tokens begin at `begin`.
   Each thread's part has room for attention_rows(its number of tokens) columns. */
size_t microgpt_part_offset(int begin, int thread);

/* The best instruction set of this machine: 2 for AVX-512, 1 for AVX2 with FMA or NEON, 0 for none of these. */
int microgpt_best_isa(void);
/* The name and version of the compiler that built these kernels. */
const char *microgpt_compiler(void);

#endif
