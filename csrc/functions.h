/* exp, log and square root of a vector: polynomials and bits instead of the C library's, so that every machine gets the
   same.  The coefficients are in f32.c and f64.c. */

/* exp(x) for x <= 0, to 1 ulp; 0 where x < least, which is EXP_MIN or more; NaN where x is.
   x = k ln2 + r with |r| <= ln2 / 2; exp(r) is a minimax polynomial; 2^k is put together from its bits.
   Adding 1.5 * 2^(mantissa bits) rounds to a whole number, which is then the low bits of the sum. */
INLINE vec exp_nonpositive(vec x, real least)
{
    const mask tiny = less(x, set1(least));
    const vec clamped = max(set1(least), x);
    const vec shifted = fmadd(clamped, set1(LOG2_E), set1(ROUNDER));
    const vec k = shifted - set1(ROUNDER);
    const vec r = fmadd(k, set1(-LN2_LOW), fmadd(k, set1(-LN2_HIGH), clamped));
    static const real c[] = EXP_COEFFICIENTS; /* exp(r) = 1 + r + r^2 (c0 + c1 r + ...) */
    const int n = sizeof c / sizeof *c;
    vec p = set1(c[n - 1]);
    for (int i = n - 2; i >= 0; i--)
        p = fmadd(p, r, set1(c[i]));
    p = fmadd(fmadd(p, r, set1(1)), r, set1(1));
    const vec power = from_bits((to_bits(shifted) + EXPONENT_BIAS) << MANTISSA_BITS);
    return choose(tiny, set1(0), p * power);
}

/* sqrt(x) for x = 0 and normal x > 0, to 1 ulp, in less time than the processor's own; NaN for infinite x.
   Half the exponent, from the bits, begins 1 / sqrt(x); each step turns an error e of x y^2 into about e^3; the last is
   Newton's, on the root itself. */
INLINE vec square_root(vec x)
{
    vec y = from_bits(RSQRT_BITS - (to_bits(x) >> 1));
    for (int i = 0; i < RSQRT_STEPS; i++) {
        const vec e = fmadd(set1(0) - x * y, y, set1(1));
        y = fmadd(y * e, fmadd(set1((real)0.375), e, set1((real)0.5)), y);
    }
    const vec root = x * y;
    return fmadd(fmadd(set1(0) - root, root, x), y * (real)0.5, root);
}

/* log(x) for finite x >= 1, to 2 ulp; NaN where x is.
   x = 2^k m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s) with s = (m - 1) / (m + 1), an odd polynomial. */
INLINE vec log_from_one(vec x)
{
    const vec_bits b = to_bits(x) + (ONE_BITS - SQRT_HALF_BITS);
    const vec_bits e = b >> MANTISSA_BITS; /* k + bias */
    const vec k = from_bits(e + ROUNDER_BITS) - set1(ROUNDER + EXPONENT_BIAS);
    const vec m = from_bits((b & MANTISSA_MASK) + SQRT_HALF_BITS);
    const vec s = (m - set1(1)) / (m + set1(1)), z = s * s;
    static const real c[] = LOG_COEFFICIENTS; /* log m = 2 s + s z (c0 + c1 z + ...) */
    const int n = sizeof c / sizeof *c;
    vec p = set1(c[n - 1]);
    for (int i = n - 2; i >= 0; i--)
        p = fmadd(p, z, set1(c[i]));
    const vec log_m = fmadd(p * z, s, s + s);
    const vec y = fmadd(k, set1(LN2_HIGH), fmadd(k, set1(LN2_LOW), log_m));
    return choose(not_less(x, set1(1)), y, x); /* a NaN stays one */
}
