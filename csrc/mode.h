/* How a thread rounds, traps and treats subnormal numbers. */

#ifndef MICROGPT_MODE_H
#define MICROGPT_MODE_H

#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

/* It is set to the usual while kernels run, for other libraries may have changed it (those built with -ffast-math do when
   they are loaded), and then set back. */
#if defined(__x86_64__)
enum { USUAL_MODE = 0x1f80 };
static inline unsigned get_mode(void) { return _mm_getcsr() & ~0x3fu; /* but for what has happened */ }
static inline void set_mode(unsigned mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
enum { USUAL_MODE = 0 };
static inline unsigned get_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (unsigned)mode;
}
static inline void set_mode(unsigned mode) { __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode)); }
#else
enum { USUAL_MODE = 0 };
static inline unsigned get_mode(void) { return USUAL_MODE; }
static inline void set_mode(unsigned mode) { (void)mode; }
#endif

static inline void set_usual_mode(void)
{
    if (get_mode() != USUAL_MODE)
        set_mode(USUAL_MODE);
}

#endif
