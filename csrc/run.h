/* Running kernels for Python: without the GIL, in the default floating-point mode, in the threads of the pool. */

#ifndef MICROGPT_RUN_H
#define MICROGPT_RUN_H

#include <stdatomic.h>
#include <stdint.h>

#include "program.h"

/* Replay calls in n_threads threads.  Returns 0, or -1 with a Python exception set.  If the pool has fewer threads, the
   caller computes every thread's part in turn, because keys and values keep their layout by parts from one replay to
   the next.  If a call sums over tokens, parts depend on each other, and the caller computes all as one part. */
int microgpt_run(char format, struct microgpt_replay *replay, int n_threads);

/* The arguments of microgpt_draw.  Threads divide the n columns; probs: m x (n + n_threads), work: m x n_threads. */
struct microgpt_drawing {
    char format;
    int32_t *token, *work;
    void *probs;
    const void *logits;
    const double *uniform;
    double temperature, top_p;
    int m, n, top_k, n_threads;
    atomic_int not_finite;
};

/* Draw the tokens in up to n_threads threads.  Returns whether all logits are finite. */
int microgpt_run_drawing(struct microgpt_drawing *drawing);

#endif
