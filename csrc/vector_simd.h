/* The operations of vector.h that the vector types of gcc and clang express for every instruction set.

   The file of an instruction set defines VECTOR_BYTES and then includes this one. */

#define W (VECTOR_BYTES / REAL_BYTES)

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(REAL_BYTES), may_alias));
typedef bits vec_bits __attribute__((vector_size(VECTOR_BYTES)));

INLINE vec load(const real *p) { return *(const vec_unaligned *)p; }
INLINE void store(real *p, vec x) { *(vec_unaligned *)p = x; }
INLINE vec set1(real x) { return x - (vec){0}; } /* -0 - 0 is -0 */
INLINE real lane0(vec x) { return x[0]; }
INLINE vec_bits to_bits(vec x) { return (vec_bits)x; }
INLINE vec from_bits(vec_bits b) { return (vec)b; }

/* Shuffles need lists of constants: PER_LANE(f, s) is f(s, 0), f(s, 1), ... f(s, W - 1). */
#if W == 16
#define PER_LANE(f, s)                                                                                            \
    f(s, 0), f(s, 1), f(s, 2), f(s, 3), f(s, 4), f(s, 5), f(s, 6), f(s, 7), f(s, 8), f(s, 9), f(s, 10), f(s, 11), \
        f(s, 12), f(s, 13), f(s, 14), f(s, 15)
#elif W == 8
#define PER_LANE(f, s) f(s, 0), f(s, 1), f(s, 2), f(s, 3), f(s, 4), f(s, 5), f(s, 6), f(s, 7)
#elif W == 4
#define PER_LANE(f, s) f(s, 0), f(s, 1), f(s, 2), f(s, 3)
#elif W == 2
#define PER_LANE(f, s) f(s, 0), f(s, 1)
#endif

/* step(s) for s = 1, 2, 4, ... below W, and for the same s in descending order. */
#if W == 16
#define UPWARDS(step) step(1) step(2) step(4) step(8)
#define DOWNWARDS(step) step(8) step(4) step(2) step(1)
#elif W == 8
#define UPWARDS(step) step(1) step(2) step(4)
#define DOWNWARDS(step) step(4) step(2) step(1)
#elif W == 4
#define UPWARDS(step) step(1) step(2)
#define DOWNWARDS(step) step(2) step(1)
#elif W == 2
#define UPWARDS(step) step(1)
#define DOWNWARDS(step) step(1)
#endif

#define LANE_AFTER(s, l) (((l) + (s)) % W)
#define ROTATED(x, s) __builtin_shufflevector(x, x, PER_LANE(LANE_AFTER, s)) /* lane l holds lane l + s */

INLINE vec sum_lanes(vec x)
{
#define ADD_ROTATED(s) x += ROTATED(x, s);
    DOWNWARDS(ADD_ROTATED)
    return x;
}

INLINE vec max(vec a, vec b);
INLINE vec max_lanes(vec x)
{
#define MAX_ROTATED(s) x = max(x, ROTATED(x, s));
    DOWNWARDS(MAX_ROTATED)
    return x;
}

/* The transpose swaps the register index with the lane index, one bit s at a time.  For registers i and i + s, lanes
   with bit s set in register i trade places with lanes without it in register i + s. */
#define FROM_LOW(s, l) (((l) & (s)) ? W + (l) - (s) : (l))
#define FROM_HIGH(s, l) (((l) & (s)) ? W + (l) : (l) + (s))
#define EXCHANGE(s)                                                                           \
    for (int i = 0; i < W; i++)                                                               \
        if (!(i & (s))) {                                                                     \
            const vec low = __builtin_shufflevector(r[i], r[i + (s)], PER_LANE(FROM_LOW, s)); \
            r[i + (s)] = __builtin_shufflevector(r[i], r[i + (s)], PER_LANE(FROM_HIGH, s));   \
            r[i] = low;                                                                       \
        }

INLINE void transpose_lanes(vec r[W]) { UPWARDS(EXCHANGE) }
