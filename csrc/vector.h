/* A vector of W reals, and what the kernels do with it, for whichever instruction set the compiler was asked for.

   Each instruction set has a file that gives the same list of names:

     W                        how many reals a vector holds
     TILE_HEIGHT, TILE_WIDTH(height)  how large a tile of the matrix product fits its registers: see kernels.c
     vec, mask                the vector, and which of its lanes take part
     load, store              W reals, aligned or not
     set1(x)                  x in every lane
     lane0(x)                 the first lane
     to_bits, from_bits       the same bits as integers (vec_bits) and back
     first(n)                 the mask of the first n lanes: all where n >= W, none where n <= 0
     load_some, store_some    only the lanes of a mask; no other memory is touched, and other lanes load as 0
     fmadd(a, b, c)           a b + c, rounded once
     fmadd_some(a, b, c, k)   the same in the lanes of k, and c in the others
     max(a, b)                a > b ? a : b, so that a NaN in b comes through
     less(a, b)               the mask of a < b
     not_less(a, b)           the mask of a >= b
     choose(k, yes, no)       yes in the lanes of k, no in the others
     sum_lanes, max_lanes     over the lanes of one vector: lane l takes lane l + W/2, then l + W/4 ..., l + 1
     transpose_lanes(r)       r[i], lane l  becomes  r[l], lane i

   All of them are exactly rounded or move bits, so a lane holds the same bits whatever W is.  What could differ between
   widths is the order of a sum, and so every sum down a column runs in LANES partial sums, however many vectors these
   are, which are then added up by one tree: see `reduce`. */

#include <math.h>
#include <stddef.h>
#include <string.h>

enum { LANES = 16 };

#if defined(MICROGPT_SCALAR)
#include "vector_scalar.h"
#elif defined(__AVX512F__)
#include "vector_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "vector_avx2.h"
#elif defined(__aarch64__)
#include "vector_neon.h"
#else
#include "vector_scalar.h"
#endif

/* The next vector of an array with n elements left; a whole one without a mask, for masks take time. */
INLINE vec load_left(const real *p, ptrdiff_t n) { return n >= W ? load(p) : load_some(p, first(n)); }
INLINE void store_left(real *p, vec x, ptrdiff_t n)
{
    if (n >= W)
        store(p, x);
    else
        store_some(p, x, first(n));
}

/* x, or 0 where |x| < least */
INLINE vec drop_tiny(vec x, real least)
{
    const vec size = from_bits(to_bits(x) & ((bits)-1 >> 1)); /* |x|: without the sign bit */
    return choose(less(size, set1(least)), set1(0), x);
}

/* The sum of LANES partial sums, by one tree at every width: l takes l + 8, then l + 4, l + 2, l + 1. */
INLINE real reduce(vec sum[LANES / W])
{
    for (int half = LANES / W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            sum[i] += sum[i + half];
    return lane0(sum_lanes(sum[0]));
}
