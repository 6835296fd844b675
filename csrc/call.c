/* Kernels called with NumPy arrays.

   Checking the arguments of a call in Python takes longer than a small kernel.  So this file checks the common case in
   C: contiguous column-major arrays with matching shapes and types.  The buffer protocol keeps their memory in place
   during the call (NumPy resizes no exported array, except with refcheck=False).  All other arguments, valid or not, go
   to `careful`, a Python function with the same parameters: see microgpt/kernels/checks.py. */

#include <Python.h>

#include <stdatomic.h>
#include <string.h>

#include "program.h"
#include "recorded.h"
#include "run.h"
#include "call.h"

/* A row of table.h.  A size is its index among the sizes of table.h, or N for the number of tokens. */
#define SIZE(name) SIZE_##name,
enum {
#include "table.h"
    N,
    SIZES
};
#undef SIZE
enum { MAX_ROWS = 64, MAX_ARRAYS = 10 };
static struct row {
    PyObject *name; /* interned, so that comparing pointers suffices; NULL for a row that only Python can check */
    int n_arrays, n_outputs, split;
    int sums;    /* bit i: output i is a sum over tokens */
    int columns; /* bit i: output i has a column for each token */
    struct shape {
        int ndim, size[2];
    } shape[MAX_ARRAYS];
} rows[MAX_ROWS];
static int n_rows;

static PyObject *ndarray, *empty, *float32, *float64; /* NumPy's objects of these names */

/* The size with this name of `length` characters (a part of a string), or -1. */
static int find_size(const char *name, size_t length)
{
    for (int i = 0; i < N; i++)
        if (strlen(microgpt_sizes[i]) == length && memcmp(microgpt_sizes[i], name, length) == 0)
            return i;
    return length == 1 && *name == 'n' ? N : -1;
}

/* Read the shapes of a row.  Returns 0 if an array has indices, is scratch or has a size that is not a single name. */
static int read_shapes(struct row *row, const struct microgpt_kernel *kernel)
{
    row->split = kernel->split;
    for (const char *c = kernel->shapes; *c; c++) {
        if (*c == '=')
            row->n_outputs = row->n_arrays;
        if (*c == '!' || *c == '<')
            return 0;
        if (*c != '[')
            continue;
        if (row->n_arrays == MAX_ARRAYS)
            return 0;
        struct shape *shape = &row->shape[row->n_arrays++];
        while (*c != ']') { /* c is at the "[" or "," before a size */
            const size_t length = strcspn(c + 1, ",]");
            const int size = find_size(c + 1, length);
            if (size < 0)
                return 0;
            shape->size[shape->ndim++] = size;
            c += 1 + length;
        }
    }
    for (int i = 0; i < row->n_outputs; i++)
        *(row->shape[i].size[row->shape[i].ndim - 1] == N ? &row->columns : &row->sums) |= 1 << i;
    return 1;
}

/* The arrays of a call, and what they determine: the arguments that are bound to a row. */
struct binding {
    struct microgpt_call call[MAX_ARRAYS];
    char format;            /* 'f' or 'd', or 0 while unknown */
    Py_ssize_t size[SIZES]; /* -1 while unknown */
    Py_buffer view[MAX_ARRAYS];
    int bound[MAX_ARRAYS];
};

/* Bind an object to the call's i-th array.  Returns 0 unless it is an ndarray that fits those bound before. */
static int bind_array(struct binding *binding, const struct row *row, int i, PyObject *object)
{
    const int is_output = i < row->n_outputs;
    const struct shape *shape = &row->shape[i];
    Py_buffer *view = &binding->view[i];
    if ((PyObject *)Py_TYPE(object) != ndarray ||
        PyObject_GetBuffer(object, view, PyBUF_F_CONTIGUOUS | PyBUF_FORMAT | (is_output ? PyBUF_WRITABLE : 0)))
        return 0;
    binding->bound[i] = 1;
    const char format = view->format[0];
    if ((format != 'f' && format != 'd') || view->format[1] || (binding->format && format != binding->format) ||
        view->ndim != shape->ndim || (uintptr_t)view->buf % view->itemsize)
        return 0;
    binding->format = format;
    for (int d = 0; d < shape->ndim; d++) {
        Py_ssize_t *known = &binding->size[shape->size[d]];
        if (view->shape[d] >> 30 || (*known >= 0 && *known != view->shape[d]))
            return 0;
        *known = view->shape[d];
    }
    for (int j = 0; is_output && j < row->n_arrays; j++) { /* an output must not overlap an array bound before it */
        if (j == i || !binding->bound[j])
            continue;
        const char *begin = view->buf, *other = binding->view[j].buf;
        if (begin < other + binding->view[j].len && other < begin + view->len)
            return 0;
    }
    binding->call->array[i] = view->buf;
    return 1;
}

/* A new array of a shape whose sizes are known; NULL if that failed. */
static PyObject *new_array(const struct binding *binding, const struct shape *shape)
{
    PyObject *dtype = binding->format == 'f' ? float32 : float64;
    const Py_ssize_t rows = binding->size[shape->size[0]], columns = binding->size[shape->size[shape->ndim - 1]];
    if (shape->ndim == 2)
        return PyObject_CallFunction(empty, "(nn)Os", rows, columns, dtype, "F");
    return PyObject_CallFunction(empty, "(n)Os", rows, dtype, "F");
}

/* Bind all arrays of a call.  Returns a new reference to its outputs, which are `out` or new arrays; or NULL. */
static PyObject *bind_arrays(struct binding *binding, const struct row *row, PyObject *out, PyObject *const *inputs)
{
    const int n_outputs = row->n_outputs, several = n_outputs > 1;
    for (int i = n_outputs; i < row->n_arrays; i++)
        if (!bind_array(binding, row, i, inputs[i - n_outputs]))
            return NULL;
    PyObject *outputs;
    if (out != Py_None) {
        outputs = out;
        Py_INCREF(outputs);
        if (several && (!PyTuple_CheckExact(out) || PyTuple_Size(out) != n_outputs))
            Py_CLEAR(outputs);
    } else if (several) {
        outputs = PyTuple_New(n_outputs);
        for (int i = 0; outputs && i < n_outputs; i++) {
            PyObject *array = new_array(binding, &row->shape[i]);
            if (!array || PyTuple_SetItem(outputs, i, array))
                Py_CLEAR(outputs);
        }
    } else {
        outputs = new_array(binding, &row->shape[0]);
    }
    for (int i = 0; outputs && i < n_outputs; i++)
        if (!bind_array(binding, row, i, several ? PyTuple_GetItem(outputs, i) : outputs))
            Py_CLEAR(outputs);
    return outputs;
}

static atomic_int max_threads = 1; /* for one kernel that has enough work for each */
enum { MULTIPLIES_PER_THREAD = 400000, NUMBERS_PER_THREAD = 200000 };

/* How many threads a call has enough work for, at most `limit`. */
static int count_threads(const struct binding *binding, int limit)
{
    const Py_ssize_t *size = binding->size;
    double shares = 1;
    for (int i = 0; i < SIZES; i++)
        shares *= size[i] < 0 ? 1 : (double)size[i];
    shares /= size[SIZE_k] < 0 ? NUMBERS_PER_THREAD : MULTIPLIES_PER_THREAD;
    return shares < 2 ? 1 : shares < limit ? (int)shares : limit;
}

/* Split a call into calls that threads can divide: one for all outputs with a column for each token, and one for each
   sum over tokens.  Returns the number of calls. */
static int split_for_threads(const struct binding *binding, const struct row *row, struct microgpt_call call[])
{
    const int itemsize = binding->format == 'f' ? 4 : 8;
    for (int i = 0; i < row->n_arrays; i++)
        if (row->shape[i].size[row->shape[i].ndim - 1] == N)
            call->column[i] = row->shape[i].ndim == 2 ? call->ld[i] * itemsize : itemsize;
    const struct microgpt_call whole = *call;
    int n_calls = 0;
    if (row->columns) {
        for (int i = 0; i < row->n_outputs; i++)
            if (row->sums >> i & 1)
                call->array[i] = NULL;
        n_calls++;
    }
    for (int result = 0; result < row->n_outputs; result++) {
        if (!(row->sums >> result & 1))
            continue;
        struct microgpt_call *sum = &call[n_calls++];
        const struct shape *shape = &row->shape[result];
        *sum = whole;
        for (int i = 0; i < row->n_outputs; i++)
            if (i != result)
                sum->array[i] = NULL;
        sum->sums = 1;
        sum->result = result;
        sum->rows = shape->ndim == 2 ? (int)binding->size[shape->size[0]] : 1;
        sum->n_columns = (int)binding->size[shape->size[shape->ndim - 1]];
        sum->split = shape->size[shape->ndim - 1];
        if (!row->split) {
            sum->rows *= sum->n_columns;
            sum->n_columns = 1;
            sum->split = -1;
        }
        for (int i = 0; sum->split >= 0 && i < row->n_arrays; i++) {
            const int *size = row->shape[i].size, ndim = row->shape[i].ndim;
            sum->part[i] = size[ndim - 1] == sum->split ? (ndim == 2 ? sum->ld[i] : 1) * itemsize
                           : size[0] == sum->split      ? itemsize
                                                        : 0;
        }
    }
    return n_calls;
}

/* Run the kernel of a row if the arguments are the common case; returns the outputs or NULL.  Clears exceptions,
   because `careful` checks the arguments again, but not a KeyboardInterrupt. */
static PyObject *try_call(const struct row *row, PyObject *out, int accumulate, double eps, PyObject *const *inputs)
{
    struct binding binding;
    binding.format = 0;
    memset(binding.size, -1, sizeof binding.size);
    memset(binding.bound, 0, sizeof binding.bound);
    PyObject *outputs = bind_arrays(&binding, row, out, inputs);
    if (outputs) {
        struct microgpt_call *call = binding.call;
        call->kernel = (int)(row - rows);
        call->accumulate = accumulate && out != Py_None ? -1 : 0; /* a new array holds nothing to add to */
        call->eps = eps;
        for (int i = 0; i < N; i++)
            call->size[i] = (int)binding.size[i];
        call->n_arrays = row->n_arrays;
        call->given = call->own_layout = call->sums = call->needs_barrier = call->is_gradient = 0;
        memset(call->part, 0, sizeof call->part);
        memset(call->column, 0, sizeof call->column);
        for (int i = 0; i < row->n_arrays; i++)
            call->ld[i] = (int)binding.size[row->shape[i].size[0]]; /* contiguous: the number of rows */
        const int limit = max_threads;
        const int n_threads = limit > 1 ? count_threads(&binding, limit) : 1;
        struct microgpt_replay replay = {.calls = call, .n_calls = 1, .n = (int)binding.size[N]};
        if (n_threads > 1)
            replay.n_calls = split_for_threads(&binding, row, call);
        if (microgpt_run(binding.format, &replay, n_threads))
            Py_CLEAR(outputs);
    }
    for (int i = 0; i < row->n_arrays; i++)
        if (binding.bound[i])
            PyBuffer_Release(&binding.view[i]);
    if (!outputs && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception))
        PyErr_Clear();
    return outputs;
}

/* call(kernel, out, accumulate, eps, *inputs) runs the kernel of this name.  Returns its output, or a tuple if it has
   several; this is `out`, unless that is None. */
static PyObject *call(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments)
{
    enum { KERNEL, OUT, ACCUMULATE, EPS, INPUTS };
    const struct row *row = rows, *end = rows + n_rows;
    while (n_arguments > INPUTS && row < end && row->name != arguments[KERNEL])
        row++;
    if (n_arguments > INPUTS && row < end && n_arguments == INPUTS + row->n_arrays - row->n_outputs &&
        PyBool_Check(arguments[ACCUMULATE]) && PyFloat_CheckExact(arguments[EPS])) {
        const double eps = PyFloat_AsDouble(arguments[EPS]);
        if (eps >= 0 && eps <= 3e38) {
            PyObject *outputs = try_call(row, arguments[OUT], arguments[ACCUMULATE] == Py_True, eps,
                                         arguments + INPUTS);
            if (outputs || PyErr_Occurred())
                return outputs;
        }
    }
    PyObject *tuple = PyTuple_New(n_arguments), *result = NULL;
    for (Py_ssize_t i = 0; tuple && i < n_arguments; i++) {
        Py_INCREF(arguments[i]);
        PyTuple_SetItem(tuple, i, arguments[i]);
    }
    PyObject *careful = PyDict_GetItemString(dictionary, "careful");
    Py_XINCREF(careful);
    if (tuple && careful)
        result = PyObject_CallObject(careful, tuple);
    else if (tuple)
        PyErr_SetString(PyExc_ImportError, "microgpt.kernels.checks has not been imported");
    Py_XDECREF(careful);
    Py_XDECREF(tuple);
    return result;
}

/* set_threads(n) sets the number of threads for one large kernel; returns the previous number. */
static PyObject *set_threads(PyObject *dictionary, PyObject *n)
{
    (void)dictionary;
    const int n_threads = (int)PyLong_AsLong(n);
    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromLong(atomic_exchange(&max_threads, n_threads));
}

/* address(array) returns the address of its first element. */
static PyObject *address(PyObject *dictionary, PyObject *array)
{
    (void)dictionary;
    Py_buffer view;
    if (PyObject_GetBuffer(array, &view, PyBUF_STRIDES))
        return NULL;
    PyObject *begin = PyLong_FromVoidPtr(view.buf);
    PyBuffer_Release(&view);
    return begin;
}

static PyMethodDef functions[] = {
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, NULL},
    {"replay", (PyCFunction)(void (*)(void))microgpt_py_replay, METH_FASTCALL, NULL},
    {"step", (PyCFunction)(void (*)(void))microgpt_py_step, METH_FASTCALL, NULL},
    {"draw", (PyCFunction)(void (*)(void))microgpt_py_draw, METH_FASTCALL, NULL},
    {"set_threads", set_threads, METH_O, NULL},
    {"address", address, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int add_function(PyObject *dictionary, PyMethodDef *method)
{
    PyObject *function = PyCFunction_NewEx(method, dictionary, NULL);
    const int added = function && PyDict_SetItemString(dictionary, method->ml_name, function) == 0;
    Py_XDECREF(function);
    return added;
}

/* A new reference to NumPy's object of this name, which the dictionary holds, or NULL. */
static PyObject *numpy_object(PyObject *dictionary, const char *name)
{
    PyObject *object = PyDict_GetItemString(dictionary, name);
    Py_XINCREF(object);
    return object;
}

static int add_functions(PyObject *dictionary)
{
    for (n_rows = 0; microgpt_kernels[n_rows].name && n_rows < MAX_ROWS; n_rows++) {
        struct row row = {0};
        if (read_shapes(&row, &microgpt_kernels[n_rows]))
            row.name = PyUnicode_InternFromString(microgpt_kernels[n_rows].name);
        rows[n_rows] = row;
    }
    ndarray = numpy_object(dictionary, "ndarray");
    empty = numpy_object(dictionary, "empty");
    float32 = numpy_object(dictionary, "float32");
    float64 = numpy_object(dictionary, "float64");
    int added = ndarray && empty && float32 && float64 && !PyErr_Occurred();
    for (PyMethodDef *method = functions; method->ml_name; method++)
        added = added && add_function(dictionary, method);
    PyErr_Clear();
    return added;
}

int microgpt_add_functions(uintptr_t dictionary)
{
    const PyGILState_STATE state = PyGILState_Ensure(); /* cffi releases the GIL before it calls */
    const int result = add_functions((PyObject *)dictionary);
    PyGILState_Release(state);
    return result;
}
