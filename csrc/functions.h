/* exp, log and square root of a vector.  Polynomials and bit operations replace the C library's functions, whose
   results differ between machines.  f32.c and f64.c define the coefficients. */

/* exp(x) for x <= 0, within 1 ulp; 0 where x < least, and NaN where x is NaN.  Requires least >= EXP_MIN.
   x = k ln2 + r with |r| <= ln2 / 2.  A minimax polynomial gives exp(r), and the exponent bits give 2^k.
   Adding ROUNDER = 1.5 * 2^MANTISSA_BITS rounds to an integer and leaves that integer in the low bits of the sum. */
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

/* sqrt(x) for x = 0 and normal x > 0, within 1 ulp, faster than the processor's instruction; NaN for infinite x.
   Halving the exponent in the bits gives a first y near 1 / sqrt(x).  Each step turns the error e = 1 - x y^2 into
   about e^3.  The last line is a Newton step on the root itself. */
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

/* log(x) for finite x >= 1, within 2 ulp; NaN where x is NaN.
   x = 2^k m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s) with s = (m - 1) / (m + 1), an odd polynomial in s. */
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
    return choose(not_less(x, set1(1)), y, x); /* returns NaN for NaN */
}
