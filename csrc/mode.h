/* The floating-point mode of a thread: rounding, traps and the treatment of subnormal numbers. */

#ifndef MICROGPT_MODE_H
#define MICROGPT_MODE_H

#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

/* Kernels run in the default mode, and the caller's mode is restored afterwards: another library may have changed it,
   as those built with -ffast-math do when they are loaded. */
#if defined(__x86_64__)
enum { DEFAULT_MODE = 0x1f80 };
static inline unsigned get_mode(void) { return _mm_getcsr() & ~0x3fu; /* without the six exception flags */ }
static inline void set_mode(unsigned mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
enum { DEFAULT_MODE = 0 };
static inline unsigned get_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (unsigned)mode;
}
static inline void set_mode(unsigned mode) { __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode)); }
#else
enum { DEFAULT_MODE = 0 };
static inline unsigned get_mode(void) { return DEFAULT_MODE; }
static inline void set_mode(unsigned mode) { (void)mode; }
#endif

static inline void set_default_mode(void)
{
    if (get_mode() != DEFAULT_MODE)
        set_mode(DEFAULT_MODE);
}

#endif
