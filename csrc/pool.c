/* A pool of worker threads: see pool.h.

   A step of a small model takes 50 us and has three barriers, so waking a sleeping thread each time would take too
   long.  A waiting thread first spins, for longer than most waits take.  Then it yields, because there may be more
   threads than cores.  A worker that still has no work sleeps on a condition variable. */

#define _POSIX_C_SOURCE 200809L

#include "common.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "mode.h"
#include "pool.h"

enum { MAX_THREADS = 256, SPINS = 4000, YIELDS = 200, STACK_BYTES = 1 << 20 };

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;  /* held while a caller has reserved the workers */
static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER; /* guards `wake`, so that no wake-up is lost */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int n_workers, fork_handler_set;

/* The current work.  The caller writes it before it increments `n_started`, which publishes it to the workers. */
static void (*work)(void *, int);
static void *argument;
static int n_working;
static atomic_uint n_started;
static atomic_int n_sleeping, n_busy;

/* The barrier.  The last thread to arrive increments `n_barriers`, which releases the others. */
static atomic_int n_arrived;
static atomic_uint n_barriers;

INLINE void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Wait until *counter differs from `seen` and return 1; or return 0 if may_sleep and the wait is long. */
static int wait_for_change(atomic_uint *counter, unsigned seen, int may_sleep)
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

/* `number` packs the worker's thread number and the value of n_started at its creation: earlier work is not for it. */
static void *worker(void *number)
{
    const int thread = (uintptr_t)number % MAX_THREADS;
    unsigned seen = (unsigned)((uintptr_t)number / MAX_THREADS);
    set_default_mode();
    for (;;) {
        if (!wait_for_change(&n_started, seen, 1)) {
            pthread_mutex_lock(&sleep_lock);
            atomic_fetch_add(&n_sleeping, 1);
            while (atomic_load(&n_started) == seen)
                pthread_cond_wait(&wake, &sleep_lock);
            atomic_fetch_sub(&n_sleeping, 1);
            pthread_mutex_unlock(&sleep_lock);
        }
        seen = atomic_load_explicit(&n_started, memory_order_acquire);
        if (thread < n_working)
            work(argument, thread);
        atomic_fetch_sub_explicit(&n_busy, 1, memory_order_release);
    }
    return NULL;
}

/* The child of a fork has no workers, and a thread that held a lock does not exist in it. */
static void reset_after_fork(void)
{
    n_workers = 0;
    atomic_store(&n_started, 0);
    atomic_store(&n_busy, 0);
    atomic_store(&n_sleeping, 0);
    atomic_store(&n_arrived, 0);
    pthread_mutex_init(&pool_lock, NULL);
    pthread_mutex_init(&sleep_lock, NULL);
    pthread_cond_init(&wake, NULL);
}

/* Create a worker.  Returns whether that succeeded. */
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
    pthread_sigmask(SIG_SETMASK, &all, &before); /* the worker inherits this mask and so receives no signals */
    void *number = (void *)((uintptr_t)atomic_load(&n_started) * MAX_THREADS + n_workers + 1);
    const int added = !pthread_create(&thread, &attributes, worker, number);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    n_workers += added;
    return added;
}

int microgpt_acquire_threads(int wanted)
{
    if (wanted <= 1 || pthread_mutex_trylock(&pool_lock))
        return 1;
    if (!fork_handler_set)
        fork_handler_set = !pthread_atfork(NULL, NULL, reset_after_fork);
    if (wanted > MAX_THREADS)
        wanted = MAX_THREADS;
    while (fork_handler_set && n_workers < wanted - 1 && add_worker())
        ;
    if (n_workers < 1) {
        pthread_mutex_unlock(&pool_lock);
        return 1;
    }
    return n_workers + 1 < wanted ? n_workers + 1 : wanted;
}

void microgpt_release_threads(void) { pthread_mutex_unlock(&pool_lock); }

void microgpt_run_parallel(int n_threads, void (*new_work)(void *, int), void *new_argument)
{
    work = new_work;
    argument = new_argument;
    n_working = n_threads;
    atomic_store_explicit(&n_busy, n_workers, memory_order_relaxed);
    atomic_fetch_add(&n_started, 1);
    if (atomic_load(&n_sleeping)) {
        pthread_mutex_lock(&sleep_lock);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&sleep_lock);
    }
    new_work(new_argument, 0);
    for (long tries = 0; atomic_load_explicit(&n_busy, memory_order_acquire); tries++)
        if (tries < SPINS)
            pause_briefly();
        else
            sched_yield();
}

void microgpt_barrier(int n_threads)
{
    const unsigned seen = atomic_load_explicit(&n_barriers, memory_order_acquire);
    if (atomic_fetch_add_explicit(&n_arrived, 1, memory_order_acq_rel) == n_threads - 1) {
        atomic_store_explicit(&n_arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&n_barriers, 1, memory_order_release);
    } else {
        wait_for_change(&n_barriers, seen, 0);
    }
}
