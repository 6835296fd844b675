/* What both precisions share: sizes of attention's arrays, the kernel table, the processor and the compiler. */

#include "common.h"
#include "kernels.h"
#include "program.h"

size_t microgpt_token_rows(int n_tokens)
{
    /* an odd multiple: with columns a power of two apart, many would compete for the same cache sets */
    return (((size_t)n_tokens + PADDING - 1) / PADDING | 1) * PADDING;
}

size_t microgpt_attention_rows(int n_tokens)
{
    /* every chunk but the last has CHUNK tokens or more, and padding adds fewer than GAP to each */
    return n_tokens + (size_t)(n_tokens / CHUNK + 1) * GAP;
}

size_t microgpt_part_offset(int begin, int thread) { return begin + (size_t)(begin / CHUNK + thread) * GAP; }

enum { PACKED = 0, STRIDED = 1, SPLIT = 2 };
#define KERNEL(name, traits, shapes, call) {#name, shapes, ((traits) & STRIDED) != 0, ((traits) & SPLIT) != 0},
const struct microgpt_kernel microgpt_kernels[] = {
#include "table.h"
    {NULL, NULL, 0, 0},
};
#undef KERNEL

#define SIZE(name) #name,
const char *const microgpt_sizes[] = {
#include "table.h"
    NULL,
};
#undef SIZE

int microgpt_best_isa(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#elif defined(__aarch64__)
    return 1;
#else
    return 0;
#endif
}

const char *microgpt_compiler(void)
{
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}
