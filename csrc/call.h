/* Calls with Python's objects, which cffi's functions cannot take.  For this package's Python, and not stable. */

#ifndef MICROGPT_CALL_H
#define MICROGPT_CALL_H

#include <stdint.h>

/* Put the functions `call`, `replay`, `step`, `draw`, `set_threads` and `address` into the dictionary at this address, id(globals()) in Python:
   see call.c.  `call` looks up there `careful`, and now already `ndarray`, `empty`, `float32` and `float64`, which are
   numpy's.  1, or 0 if that failed. */
int microgpt_add_functions(uintptr_t dictionary);

#endif
