/* The kernels for float: the definitions that differ from double, then the shared bodies. */

#include <stdint.h>

typedef float real;
typedef uint32_t bits; /* an unsigned integer as wide as a real */
#define REAL_BYTES 4

#define API(name) microgpt_##name##_f32
#define SQRT sqrtf
#define FMA fmaf
#define AVX512(name) _mm512_##name##_ps
#define AVX512_COMPARE _mm512_cmp_ps_mask
#define AVX512_MASK __mmask16
#define AVX2(name) _mm256_##name##_ps
#define NEON(name) name##_f32

/* The floating-point format: fraction bits and exponent bias. */
#define MANTISSA_BITS 23
#define MANTISSA_MASK 0x7fffffu
#define EXPONENT_BIAS 127
#define ONE_BITS 0x3f800000u       /* the bits of 1 */
#define SQRT_HALF_BITS 0x3f3504f3u /* the bits of sqrt(1/2) */
#define ROUNDER 0x1.8p23f          /* the low bits of x + ROUNDER hold x rounded to an integer */
#define ROUNDER_BITS 0x4b400000u   /* the bits of ROUNDER */
#define RSQRT_BITS 0x5f375a86u     /* RSQRT_BITS - bits(x) / 2 are the bits of roughly 1 / sqrt(x) */
#define RSQRT_STEPS 1

/* Kernels replace a probability or gradient below TINY by 0: it is too small to change a sum, but the product of two
   such numbers would be subnormal, and processors are a hundred times slower on subnormal numbers.  TINY_STATE is the
   limit for Adam's m and v, which would otherwise decay over many steps until they are subnormal. */
#define TINY 0x1p-52f
#define TINY_STATE 0x1p-108f
#define LOG_TINY -36.043653f
#define EXP_MIN -87.33654f /* log of the smallest normal number */

/* for exp and log in functions.h */
#define LOG2_E 1.44269504f
#define LN2_HIGH 0.69140625f /* ln 2 = LN2_HIGH + LN2_LOW, and k LN2_HIGH is exact for every exponent k */
#define LN2_LOW 1.7409305599e-3f
#define EXP_COEFFICIENTS {0.5f, 0.16666577f, 0.041666555f, 8.363179e-3f, 1.3926184e-3f}
#define LOG_COEFFICIENTS {0.66666685f, 0.39988747f, 0.29581486f}

#include "kernels.c"
#include "attention.c"
#include "draw.c"
#include "program.c"
