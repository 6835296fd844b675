/* Calls with NumPy's arrays.  For small ones, looking at every argument takes Python longer than the kernel takes, so
   the common case is checked here; see arrays.h.

   cffi calls without Python's lock, which is taken again to look at the arrays, for other threads may change them. */

#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

#include "arrays.h"

/* what an ndarray begins with, as NumPy's ABI has it */
struct ndarray {
    ptrdiff_t reference_count;
    uintptr_t type;
    void *data;
    int ndim;
    const ptrdiff_t *shape, *strides;
    const void *base;
    uintptr_t dtype;
    int flags;
};
enum { F_CONTIGUOUS = 0x2, ALIGNED = 0x100, WRITEABLE = 0x400 }; /* NPY_ARRAY_ in NumPy */

/* The shapes of outputs: inputs, a letter for each size. */
static const char *const shapes[] = {
    [MATMUL_FORWARD] = "mn: mk kn",    [MATMUL_BACKWARD] = "mk kn: mn mk kn",
    [SOFTMAX_FORWARD] = "mn: mn",      [SOFTMAX_BACKWARD] = "mn: mn mn",
    [RMSNORM_FORWARD] = "mn n: mn",    [RMSNORM_BACKWARD] = "mn: mn mn n",
    [RELU_FORWARD] = "mn: mn",         [RELU_BACKWARD] = "mn: mn mn",
    [ADD_FORWARD] = "mn: mn mn",
};

/* Write down the call's arrays and sizes; returns the size of an element, or 0 where the objects need a closer look. */
static int look_at(struct call *call, int *n, const struct numpy *numpy, const uintptr_t objects[])
{
    const struct ndarray *first = (const struct ndarray *)objects[0];
    if (first->type != numpy->ndarray || (first->dtype != numpy->float32 && first->dtype != numpy->float64))
        return 0;
    const int element = first->dtype == numpy->float32 ? sizeof(float) : sizeof(double);
    ptrdiff_t size['n' - 'k' + 1] = {-1, -1, -1, -1}; /* of k, (l,) m and n, once it is known */
    uintptr_t begin[5], end[5]; /* of each array's memory */
    const char *shape = shapes[call->kernel];
    int n_outputs = 0, needed = F_CONTIGUOUS | ALIGNED | WRITEABLE;
    for (int i = 0; *shape; i++) {
        const struct ndarray *array = (const struct ndarray *)objects[i];
        if (array->type != numpy->ndarray || array->dtype != first->dtype || (array->flags & needed) != needed)
            return 0;
        begin[i] = (uintptr_t)array->data;
        uintptr_t bytes = element;
        int ndim = 0;
        for (; *shape >= 'k'; shape++, ndim++) {
            ptrdiff_t *known = &size[*shape - 'k'];
            if (ndim == array->ndim || array->shape[ndim] >> 30 || (*known >= 0 && *known != array->shape[ndim]))
                return 0;
            *known = array->shape[ndim];
            bytes *= *known;
        }
        if (ndim != array->ndim)
            return 0;
        end[i] = begin[i] + bytes;
        if (needed & WRITEABLE)
            n_outputs++;
        for (int j = 0; j < n_outputs && j < i; j++)
            if (begin[i] < end[j] && begin[j] < end[i])
                return 0;
        call->array[i] = array->data;
        if (*shape == ':')
            needed = F_CONTIGUOUS | ALIGNED;
        for (; *shape && *shape < 'k'; shape++)
            ;
    }
    call->size[0] = size['m' - 'k'];
    call->size[1] = size['k' - 'k'];
    *n = size['n' - 'k'];
    return element;
}

int call_plain(const struct numpy *numpy, enum kernel kernel, int set, double eps, uintptr_t a, uintptr_t b,
               uintptr_t c, uintptr_t d, uintptr_t e)
{
    struct call call = {.kernel = kernel, .set = set, .eps = eps};
    const uintptr_t objects[] = {a, b, c, d, e};
    int n;
    const PyGILState_STATE state = PyGILState_Ensure();
    const int element = look_at(&call, &n, numpy, objects);
    PyGILState_Release(state);
    static const int32_t none;
    const struct batch batch = {.token = &none, .position = &none}; /* these kernels read no batch */
    if (element)
        (element == sizeof(float) ? run_f32 : run_f64)(&call, 1, &batch, 0, n);
    return element != 0;
}
