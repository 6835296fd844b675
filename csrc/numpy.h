/* What Python is given besides kernels: two functions that take its objects, which cffi's own cannot.  Not stable. */

#ifndef MICROGPT_NUMPY_H
#define MICROGPT_NUMPY_H

#include <stdint.h>

/* Put `call` and `address` into the dictionary at this address (id(globals()) in Python); 0 when done, -1 when Python has
   an exception set.  See numpy.c for what they do.  `careful` is looked up there too. */
int microgpt_add_functions(uintptr_t dictionary);

#endif
