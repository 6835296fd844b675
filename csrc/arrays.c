/* Calls with NumPy's arrays.  For small ones, looking at every argument takes Python longer than the kernel takes, so
   the common case is checked here; see arrays.h. */

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
enum { F_CONTIGUOUS = 0x2, OWNDATA = 0x4, ALIGNED = 0x100, WRITEABLE = 0x400 }; /* NPY_ARRAY_ in NumPy */

/* the arrays' shapes, a letter for each size */
static const char *const shapes[] = {
    [MATMUL_FORWARD] = "mn mk kn",    [MATMUL_BACKWARD] = "mk kn mn mk kn",
    [SOFTMAX_FORWARD] = "mn mn",      [SOFTMAX_BACKWARD] = "mn mn mn",
    [RMSNORM_FORWARD] = "mn n mn",    [RMSNORM_BACKWARD] = "mn mn mn n",
    [RELU_FORWARD] = "mn mn",         [RELU_BACKWARD] = "mn mn mn",
    [ADD_FORWARD] = "mn mn mn",
};

int call_plain(const struct numpy *numpy, enum kernel kernel, int set, double eps, uintptr_t a, uintptr_t b,
               uintptr_t c, uintptr_t d, uintptr_t e)
{
    const int plain = F_CONTIGUOUS | OWNDATA | ALIGNED | WRITEABLE;
    const uintptr_t objects[] = {a, b, c, d, e};
    const struct ndarray *first = (const struct ndarray *)a;
    const uintptr_t dtype = first->type == numpy->ndarray ? first->dtype : 0; /* of anything else, only the type is read */
    struct call call = {.kernel = kernel, .set = set, .eps = eps};
    ptrdiff_t size['n' - 'k' + 1] = {-1, -1, -1, -1}; /* of k, (l,) m and n, once it is known */
    const char *shape = shapes[kernel];
    for (int i = 0; *shape; i++) {
        const struct ndarray *array = (const struct ndarray *)objects[i];
        if (array->type != numpy->ndarray || array->dtype != dtype || (array->flags & plain) != plain)
            return 0;
        for (int j = 0; j < i; j++)
            if (objects[j] == objects[i])
                return 0;
        int ndim = 0;
        for (; *shape && *shape != ' '; shape++, ndim++) {
            ptrdiff_t *known = &size[*shape - 'k'];
            if (ndim == array->ndim || array->shape[ndim] >> 30 || (*known >= 0 && *known != array->shape[ndim]))
                return 0;
            *known = array->shape[ndim];
        }
        if (ndim != array->ndim)
            return 0;
        shape += *shape == ' ';
        call.array[i] = array->data;
    }
    call.size[0] = size['m' - 'k'];
    call.size[1] = size['k' - 'k'];
    static const int32_t none;
    const struct batch batch = {&none, &none, &none, &none}; /* these kernels need none of it */
    if (dtype == numpy->float64)
        run_f64(&call, 1, &batch, 0, size['n' - 'k']);
    else if (dtype == numpy->float32)
        run_f32(&call, 1, &batch, 0, size['n' - 'k']);
    else
        return 0;
    return 1;
}
