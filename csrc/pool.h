/* A pool of worker threads.  Kernels do not use it; program.c and run.c divide their work among its threads. */

#ifndef MICROGPT_POOL_H
#define MICROGPT_POOL_H

/* Reserve up to `wanted` threads, the calling thread included.  Returns their number: 1 if no worker could be created
   or another thread holds the pool.  If it is above 1, the caller must call microgpt_release_threads(). */
int microgpt_acquire_threads(int wanted);
void microgpt_release_threads(void);

/* Run work(argument, thread) in n_threads reserved threads and wait for all.  The calling thread is number 0. */
void microgpt_run_parallel(int n_threads, void (*work)(void *argument, int thread), void *argument);

/* For use within work(): wait until all n_threads threads have called it. */
void microgpt_barrier(int n_threads);

#endif
