/* Replaying recorded calls: see program.h.  Part of f32.c and f64.c. */

#include "program.h"

#define KERNEL(name, layout, shapes, arguments) KERNEL_##name,
enum kernel {
#include "table.h"
};
#undef KERNEL

void API(replay)(const struct microgpt_call *call, int n_calls, int start, int n)
{
    for (const struct microgpt_call *end = call + n_calls; call < end; call++) {
        void *const *a = call->array, *moved[10];
        const int *ld = call->ld, m = call->m, k = call->k, accumulate = call->accumulate;
        if (call->moves) {
            for (int i = 0; i < 10; i++)
                moved[i] = call->step[i] ? (char *)call->array[i] + (ptrdiff_t)call->step[i] * start : call->array[i];
            a = moved;
        }
        switch ((enum kernel)call->kernel) {
#define KERNEL(name, layout, shapes, arguments) \
    case KERNEL_##name:                         \
        API(name) arguments;                    \
        break;
#include "table.h"
#undef KERNEL
        }
    }
}
