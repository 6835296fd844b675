/* AVX-512: see vector.h for the names. */

#include <immintrin.h>

#define VECTOR_BYTES 64
#define TILE_HEIGHT 4
#define TILE_WIDTH(height) ((height) <= 2 ? 12 : (height) == 3 ? 8 : 6)

#include "vector_simd.h"

typedef AVX512_MASK mask;

INLINE mask first(int n) { return n >= W ? (mask)~0u : n <= 0 ? (mask)0 : (mask)((1u << n) - 1); }
INLINE vec load_some(const real *p, mask k) { return AVX512(maskz_loadu)(k, p); }
INLINE void store_some(real *p, vec x, mask k) { AVX512(mask_storeu)(p, k, x); }
INLINE vec fmadd(vec a, vec b, vec c) { return AVX512(fmadd)(a, b, c); }
INLINE vec fmadd_some(vec a, vec b, vec c, mask k) { return AVX512(mask3_fmadd)(a, b, c, k); }
INLINE vec max(vec a, vec b) { return AVX512(max)(a, b); }
INLINE mask less(vec a, vec b) { return AVX512_COMPARE(a, b, _CMP_LT_OQ); }
INLINE mask not_less(vec a, vec b) { return AVX512_COMPARE(a, b, _CMP_GE_OQ); }
INLINE vec choose(mask k, vec yes, vec no) { return AVX512(mask_blend)(k, no, yes); }
