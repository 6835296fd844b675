/* A vector of W reals and its operations, for the instruction set that the compiler targets.

   The file of each instruction set defines the same names:

     W                        the number of reals in a vector
     TILE_HEIGHT, TILE_WIDTH(height)  the largest matmul tile that fits the registers: see kernels.c
     vec, mask                a vector, and a set of its lanes
     load, store              W reals, aligned or not
     set1(x)                  x in every lane
     lane0(x)                 the first lane
     to_bits, from_bits       the same bits as integers (vec_bits), and back
     first(n)                 the mask of the first n lanes: all lanes if n >= W, none if n <= 0
     load_some, store_some    access memory only in the lanes of a mask; the other lanes load as 0
     fmadd(a, b, c)           a b + c, rounded once
     fmadd_some(a, b, c, k)   a b + c in the lanes of k, c in the others
     max(a, b)                a > b ? a : b, which is NaN where b is NaN
     less(a, b)               the mask of a < b
     not_less(a, b)           the mask of a >= b, which is false for NaN
     choose(k, yes, no)       yes in the lanes of k, no in the others
     sum_lanes, max_lanes     over the lanes of one vector: lane l adds lane l + W/2, then l + W/4, ..., l + 1
     transpose_lanes(r)       moves lane l of r[i] to lane i of r[l]

   Each operation rounds correctly or moves bits, so a lane holds the same bits for every W.  Only the order of a sum
   could depend on W.  Therefore every sum down a column uses LANES partial sums, in as many vectors as that takes, and
   one fixed tree adds them: see `reduce`. */

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

/* The next vector of an array with n elements left.  A full vector uses no mask, because masks cost time. */
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
    const vec size = from_bits(to_bits(x) & ((bits)-1 >> 1)); /* |x|: clears the sign bit */
    return choose(less(size, set1(least)), set1(0), x);
}

/* The sum of LANES partial sums.  The tree is the same at every width: l adds l + 8, then l + 4, l + 2, l + 1. */
INLINE real reduce(vec sum[LANES / W])
{
    for (int half = LANES / W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            sum[i] += sum[i + half];
    return lane0(sum_lanes(sum[0]));
}
