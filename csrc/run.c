/* Running kernels for Python: see run.h. */

#include <Python.h>

#include <pthread.h>

#include "common.h"
#include "kernels.h"
#include "mode.h"
#include "pool.h"
#include "run.h"

enum { STACK_KB = 112 }; /* more than any kernel (see kernels.h) and a signal handler need together */

/* Whether less than STACK_KB of stack is left.  Sets a RuntimeError then, because a kernel could overflow the stack. */
static int stack_is_short(void)
{
    static _Thread_local const char *lowest; /* of this thread's stack */
    const char *here = __builtin_frame_address(0);
#if defined(__linux__)
    pthread_attr_t attributes;
    void *base = NULL;
    size_t size;
    if (!lowest && pthread_getattr_np(pthread_self(), &attributes) == 0) {
        pthread_attr_getstack(&attributes, &base, &size);
        pthread_attr_destroy(&attributes);
        lowest = base;
    }
#elif defined(__APPLE__)
    if (!lowest)
        lowest = (char *)pthread_get_stackaddr_np(pthread_self()) - pthread_get_stacksize_np(pthread_self());
#endif
    if (!lowest || here - lowest >= STACK_KB * 1024)
        return 0;
    PyErr_Format(
        PyExc_RuntimeError,
        "expected a thread with %d KB of stack for the kernels, found %zd KB left: threading.stack_size sets it",
        STACK_KB, (Py_ssize_t)(here - lowest) / 1024);
    return 1;
}

/* The statements between these two run without the GIL and in the default floating-point mode. */
#define BEGIN_KERNELS                        \
    Py_BEGIN_ALLOW_THREADS;                  \
    const unsigned caller_mode = get_mode(); \
    if (caller_mode != DEFAULT_MODE)         \
        set_mode(DEFAULT_MODE)
#define END_KERNELS                  \
    if (caller_mode != DEFAULT_MODE) \
        set_mode(caller_mode);       \
    Py_END_ALLOW_THREADS

struct job {
    char format;
    struct microgpt_replay *replay;
    int n_threads;
};

static void replay_part(void *argument, int thread)
{
    const struct job *job = argument;
    (job->format == 'f' ? microgpt_replay_f32 : microgpt_replay_f64)(job->replay, thread, job->n_threads);
}

static void no_barrier(int n_threads) { (void)n_threads; }

/* Whether a call sums over tokens, and so needs all columns of the calls before it. */
static int any_sums(const struct microgpt_replay *replay)
{
    for (int i = 0; i < replay->n_calls; i++)
        if (replay->calls[i].sums)
            return 1;
    return 0;
}

int microgpt_run(char format, struct microgpt_replay *replay, int n_threads)
{
    if (stack_is_short())
        return -1;
    BEGIN_KERNELS;
    struct job job = {format, replay, n_threads};
    const int n_acquired = microgpt_acquire_threads(n_threads);
    replay->barrier = microgpt_barrier;
    if (n_acquired > 1 && n_acquired == n_threads) {
        microgpt_run_parallel(n_threads, replay_part, &job);
    } else {
        replay->barrier = no_barrier;
        if (n_threads > 1 && any_sums(replay))
            job.n_threads = 1;
        for (int thread = 0; thread < job.n_threads; thread++)
            replay_part(&job, thread);
    }
    if (n_acquired > 1)
        microgpt_release_threads();
    END_KERNELS;
    return 0;
}

static void draw_part(void *argument, int thread)
{
    struct microgpt_drawing *d = argument;
    const int begin = (int)share_begin(d->n, thread, d->n_threads),
              end = (int)share_begin(d->n, thread + 1, d->n_threads);
    const size_t m = d->m, before = begin * m, scratch = (begin + (size_t)thread) * m;
    const int n = end - begin;
    int32_t *token = d->token + begin, *work = d->work + thread * m;
    const double *uniform = d->uniform + begin;
    const int finite = d->format == 'f' ? microgpt_draw_f32(token, (float *)d->probs + scratch, work,
                                                            (const float *)d->logits + before, uniform, d->temperature,
                                                            d->top_k, d->top_p, d->m, n)
                                        : microgpt_draw_f64(token, (double *)d->probs + scratch, work,
                                                            (const double *)d->logits + before, uniform, d->temperature,
                                                            d->top_k, d->top_p, d->m, n);
    if (!finite)
        atomic_store(&d->not_finite, 1);
}

int microgpt_run_drawing(struct microgpt_drawing *d)
{
    BEGIN_KERNELS;
    const int n_acquired = microgpt_acquire_threads(d->n_threads);
    d->n_threads = n_acquired;
    if (n_acquired > 1) {
        microgpt_run_parallel(n_acquired, draw_part, d);
        microgpt_release_threads();
    } else {
        draw_part(d, 0);
    }
    END_KERNELS;
    return !atomic_load(&d->not_finite);
}
