/* Running kernels for Python: without its lock, in the usual floating-point mode, by the threads of the pool. */

#ifndef MICROGPT_RUN_H
#define MICROGPT_RUN_H

#include <stdatomic.h>
#include <stdint.h>

#include "program.h"

/* Replay calls by so many threads; 0, or -1 with an error of Python's set.  Where the threads cannot be had one does all:
   part by part, for what is kept from one replay to the next (keys and values) is laid out by parts, unless the parts
   depend on each other. */
int microgpt_run(char format, struct microgpt_replay *replay, int n_threads);

/* The arguments of microgpt_draw for threads, each with columns of its own: probs is m x (n + n_threads), work m x n_threads. */
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

/* Whether all logits are finite. */
int microgpt_run_drawing(struct microgpt_drawing *drawing);

#endif
