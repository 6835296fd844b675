/* The kernels, compiled from one body for float and for double; kernels.h is what they offer.

   Build with -ffp-contract=off: where a multiply and an add are fused the code says fma, and nowhere else.
   With that, and without fast-math, every build gives the same bits: AVX-512, AVX2, NEON or plain C. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels.h"

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "the kernels promise exact bits: build them without -ffast-math"
#endif

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#error "expected gcc 12 or newer, or clang: the kernels use __builtin_shufflevector"
#endif

#define INLINE static inline __attribute__((always_inline))

enum { STRETCH = 256 }; /* so many tokens, or a document more, are in attention's hands at a time */

size_t token_rows(int n_tokens)
{
    /* a multiple of LANES is whole vectors at any width; an odd one, for columns a power of two apart crowd the cache */
    return (((size_t)n_tokens + LANES - 1) / LANES | 1) * LANES;
}

size_t attention_rows(int n_tokens)
{
    /* every stretch but the last has STRETCH tokens or more, and each is padded by less than 2 LANES */
    return n_tokens + (size_t)(n_tokens / STRETCH + 1) * 2 * LANES;
}

/* Whether to go from the last column to the first.  Where `out` lies a little after `in`, but for their pages, loads of
   the next columns would wait for the stores to this one: the processor takes their addresses for the same. */
static inline int from_last(const void *out, const void *in) { return ((uintptr_t)out - (uintptr_t)in) % 4096 < 2048; }

#define real float
#define bits uint32_t
#define REAL_BYTES 4
#define FN(name) name##_f32
#define SCALAR(name) name##f
#define AVX512(name) _mm512_##name##_ps
#define AVX512_COMPARE _mm512_cmp_ps_mask
#define AVX512_MASK __mmask16
#define AVX2(name) _mm256_##name##_ps
#define NEON(name) name##_f32
#define ALL_ON -1, -1, -1, -1, -1, -1, -1, -1
#define MANTISSA_BITS 23
#define MANTISSA_MASK 0x7fffffu
#define EXPONENT_BIAS 127
#define ROUNDER 0x1.8p23f
#define ROUNDER_BITS 0x4b400000u
#define ONE_BITS 0x3f800000u
#define SQRT_HALF_BITS 0x3f3504f3u
#define RSQRT_BITS 0x5f375a86u
#define RSQRT_STEPS 1
#define TINY 0x1p-52f       /* what is far below the rounding of the numbers it meets */
#define TINY_STATE 0x1p-108f /* Adam's m and v, with room to decay before they are subnormal */
#define LOG_TINY -36.043653f
#define EXP_MIN -87.33654f /* log of the smallest normal number */
#define LOG2_E 1.44269504f
#define LN2_HIGH 0.69140625f
#define LN2_LOW 1.7409305599e-3f
#define EXP_COEFFICIENTS {0.5f, 0.16666577f, 0.041666555f, 8.363179e-3f, 1.3926184e-3f}
#define LOG_COEFFICIENTS {0.66666685f, 0.39988747f, 0.29581486f}
#include "kernels.inc"

#define real double
#define bits uint64_t
#define REAL_BYTES 8
#define FN(name) name##_f64
#define SCALAR(name) name
#define AVX512(name) _mm512_##name##_pd
#define AVX512_COMPARE _mm512_cmp_pd_mask
#define AVX512_MASK __mmask8
#define AVX2(name) _mm256_##name##_pd
#define NEON(name) name##_f64
#define ALL_ON -1, -1, -1, -1
#define MANTISSA_BITS 52
#define MANTISSA_MASK 0xfffffffffffffull
#define EXPONENT_BIAS 1023
#define ROUNDER 0x1.8p52
#define ROUNDER_BITS 0x4338000000000000ull
#define ONE_BITS 0x3ff0000000000000ull
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdull
#define RSQRT_BITS 0x5fe6eb50c7b537a9ull
#define RSQRT_STEPS 2
#define TINY 0x1p-460
#define TINY_STATE 0x1p-924
#define LOG_TINY -318.8477030575765
#define EXP_MIN -708.3964185322641
#define LOG2_E 1.4426950408889634
#define LN2_HIGH 0x1.62e42fefa3800p-1
#define LN2_LOW 5.497923018708371e-14
#define EXP_COEFFICIENTS {0.5000000000000001, 0.16666666666666669, 0.04166666666662413, 0.008333333333330062,  \
        0.0013888888917213717, 0.00019841269863053618, 2.4801521295954376e-05, 2.7557268459997064e-06,           \
        2.7620088445409746e-07, 2.510038549551032e-08}
#define LOG_COEFFICIENTS {0.666666666666667, 0.39999999999898594, 0.2857142862638853, 0.22222211067419392,     \
        0.18182894030543298, 0.15331558670323325, 0.14618462083796982}
#include "kernels.inc"

int best_isa(void)
{
#if defined(__x86_64__)
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

const char *compiler(void)
{
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}
