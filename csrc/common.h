/* What all of the C here begins with, whatever the precision. */

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

#ifdef __clang__ /* does not say of parts of it, but can be told to do without; gcc has no such lines */
#pragma float_control(precise, on)
#pragma STDC FP_CONTRACT OFF
#endif

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#error "expected gcc 12 or newer, or clang: the kernels use __builtin_shufflevector"
#endif

#ifdef MICROGPT_COVERAGE
#define INLINE static __attribute__((unused)) /* so that a function is counted once, not once for each call */
#else
#define INLINE static inline __attribute__((always_inline))
#endif

/* Of n things shared out in order, how many come before those of a thread. */
INLINE int64_t before_thread(int64_t n, int thread, int n_threads) { return n * thread / n_threads; }

/* Attention works on so many tokens at a time, or a document more, so that its scratch stays in the cache. */
enum { STRETCH = 256 };

/* Columns between the stretches of threads, or of one, for whole vectors at any width. */
enum { PADDING = 16, APART = 2 * PADDING };

#endif
