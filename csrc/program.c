/* Replaying recorded calls: see program.h.  f32.c and f64.c include this file.

   A call computes each token's column separately, or it sums over tokens.  For calls by column, each thread makes all
   calls in order for its own columns, which are whole documents.  For sums, each thread computes a part of each result.
   So threads wait for each other only where the kind of call changes.  Each element has the bits of a single thread. */

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

/* Make the call on n tokens with arrays a and these sizes.  table.h explains `first`. */
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

/* Make a call on columns begin .. end - 1 of the batch. */
static void call_columns(const struct microgpt_replay *replay, const struct microgpt_call *call, int thread, int begin,
                         int end)
{
    void *a[10];
    if (begin == 0 && thread == 0 && !call->given) {
        make_call(call, call->array, call->size, 0, end);
        return;
    }
    for (int i = 0; i < call->n_arrays; i++) {
        const size_t at = call->own_layout >> i & 1 ? microgpt_part_offset(begin, thread)
                          : call->given >> i & 1    ? (size_t)replay->start + begin
                                                    : (size_t)begin;
        a[i] = call->column[i] ? (char *)call->array[i] + call->column[i] * at : call->array[i];
    }
    make_call(call, a, call->size, 0, end - begin);
}

/* The first column of this thread: the start of a document, if `position` is given. */
static int first_column(const struct microgpt_replay *replay, int thread, int n_threads)
{
    const int32_t *position = replay->position ? replay->position + replay->start : NULL;
    int begin = (int)share_begin(replay->n, thread, n_threads);
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

/* The update, if each parameter is updated as soon as its gradient is complete; otherwise NULL. */
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

/* clip / (2-norm of the gradient), or NAN if the norm is not finite.  This thread squares blocks begin .. end - 1. */
static double clip_scale(const struct microgpt_replay *replay, size_t begin, size_t end, size_t n_blocks, int n_threads)
{
    const struct microgpt_update *u = replay->update;
    for (size_t b = begin; b < end; b++) {
        const size_t at = b * MICROGPT_BLOCK, left = u->count - at;
        u->squares[b] = sum_of_squares((real *)u->grad + at, left < MICROGPT_BLOCK ? left : MICROGPT_BLOCK);
    }
    if (n_threads > 1)
        replay->barrier(n_threads);
    double sum = 0;
    for (size_t b = 0; b < n_blocks; b++) /* each thread computes the same bits */
        sum += u->squares[b];
    return isfinite(sum) ? u->clip / (sqrt(sum) + 1e-6) : NAN; /* 1e-6 as in PyTorch's clip_grad_norm_ */
}

/* A thread's part of the update of all parameters, after all gradients: a range of blocks. */
static void update_all(const struct microgpt_replay *replay, int thread, int n_threads)
{
    const struct microgpt_update *u = replay->update;
    const size_t n_blocks = (u->count + MICROGPT_BLOCK - 1) / MICROGPT_BLOCK;
    const size_t begin = share_begin(n_blocks, thread, n_threads), end = share_begin(n_blocks, thread + 1, n_threads);
    if (n_threads > 1)
        replay->barrier(n_threads);
    const double factor = u->clip > 0 ? clip_scale(replay, begin, end, n_blocks, n_threads) : 1;
    if (isnan(factor) || begin == end)
        return;
    const size_t at = begin * MICROGPT_BLOCK, last = end * MICROGPT_BLOCK, n = (last < u->count ? last : u->count) - at;
    real *grad = (real *)u->grad + at;
    if (factor < 1)
        scale(grad, factor, n);
    update(u, grad, n);
}

/* Compute columns begin .. end - 1 of a sum over the batch's tokens, and update these parameters if that is early. */
static void call_sum(const struct microgpt_replay *replay, const struct microgpt_call *call, int begin, int end)
{
    if (begin == 0 && end == call->n_columns && !call->given) { /* the whole sum, as it was recorded */
        make_call(call, call->array, call->size, 0, replay->n);
        if (call->is_gradient && early_update(replay))
            update(replay->update, call->array[call->result], (size_t)end * call->rows);
        return;
    }
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

/* A thread's part of the sums call .. last - 1.  Their columns in order form one sequence, which is cut into parts with
   equally many numbers.  So one thread computes most sums whole, and reads other threads' results only for its own. */
static void share_sums(const struct microgpt_replay *replay, const struct microgpt_call *call,
                       const struct microgpt_call *last, int thread, int n_threads)
{
    int64_t total = 0, before = 0;
    for (const struct microgpt_call *c = call; c < last; c++)
        total += (int64_t)c->n_columns * c->rows;
    const int64_t from = share_begin(total, thread, n_threads), to = share_begin(total, thread + 1, n_threads);
    for (; call < last; call++) {
        const int64_t n = call->n_columns, m = call->rows > 0 ? call->rows : 1;
        /* a column belongs to the part in which it begins */
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
            if (begin < end || thread == 0) /* thread 0 also calls without columns: the call may have zeros to write */
                call_columns(replay, call, thread, begin, end);
        if (n_threads > 1)
            replay->barrier(n_threads);
        if (first && replay->update) {
            real loss; /* each thread computes the same bits */
            API(cross_entropy_sum)(&loss, replay->losses, (const real *)replay->weights + replay->start, replay->n);
            if (thread == 0)
                replay->loss = loss;
            if (!isfinite(loss))
                return;
        }
        const struct microgpt_call *sums = call;
        while (call < last && call->sums && (call == sums || !call->needs_barrier))
            call++;
        share_sums(replay, sums, call, thread, n_threads);
        if (n_threads > 1 && call < last)
            replay->barrier(n_threads);
    }
    if (replay->update && !early_update(replay))
        update_all(replay, thread, n_threads);
}
