/* Threads that wait for work: see pool.h.

   A step of a small model takes 50 us, in which the threads meet three times.  So whoever waits looks again and again
   for as long as most waits take, then lets others run, of which there may be more than cores, and a thread without
   work at last sleeps. */

#define _POSIX_C_SOURCE 200809L

#include "common.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "mode.h"
#include "pool.h"

enum { MOST = 256, SPINS = 4000, YIELDS = 200, STACK_BYTES = 1 << 20 };

static pthread_mutex_t hired = PTHREAD_MUTEX_INITIALIZER;    /* by one thread at a time */
static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER; /* or about to */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int n_workers, prepared;

/* The work, which the caller writes before it counts `n_given` up. */
static void (*work)(void *, int);
static void *argument;
static int n_working;
static atomic_uint n_given;
static atomic_int n_sleeping, n_busy;

/* Where threads meet: the last to arrive counts `n_meetings` up. */
static atomic_int n_arrived;
static atomic_uint n_meetings;

INLINE void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Wait until the counter is no longer `seen`; 0 when that takes so long that a sleep is due, if there is one. */
static int changed(atomic_uint *counter, unsigned seen, int may_sleep)
{
    for (long tries = 0; atomic_load_explicit(counter, memory_order_acquire) == seen; tries++) {
        if (tries < SPINS)
            pause_briefly();
        else if (may_sleep && tries > SPINS + YIELDS)
            return 0;
        else
            sched_yield();
    }
    return 1;
}

/* The number of a worker, and of the last work that is not its own because it was given before. */
static void *worker(void *number)
{
    const int thread = (uintptr_t)number % MOST;
    unsigned seen = (unsigned)((uintptr_t)number / MOST);
    set_usual_mode();
    for (;;) {
        if (!changed(&n_given, seen, 1)) {
            pthread_mutex_lock(&sleeping);
            atomic_fetch_add(&n_sleeping, 1);
            while (atomic_load(&n_given) == seen)
                pthread_cond_wait(&wake, &sleeping);
            atomic_fetch_sub(&n_sleeping, 1);
            pthread_mutex_unlock(&sleeping);
        }
        seen = atomic_load_explicit(&n_given, memory_order_acquire);
        if (thread < n_working)
            work(argument, thread);
        atomic_fetch_sub_explicit(&n_busy, 1, memory_order_release);
    }
    return NULL;
}

/* In the child of a fork there are no workers, and whoever held a lock is not there either. */
static void forget(void)
{
    n_workers = 0;
    atomic_store(&n_given, 0);
    atomic_store(&n_busy, 0);
    atomic_store(&n_sleeping, 0);
    atomic_store(&n_arrived, 0);
    pthread_mutex_init(&hired, NULL);
    pthread_mutex_init(&sleeping, NULL);
    pthread_cond_init(&wake, NULL);
}

/* One worker more, or 0. */
static int add_worker(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&attributes))
        return 0;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads that were there before */
    void *number = (void *)((uintptr_t)atomic_load(&n_given) * MOST + n_workers + 1);
    const int added = !pthread_create(&thread, &attributes, worker, number);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    n_workers += added;
    return added;
}

int microgpt_hire(int wanted)
{
    if (wanted <= 1 || pthread_mutex_trylock(&hired))
        return 1;
    if (!prepared)
        prepared = !pthread_atfork(NULL, NULL, forget);
    if (wanted > MOST)
        wanted = MOST;
    while (prepared && n_workers < wanted - 1 && add_worker())
        ;
    if (n_workers < 1) {
        pthread_mutex_unlock(&hired);
        return 1;
    }
    return n_workers + 1 < wanted ? n_workers + 1 : wanted;
}

void microgpt_release(void) { pthread_mutex_unlock(&hired); }

void microgpt_together(int n_threads, void (*function)(void *, int), void *its_argument)
{
    work = function;
    argument = its_argument;
    n_working = n_threads;
    atomic_store_explicit(&n_busy, n_workers, memory_order_relaxed);
    atomic_fetch_add(&n_given, 1);
    if (atomic_load(&n_sleeping)) {
        pthread_mutex_lock(&sleeping);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&sleeping);
    }
    function(its_argument, 0);
    for (long tries = 0; atomic_load_explicit(&n_busy, memory_order_acquire); tries++)
        if (tries < SPINS)
            pause_briefly();
        else
            sched_yield();
}

void microgpt_meet(int n_threads)
{
    const unsigned seen = atomic_load_explicit(&n_meetings, memory_order_acquire);
    if (atomic_fetch_add_explicit(&n_arrived, 1, memory_order_acq_rel) == n_threads - 1) {
        atomic_store_explicit(&n_arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&n_meetings, 1, memory_order_release);
    } else {
        changed(&n_meetings, seen, 0);
    }
}
