/* AVX2 with FMA: see vector.h for the names. */

#include <immintrin.h>

#define VECTOR_BYTES 32
#define TILE_HEIGHT 2
#define TILE_WIDTH(height) ((height) == 1 ? 12 : 6)

#include "vector_simd.h"

typedef vec_bits mask; /* all bits of a lane are set, or none */

INLINE mask first(int n)
{
#define ALL_BITS(s, l) (bits) - 1
    static const bits on[2 * W] = {PER_LANE(ALL_BITS, )}; /* W lanes set, then W clear */
    mask k;
    n = n >= W ? W : n <= 0 ? 0 : n;
    memcpy(&k, on + W - n, sizeof k);
    return k;
}
INLINE vec load_some(const real *p, mask k) { return AVX2(maskload)(p, (__m256i)k); }
INLINE void store_some(real *p, vec x, mask k) { AVX2(maskstore)(p, (__m256i)k, x); }
INLINE vec fmadd(vec a, vec b, vec c) { return AVX2(fmadd)(a, b, c); }
INLINE vec max(vec a, vec b) { return AVX2(max)(a, b); }
INLINE mask less(vec a, vec b) { return (mask)AVX2(cmp)(a, b, _CMP_LT_OQ); }
INLINE mask not_less(vec a, vec b) { return (mask)AVX2(cmp)(a, b, _CMP_GE_OQ); }
INLINE vec choose(mask k, vec yes, vec no) { return AVX2(blendv)(no, yes, (vec)k); }
INLINE vec fmadd_some(vec a, vec b, vec c, mask k) { return choose(k, fmadd(a, b, c), c); }
