/* For Python alone, and part of cffi's cdef: kernels called with NumPy's arrays as they are. */

/* Addresses of what an array's type and dtype are compared with: id() of numpy.ndarray and of the two dtype objects. */
struct numpy {
    uintptr_t ndarray, float32, float64;
};
/* Run a kernel, one for which arrays.c has shapes, on the objects at these addresses, id() in Python, in the order of the kernel's arguments; 1 when done.
   0, and nothing has changed, unless all are ndarrays of one of the two dtypes, column-major without gaps, aligned, of
   sizes below 2^30 that fit together, the outputs writeable and overlapping nothing else: what is right for other
   reasons, or wrong, needs a closer look, which is Python's.  set and eps are struct call's. */
int call_plain(const struct numpy *numpy, enum kernel kernel, int set, double eps, uintptr_t a, uintptr_t b,
               uintptr_t c, uintptr_t d, uintptr_t e);
