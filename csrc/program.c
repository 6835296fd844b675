/* Replaying recorded calls: see program.h.  Part of f32.c and f64.c.

   Calls work column by column, or they sum over columns.  Of the former each thread does all, one after the other, for
   its own columns, which are whole documents; of the latter it makes a part of each result.  So threads meet only where
   one kind of call follows the other, and every element is computed as one thread would. */

#include "program.h"

#define KERNEL(name, traits, shapes, call) KERNEL_##name,
enum kernel {
#include "table.h"
};
#undef KERNEL

#define SIZE(name) SIZE_##name,
enum size {
#include "table.h"
};
#undef SIZE

/* The call on n tokens with arrays a and these sizes; see table.h for `first`. */
static void make_call(const struct microgpt_call *c, void *const *a, const int *size, int first, int n)
{
    const int *ld = c->ld, accumulate = c->accumulate;
    const double eps = c->eps;
#define SIZE(name) const int name = size[SIZE_##name];
#include "table.h"
#undef SIZE
    switch ((enum kernel)c->kernel) {
#define KERNEL(name, traits, shapes, call) \
    case KERNEL_##name:                    \
        call;                              \
        break;
#include "table.h"
#undef KERNEL
    }
}

/* A call on the columns begin .. end of the batch. */
static void call_columns(const struct microgpt_replay *replay, const struct microgpt_call *call, int thread, int begin,
                         int end)
{
    void *a[10];
    if (begin == 0 && thread == 0 && !call->given) {
        make_call(call, call->array, call->size, 0, end);
        return;
    }
    for (int i = 0; i < call->n_arrays; i++) {
        const size_t at = call->apart >> i & 1   ? microgpt_columns_apart(begin, thread)
                          : call->given >> i & 1 ? (size_t)replay->start + begin
                                                 : (size_t)begin;
        a[i] = call->column[i] ? (char *)call->array[i] + call->column[i] * at : call->array[i];
    }
    make_call(call, a, call->size, 0, end - begin);
}

/* Where the columns of this thread begin: at the beginning of a document. */
static int first_column(const struct microgpt_replay *replay, int thread, int n_threads)
{
    const int32_t *position = replay->position ? replay->position + replay->start : NULL;
    int begin = (int)before_thread(replay->n, thread, n_threads);
    if (position && begin > 0 && begin < replay->n)
        begin -= position[begin];
    return begin;
}

static void scale(real *x, double factor, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= (real)factor;
}

static void update(const struct microgpt_update *u, const real *gradient, size_t n)
{
    const ptrdiff_t at = gradient - (const real *)u->grad;
    if (u->decay != 1)
        scale((real *)u->param + at, u->decay, n);
    API(adam)((real *)u->param + at, (real *)u->m + at, (real *)u->v + at, gradient, u->learning_rate, u->beta1,
              u->beta2, u->eps, u->m_correction, u->v_correction, n);
}

/* The update to do to each gradient as soon as it is known, or NULL. */
static const struct microgpt_update *early_update(const struct microgpt_replay *replay)
{
    return replay->update && replay->update->clip == 0 && replay->early ? replay->update : NULL;
}

static double sum_of_squares(const real *x, size_t n)
{
    double lane[LANES] = {0}, sum = 0;
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < LANES && i + l < n; l++)
            lane[l] += (double)x[i + l] * (double)x[i + l];
    for (int l = 0; l < LANES; l++)
        sum += lane[l];
    return sum;
}

/* What a gradient is to be multiplied by, so that it is no longer than `clip`; NAN when its length is not finite. */
static double shortening(const struct microgpt_replay *replay, size_t begin, size_t end, size_t n_blocks, int n_threads)
{
    const struct microgpt_update *u = replay->update;
    for (size_t b = begin; b < end; b++) {
        const size_t at = b * MICROGPT_BLOCK, left = u->count - at;
        u->squares[b] = sum_of_squares((real *)u->grad + at, left < MICROGPT_BLOCK ? left : MICROGPT_BLOCK);
    }
    if (n_threads > 1)
        replay->meet(n_threads);
    double sum = 0;
    for (size_t b = 0; b < n_blocks; b++) /* each thread for itself, to the same bits */
        sum += u->squares[b];
    return isfinite(sum) ? u->clip / (sqrt(sum) + 1e-6) : NAN; /* as PyTorch has it, which is 0 for no gradient */
}

/* A thread's part of the update of all, block by block, when all gradients are there. */
static void update_all(const struct microgpt_replay *replay, int thread, int n_threads)
{
    const struct microgpt_update *u = replay->update;
    const size_t n_blocks = (u->count + MICROGPT_BLOCK - 1) / MICROGPT_BLOCK;
    const size_t begin = before_thread(n_blocks, thread, n_threads),
                 end = before_thread(n_blocks, thread + 1, n_threads);
    if (n_threads > 1)
        replay->meet(n_threads);
    const double factor = u->clip > 0 ? shortening(replay, begin, end, n_blocks, n_threads) : 1;
    if (isnan(factor) || begin == end)
        return;
    const size_t at = begin * MICROGPT_BLOCK, last = end * MICROGPT_BLOCK, n = (last < u->count ? last : u->count) - at;
    real *grad = (real *)u->grad + at;
    if (factor < 1)
        scale(grad, factor, n);
    update(u, grad, n);
}

/* The columns begin .. end of a sum over the batch's tokens, and the update of these. */
static void call_sum(const struct microgpt_replay *replay, const struct microgpt_call *call, int begin, int end)
{
    void *a[10];
    int size[sizeof call->size / sizeof *call->size];
    memcpy(size, call->size, sizeof size);
    if (call->split >= 0)
        size[call->split] = end - begin;
    for (int i = 0; i < call->n_arrays; i++) {
        const size_t at = call->given >> i & 1 ? (size_t)call->column[i] * replay->start : 0;
        a[i] = call->array[i] ? (char *)call->array[i] + at + (size_t)call->part[i] * begin : NULL;
    }
    make_call(call, a, size, begin, replay->n);
    if (call->is_gradient && early_update(replay))
        update(replay->update, a[call->result], (size_t)(end - begin) * call->rows);
}

/* A thread's part of such calls: the columns of their results are laid end to end, and cut where as many numbers come
   before as after.  So most results are one thread's, which has to fetch what others have computed only for these. */
static void share_sums(const struct microgpt_replay *replay, const struct microgpt_call *call,
                       const struct microgpt_call *last, int thread, int n_threads)
{
    int64_t total = 0, before = 0;
    for (const struct microgpt_call *c = call; c < last; c++)
        total += (int64_t)c->n_columns * c->rows;
    const int64_t from = before_thread(total, thread, n_threads), to = before_thread(total, thread + 1, n_threads);
    for (; call < last; call++) {
        const int64_t n = call->n_columns, m = call->rows > 0 ? call->rows : 1;
        /* a column belongs to the thread in whose part it begins */
        const int64_t begin = (from - before + m - 1) / m, end = (to - before + m - 1) / m;
        const int first = (int)(from <= before ? 0 : begin < n ? begin : n);
        const int after = (int)(to <= before ? 0 : end < n ? end : n);
        if (first < after)
            call_sum(replay, call, first, after);
        before += n * call->rows;
    }
}

void API(replay)(struct microgpt_replay *replay, int thread, int n_threads)
{
    const int begin = first_column(replay, thread, n_threads), end = first_column(replay, thread + 1, n_threads);
    const struct microgpt_call *call = replay->calls, *last = call + replay->n_calls;
    for (int first = 1; call < last; first = 0) {
        for (; call < last && !call->sums; call++)
            if (begin < end || thread == 0) /* without columns there may still be zeros to write */
                call_columns(replay, call, thread, begin, end);
        if (n_threads > 1)
            replay->meet(n_threads);
        if (first && replay->update) {
            real loss; /* each thread computes it, to the same bits */
            API(cross_entropy_sum)(&loss, replay->losses, (const real *)replay->weights + replay->start, replay->n);
            if (thread == 0)
                replay->loss = loss;
            if (!isfinite(loss))
                return;
        }
        const struct microgpt_call *sums = call;
        while (call < last && call->sums && (call == sums || !call->waits))
            call++;
        share_sums(replay, sums, call, thread, n_threads);
        if (n_threads > 1 && call < last)
            replay->meet(n_threads);
    }
    if (replay->update && !early_update(replay))
        update_all(replay, thread, n_threads);
}
