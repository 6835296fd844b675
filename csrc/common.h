/* Included first by every file that computes: checks of the compiler, and what both precisions share. */

#ifndef MICROGPT_COMMON_H
#define MICROGPT_COMMON_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#error "compile the kernels as C (gcc -c), and include kernels.h alone from C++"
#endif

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#error "the kernels promise exact bits: build them without -ffast-math or any part of it"
#endif

#if FLT_EVAL_METHOD != 0
#error "the kernels promise exact bits: this target computes with more precision than a type has (on x86, use SSE)"
#endif

#ifdef __clang__ /* some parts of -ffast-math define no macro, but clang (not gcc) can turn them off here */
#pragma float_control(precise, on)
#pragma STDC FP_CONTRACT OFF
#endif

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#error "expected gcc 12 or newer, or clang: the kernels use __builtin_shufflevector"
#endif

#ifdef MICROGPT_COVERAGE
#define INLINE static __attribute__((unused)) /* coverage then counts a function once, not once per call */
#else
#define INLINE static inline __attribute__((always_inline))
#endif

/* Where a thread's share of n items begins when n_threads threads divide them in order.  The next begins at its end. */
INLINE int64_t share_begin(int64_t n, int thread, int n_threads) { return n * thread / n_threads; }

/* Attention processes this many tokens at a time, plus the rest of the last document, so its scratch stays in cache. */
enum { CHUNK = 256 };

/* microgpt_token_rows(n) < n + GAP.  PADDING columns are whole vectors at every vector width. */
enum { PADDING = 16, GAP = 2 * PADDING };

#endif
