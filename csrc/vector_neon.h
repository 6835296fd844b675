/* NEON on 64-bit Arm: see vector.h for the names. */

#include <arm_neon.h>

#define VECTOR_BYTES 16
#define TILE_HEIGHT 4
#define TILE_WIDTH(height) ((height) <= 2 ? 12 : (height) == 3 ? 8 : 6)

#include "vector_simd.h"

typedef vec_bits mask; /* all bits of a lane are set, or none */

INLINE mask first(int n)
{
    mask k;
    for (int i = 0; i < W; i++)
        k[i] = i < n ? ~(bits)0 : 0;
    return k;
}
INLINE vec load_some(const real *p, mask k)
{
    vec x = {0};
    for (int i = 0; i < W; i++)
        if (k[i])
            x[i] = p[i];
    return x;
}
INLINE void store_some(real *p, vec x, mask k)
{
    for (int i = 0; i < W; i++)
        if (k[i])
            p[i] = x[i];
}
INLINE vec fmadd(vec a, vec b, vec c) { return NEON(vfmaq)(c, a, b); }
INLINE vec choose(mask k, vec yes, vec no) { return (vec)((k & (vec_bits)yes) | (~k & (vec_bits)no)); }
INLINE mask less(vec a, vec b) { return (mask)(a < b); }
INLINE mask not_less(vec a, vec b) { return (mask)(a >= b); }
INLINE vec max(vec a, vec b) { return choose((mask)(a > b), a, b); }
INLINE vec fmadd_some(vec a, vec b, vec c, mask k) { return choose(k, fmadd(a, b, c), c); }
