/* Kernels called with NumPy's arrays.

   Looking at every argument of a call takes Python longer than a small kernel takes.  So the common case is looked at
   here, through NumPy's C API: plain, whole, column-major arrays that fit together.  Whatever is right for other reasons,
   or wrong, is left to `careful`, a function of Python's with the same arguments: see microgpt/arguments.py. */

#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>

#include <string.h>

#include "numpy.h"
#include "program.h"

/* A row of the table as numbers.  Its sizes are counted as they come, so equal names have equal numbers. */
enum { MOST_ROWS = 64, MOST_ARRAYS = 5, MOST_OUTPUTS = 2, SIZES = 3 };
static struct row {
    PyObject *name; /* interned, so that the same text is the same object */
    int n_arrays, n_outputs;
    struct shape {
        int ndim, size[2]; /* each 0, 1 or 2: m, k or n */
    } shape[MOST_ARRAYS];
} rows[MOST_ROWS];
static int n_rows;

static PyArray_Descr *float32, *float64;

/* Read the shapes of a row; 0 if it has more than whole matrices and vectors of sizes m, k and n: that is Python's. */
static int read_shapes(struct row *row, const char *shapes)
{
    row->n_arrays = row->n_outputs = 0;
    for (const char *c = shapes; *c; c++) {
        if (*c == '=')
            row->n_outputs = row->n_arrays;
        if (*c != '[')
            continue;
        if (row->n_arrays == MOST_ARRAYS)
            return 0;
        struct shape *shape = &row->shape[row->n_arrays++];
        for (shape->ndim = 0; *c != ']'; c += 2) { /* c is at "[" or "," before a size of one letter */
            static const char names[SIZES] = {'m', 'k', 'n'};
            const char *name = memchr(names, c[1], SIZES);
            if (!name || (c[2] != ',' && c[2] != ']'))
                return 0;
            shape->size[shape->ndim++] = (int)(name - names);
        }
        if (c[1] == '<')
            return 0;
    }
    return row->n_outputs <= MOST_OUTPUTS;
}

/* One call that is being looked at. */
struct look {
    struct microgpt_call call;
    PyArray_Descr *dtype;
    npy_intp size[SIZES];                           /* -1 until it is known */
    uintptr_t begin[MOST_ARRAYS], end[MOST_ARRAYS]; /* each array's memory */
};

/* Note the array as the call's i-th; 0 unless it fits what is known, and overlaps no output before it, if it is one. */
static int note(struct look *look, int i, const struct shape *shape, PyObject *object, int flags, int n_outputs)
{
    if (!PyArray_CheckExact(object))
        return 0;
    PyArrayObject *array = (PyArrayObject *)object;
    if (!look->dtype)
        look->dtype = PyArray_DESCR(array);
    if (PyArray_DESCR(array) != look->dtype || (look->dtype != float32 && look->dtype != float64) ||
        PyArray_NDIM(array) != shape->ndim || !PyArray_CHKFLAGS(array, flags))
        return 0;
    uintptr_t bytes = look->dtype == float32 ? sizeof(float) : sizeof(double);
    for (int d = 0; d < shape->ndim; d++) {
        npy_intp *known = &look->size[shape->size[d]], found = PyArray_DIM(array, d);
        if (found >> 30 || (*known >= 0 && *known != found))
            return 0;
        *known = found;
        bytes *= found;
    }
    look->call.array[i] = PyArray_DATA(array);
    look->begin[i] = (uintptr_t)PyArray_DATA(array);
    look->end[i] = look->begin[i] + bytes;
    for (int j = 0; j < n_outputs && j < i; j++)
        if (look->begin[i] < look->end[j] && look->begin[j] < look->end[i])
            return 0;
    return 1;
}

/* A new array for the call's i-th, or NULL: without an exception when it is so large that Python should see to it. */
static PyObject *new_array(struct look *look, int i, const struct shape *shape)
{
    npy_intp dims[2], count = 1;
    for (int d = 0; d < shape->ndim; d++)
        count *= dims[d] = look->size[shape->size[d]];
    if (count < 0 || count > 1 << 20)
        return NULL;
    Py_INCREF((PyObject *)look->dtype); /* which PyArray_Empty takes over */
    PyObject *array = PyArray_Empty(shape->ndim, dims, look->dtype, 1);
    if (array)
        look->call.array[i] = PyArray_DATA((PyArrayObject *)array);
    return array;
}

/* The call's outputs, `out` or new ones, as a new reference; NULL when it needs a closer look, or with an exception. */
static PyObject *look_at(struct look *look, const struct row *row, PyObject *out, PyObject *const *inputs)
{
    enum { INPUT = NPY_ARRAY_F_CONTIGUOUS | NPY_ARRAY_ALIGNED, OUTPUT = INPUT | NPY_ARRAY_WRITEABLE };
    const int n_outputs = row->n_outputs, several = n_outputs > 1;
    if (out != Py_None && several && (!PyTuple_CheckExact(out) || PyTuple_Size(out) != n_outputs))
        return NULL;
    if (out != Py_None)
        for (int i = 0; i < n_outputs; i++)
            if (!note(look, i, &row->shape[i], several ? PyTuple_GetItem(out, i) : out, OUTPUT, n_outputs))
                return NULL;
    for (int i = n_outputs; i < row->n_arrays; i++)
        if (!note(look, i, &row->shape[i], inputs[i - n_outputs], INPUT, out != Py_None ? n_outputs : 0))
            return NULL;
    if (out != Py_None) {
        Py_INCREF(out);
        return out;
    }
    if (!several)
        return new_array(look, 0, &row->shape[0]);
    PyObject *tuple = PyTuple_New(n_outputs);
    for (int i = 0; tuple && i < n_outputs; i++) {
        PyObject *array = new_array(look, i, &row->shape[i]);
        if (!array || PyTuple_SetItem(tuple, i, array))
            Py_CLEAR(tuple);
    }
    return tuple;
}

/* call(kernel, out, accumulate, eps, *inputs): run the kernel of this name on these arrays, and return its output or the
   tuple of them, which is `out` unless that is None. */
static PyObject *call(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments)
{
    const struct row *row = rows, *end = rows + n_rows;
    while (n_arguments > 0 && row < end && row->name != arguments[0])
        row++;
    if (n_arguments > 3 && row < end && n_arguments == 4 + row->n_arrays - row->n_outputs &&
        (arguments[2] == Py_True || arguments[2] == Py_False) && PyFloat_CheckExact(arguments[3])) {
        const double eps = PyFloat_AsDouble(arguments[3]);
        struct look look = {.size = {-1, -1, -1}};
        PyObject *result = eps >= 0 && eps <= 3e38 ? look_at(&look, row, arguments[1], arguments + 4) : NULL;
        if (result) {
            struct microgpt_call *c = &look.call;
            c->kernel = (int)(row - rows);
            c->accumulate = arguments[2] == Py_True && arguments[1] != Py_None ? -1 : 0; /* new arrays hold nothing */
            c->eps = eps;
            c->m = (int)look.size[0];
            c->k = (int)look.size[1];
            for (int i = 0; i < row->n_arrays; i++)
                c->ld[i] = (int)look.size[row->shape[i].size[0]]; /* whole matrices: as many as there are rows */
            Py_BEGIN_ALLOW_THREADS(look.dtype == float32 ? microgpt_replay_f32
                                                         : microgpt_replay_f64)(c, 1, 0, (int)look.size[2]);
            Py_END_ALLOW_THREADS return result;
        }
        if (PyErr_Occurred())
            return NULL;
    }
    PyObject *tuple = PyTuple_New(n_arguments), *result = NULL;
    PyObject *careful = PyDict_GetItemString(dictionary, "careful");
    for (Py_ssize_t i = 0; tuple && i < n_arguments; i++) {
        Py_INCREF(arguments[i]);
        PyTuple_SetItem(tuple, i, arguments[i]);
    }
    if (!careful)
        PyErr_SetString(PyExc_SystemError, "no function `careful`");
    else if (tuple)
        result = PyObject_CallObject(careful, tuple);
    Py_XDECREF(tuple);
    return result;
}

/* address(array): where the memory of an ndarray begins. */
static PyObject *address(PyObject *dictionary, PyObject *array)
{
    (void)dictionary;
    if (!PyArray_Check(array))
        return PyErr_Format(PyExc_TypeError, "expected an array");
    return PyLong_FromVoidPtr(PyArray_DATA((PyArrayObject *)array));
}

static PyMethodDef functions[] = {
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, NULL},
    {"address", address, METH_O, NULL},
};

static int add_functions(PyObject *dictionary)
{
    import_array1(-1);
    float32 = PyArray_DescrFromType(NPY_FLOAT32);
    float64 = PyArray_DescrFromType(NPY_FLOAT64);
    for (n_rows = 0; microgpt_kernels[n_rows].name && n_rows < MOST_ROWS; n_rows++)
        if (read_shapes(&rows[n_rows], microgpt_kernels[n_rows].shapes))
            rows[n_rows].name = PyUnicode_InternFromString(microgpt_kernels[n_rows].name);
    for (int i = 0; i < 2; i++) {
        PyObject *function = PyCFunction_NewEx(&functions[i], dictionary, NULL);
        if (!function || PyDict_SetItemString(dictionary, functions[i].ml_name, function))
            return -1;
        Py_DECREF(function);
    }
    return 0;
}

int microgpt_add_functions(uintptr_t dictionary)
{
    const PyGILState_STATE state = PyGILState_Ensure(); /* cffi calls without Python's lock */
    const int result = add_functions((PyObject *)dictionary);
    PyGILState_Release(state);
    return result;
}
