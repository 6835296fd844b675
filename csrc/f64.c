/* The kernels for double: the definitions that differ from float, then the shared bodies.  f32.c explains each name. */

#include <stdint.h>

typedef double real;
typedef uint64_t bits;
#define REAL_BYTES 8

#define API(name) microgpt_##name##_f64
#define SQRT sqrt
#define FMA fma
#define AVX512(name) _mm512_##name##_pd
#define AVX512_COMPARE _mm512_cmp_pd_mask
#define AVX512_MASK __mmask8
#define AVX2(name) _mm256_##name##_pd
#define NEON(name) name##_f64

#define MANTISSA_BITS 52
#define MANTISSA_MASK 0xfffffffffffffull
#define EXPONENT_BIAS 1023
#define ONE_BITS 0x3ff0000000000000ull
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdull
#define ROUNDER 0x1.8p52
#define ROUNDER_BITS 0x4338000000000000ull
#define RSQRT_BITS 0x5fe6eb50c7b537a9ull
#define RSQRT_STEPS 2

#define TINY 0x1p-460
#define TINY_STATE 0x1p-924
#define LOG_TINY -318.8477030575765
#define EXP_MIN -708.3964185322641

#define LOG2_E 1.4426950408889634
#define LN2_HIGH 0x1.62e42fefa3800p-1
#define LN2_LOW 5.497923018708371e-14
#define EXP_COEFFICIENTS                                                                             \
    {0.5000000000000001,     0.16666666666666669,    0.04166666666662413,    0.008333333333330062,   \
     0.0013888888917213717,  0.00019841269863053618, 2.4801521295954376e-05, 2.7557268459997064e-06, \
     2.7620088445409746e-07, 2.510038549551032e-08}
#define LOG_COEFFICIENTS                                                                \
    {0.666666666666667,   0.39999999999898594, 0.2857142862638853, 0.22222211067419392, \
     0.18182894030543298, 0.15331558670323325, 0.14618462083796982}

#include "kernels.c"
#include "attention.c"
#include "draw.c"
#include "program.c"
