/* Threads that wait for work.  Kernels know nothing of them. */

#ifndef MICROGPT_POOL_H
#define MICROGPT_POOL_H

/* Up to `wanted` threads for the caller alone, itself being one, until microgpt_release(): how many they are, which is 1
   where there are no more, or another thread has them. */
int microgpt_hire(int wanted);
void microgpt_release(void);

/* work(argument, thread) by so many hired threads, numbered from 0, which is the caller; returns when all have done it. */
void microgpt_together(int n_threads, void (*work)(void *argument, int thread), void *argument);

/* Within that work: wait until all n_threads have come here. */
void microgpt_meet(int n_threads);

#endif
