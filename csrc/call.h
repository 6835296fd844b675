/* Functions that take Python objects, which cffi's functions cannot.  Only this package uses them; they may change. */

#ifndef MICROGPT_CALL_H
#define MICROGPT_CALL_H

#include <stdint.h>

/* Add the functions `call`, `replay`, `step`, `draw`, `set_threads` and `address` to a Python dictionary, passed as its
   id().  It must already hold NumPy's `ndarray`, `empty`, `float32` and `float64`; `call` looks up `careful` in it when
   it needs it.  Returns whether that succeeded. */
int microgpt_add_functions(uintptr_t dictionary);

#endif
