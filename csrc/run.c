/* Running kernels: see run.h. */

#include <Python.h>

#include <pthread.h>

#include "common.h"
#include "kernels.h"
#include "mode.h"
#include "pool.h"
#include "run.h"

enum { STACK_KB = 112 }; /* more than any kernel takes (see kernels.h), a handler of signals included */

/* Whether this thread has not so much stack left: a RuntimeError then, for a kernel would end the process. */
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

/* Let statements run without Python's lock, in the usual mode. */
#define BEGIN_KERNELS                   \
    Py_BEGIN_ALLOW_THREADS;             \
    const unsigned its_mode = get_mode(); \
    if (its_mode != USUAL_MODE) \
        set_mode(USUAL_MODE)
#define END_KERNELS             \
    if (its_mode != USUAL_MODE) \
        set_mode(its_mode);     \
    Py_END_ALLOW_THREADS

struct job {
    char format;
    struct microgpt_replay *replay;
    int n_threads;
};

static void work(void *argument, int thread)
{
    const struct job *job = argument;
    (job->format == 'f' ? microgpt_replay_f32 : microgpt_replay_f64)(job->replay, thread, job->n_threads);
}

static void go_on(int n_threads) { (void)n_threads; }

/* Whether a call sums over columns, for which all of them have to be done. */
static int any_sums(const struct microgpt_replay *replay)
{
    for (int i = 0; i < replay->n_calls; i++)
        if (replay->calls[i].sums)
            return 1;
    return 0;
}

/* Replay calls by so many threads; 0, or -1 with an error set.  Where they cannot be had one does all: part by part, for
   what is kept from one replay to the next (keys and values) is laid out by parts, unless the parts depend on each other. */
int microgpt_run(char format, struct microgpt_replay *replay, int n_threads)
{
    if (stack_is_short())
        return -1;
    BEGIN_KERNELS;
    struct job job = {format, replay, n_threads};
    const int hired = microgpt_hire(n_threads);
    replay->meet = microgpt_meet;
    if (hired > 1 && hired == n_threads) {
        microgpt_together(n_threads, work, &job);
    } else {
        replay->meet = go_on;
        if (n_threads > 1 && any_sums(replay))
            job.n_threads = 1;
        for (int thread = 0; thread < job.n_threads; thread++)
            work(&job, thread);
    }
    if (hired > 1)
        microgpt_release();
    END_KERNELS;
    return 0;
}

static void draw_part(void *argument, int thread)
{
    struct microgpt_drawing *d = argument;
    const int begin = (int)before_thread(d->n, thread, d->n_threads),
              end = (int)before_thread(d->n, thread + 1, d->n_threads);
    const size_t m = d->m, before = begin * m, scratch = (begin + (size_t)thread) * m;
    const int n = end - begin;
    int32_t *token = d->token + begin, *work = d->work + thread * m;
    const double *uniform = d->uniform + begin;
    const int fine = d->format == 'f' ? microgpt_draw_f32(token, (float *)d->probs + scratch, work,
                                                          (const float *)d->logits + before, uniform, d->temperature,
                                                          d->top_k, d->top_p, d->m, n)
                                      : microgpt_draw_f64(token, (double *)d->probs + scratch, work,
                                                          (const double *)d->logits + before, uniform, d->temperature,
                                                          d->top_k, d->top_p, d->m, n);
    if (!fine)
        atomic_store(&d->not_finite, 1);
}

int microgpt_run_drawing(struct microgpt_drawing *d)
{
    BEGIN_KERNELS;
    const int hired = microgpt_hire(d->n_threads);
    d->n_threads = hired;
    if (hired > 1) {
        microgpt_together(hired, draw_part, d);
        microgpt_release();
    } else {
        draw_part(d, 0);
    }
    END_KERNELS;
    return !atomic_load(&d->not_finite);
}
