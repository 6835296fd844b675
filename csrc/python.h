/* Calls with Python's objects, which cffi's functions cannot take.  For this package's Python, and not stable. */

#ifndef MICROGPT_PYTHON_H
#define MICROGPT_PYTHON_H

#include <stdint.h>

/* Put the function `call` into the dictionary at this address, id(globals()) in Python: see python.c.  It looks up there
   `careful`, and now already `ndarray`, `empty`, `float32` and `float64`, which are numpy's.  0, or -1 for an exception. */
int microgpt_add_call(uintptr_t dictionary);

#endif
