/* A vector of one real, in plain C: see vector.h for the names. */

#define W 1
#define TILE_HEIGHT 4
#define TILE_WIDTH(height) 2

typedef real vec;
typedef bits vec_bits;
typedef int mask;

INLINE vec load(const real *p) { return *p; }
INLINE void store(real *p, vec x) { *p = x; }
INLINE vec set1(real x) { return x; }
INLINE real lane0(vec x) { return x; }
INLINE vec_bits to_bits(vec x)
{
    vec_bits b;
    memcpy(&b, &x, sizeof b);
    return b;
}
INLINE vec from_bits(vec_bits b)
{
    vec x;
    memcpy(&x, &b, sizeof x);
    return x;
}

INLINE mask first(int n) { return n > 0; }
INLINE vec load_some(const real *p, mask k) { return k ? *p : 0; }
INLINE void store_some(real *p, vec x, mask k)
{
    if (k)
        *p = x;
}
INLINE vec fmadd(vec a, vec b, vec c) { return FMA(a, b, c); }
INLINE vec fmadd_some(vec a, vec b, vec c, mask k) { return k ? fmadd(a, b, c) : c; }
INLINE vec max(vec a, vec b) { return a > b ? a : b; }
INLINE mask less(vec a, vec b) { return a < b; }
INLINE mask not_less(vec a, vec b) { return a >= b; }
INLINE vec choose(mask k, vec yes, vec no) { return k ? yes : no; }

INLINE vec sum_lanes(vec x) { return x; }
INLINE vec max_lanes(vec x) { return x; }
INLINE void transpose_lanes(vec r[W]) { (void)r; }
