/* Kernels called with NumPy's arrays.

   Looking at every argument of a call takes Python longer than a small kernel takes.  So the common case is looked at
   here: whole, column-major arrays that fit together.  Their memory is had by the buffer protocol, whose reference keeps
   it until the call is over (and NumPy from resizing it, unless told not to check).  Whatever is right for other reasons,
   or wrong, is left to `careful`, a function of Python's with the same arguments: see microgpt/kernels/checks.py. */

#include <Python.h>

#include <stdatomic.h>
#include <string.h>

#include "program.h"
#include "recorded.h"
#include "run.h"
#include "call.h"

/* A row of the table of kernels with its sizes as numbers: their places among the table's sizes, or N. */
#define SIZE(name) SIZE_##name,
enum {
#include "table.h"
    N,
    SIZES
};
#undef SIZE
enum { MOST_ROWS = 64, MOST_ARRAYS = 10 };
static struct row {
    PyObject *name; /* interned, so that equal text is the same object; NULL for a row that is Python's alone */
    int n_arrays, n_outputs, split;
    int sums;    /* bit i: output i is a sum over tokens */
    int columns; /* bit i: output i has a column for each token */
    struct shape {
        int ndim, size[2];
    } shape[MOST_ARRAYS];
} rows[MOST_ROWS];
static int n_rows;

static PyObject *ndarray, *empty, *float32, *float64; /* numpy's */

/* The size whose name begins here and is `length` long, or -1. */
static int find_size(const char *name, size_t length)
{
    for (int i = 0; i < N; i++)
        if (strlen(microgpt_sizes[i]) == length && memcmp(microgpt_sizes[i], name, length) == 0)
            return i;
    return length == 1 && *name == 'n' ? N : -1;
}

/* Read the shapes of a row; 0 if it has more than matrices and vectors of real numbers, of plain sizes. */
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
        if (row->n_arrays == MOST_ARRAYS)
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

/* What is known of a call while its arrays are looked at. */
struct look {
    struct microgpt_call call[MOST_ARRAYS];
    char format;            /* 'f' or 'd', or 0 as long as it is not known */
    Py_ssize_t size[SIZES]; /* or -1 */
    Py_buffer view[MOST_ARRAYS];
    int seen[MOST_ARRAYS];
};

/* Take the object as the call's i-th array; 0 unless it is an ndarray that fits what is known. */
static int take(struct look *look, const struct row *row, int i, PyObject *object)
{
    const int is_output = i < row->n_outputs;
    const struct shape *shape = &row->shape[i];
    Py_buffer *view = &look->view[i];
    if ((PyObject *)Py_TYPE(object) != ndarray ||
        PyObject_GetBuffer(object, view, PyBUF_F_CONTIGUOUS | PyBUF_FORMAT | (is_output ? PyBUF_WRITABLE : 0)))
        return 0;
    look->seen[i] = 1;
    const char format = view->format[0];
    if ((format != 'f' && format != 'd') || view->format[1] || (look->format && format != look->format) ||
        view->ndim != shape->ndim || (uintptr_t)view->buf % view->itemsize)
        return 0;
    look->format = format;
    for (int d = 0; d < shape->ndim; d++) {
        Py_ssize_t *known = &look->size[shape->size[d]];
        if (view->shape[d] >> 30 || (*known >= 0 && *known != view->shape[d]))
            return 0;
        *known = view->shape[d];
    }
    for (int j = 0; is_output && j < row->n_arrays; j++) { /* an output overlaps nothing that came before it */
        if (j == i || !look->seen[j])
            continue;
        const char *begin = view->buf, *other = look->view[j].buf;
        if (begin < other + look->view[j].len && other < begin + view->len)
            return 0;
    }
    look->call->array[i] = view->buf;
    return 1;
}

/* A new array of a shape whose sizes are known, or NULL. */
static PyObject *new_array(const struct look *look, const struct shape *shape)
{
    PyObject *dtype = look->format == 'f' ? float32 : float64;
    const Py_ssize_t rows = look->size[shape->size[0]], columns = shape->ndim == 2 ? look->size[shape->size[1]] : 1;
    if (shape->ndim == 2)
        return PyObject_CallFunction(empty, "(nn)Os", rows, columns, dtype, "F");
    return PyObject_CallFunction(empty, "(n)Os", rows, dtype, "F");
}

/* Take all arrays of a call; returns its outputs, `out` or new ones, as a new reference, or NULL. */
static PyObject *take_all(struct look *look, const struct row *row, PyObject *out, PyObject *const *inputs)
{
    const int n_outputs = row->n_outputs, several = n_outputs > 1;
    for (int i = n_outputs; i < row->n_arrays; i++)
        if (!take(look, row, i, inputs[i - n_outputs]))
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
            PyObject *array = new_array(look, &row->shape[i]);
            if (!array || PyTuple_SetItem(outputs, i, array))
                Py_CLEAR(outputs);
        }
    } else {
        outputs = new_array(look, &row->shape[0]);
    }
    for (int i = 0; outputs && i < n_outputs; i++)
        if (!take(look, row, i, several ? PyTuple_GetItem(outputs, i) : outputs))
            Py_CLEAR(outputs);
    return outputs;
}

static atomic_int public_threads = 1; /* for one kernel, where there is enough for each to do */
enum { MANY_MULTIPLIES = 400000, MANY_NUMBERS = 200000 };

/* How many threads, `most` or fewer, are worth it for a call. */
static int threads_for(const struct look *look, int most)
{
    const Py_ssize_t *size = look->size;
    double shares = 1;
    for (int i = 0; i < SIZES; i++)
        shares *= size[i] < 0 ? 1 : (double)size[i];
    shares /= size[SIZE_k] < 0 ? MANY_NUMBERS : MANY_MULTIPLIES;
    return shares < 2 ? 1 : shares < most ? (int)shares : most;
}

/* Make of a call what threads can share out: one call for the columns of tokens, one for each sum over tokens.  Returns how
   many calls these are. */
static int for_threads(const struct look *look, const struct row *row, struct microgpt_call call[])
{
    const int itemsize = look->format == 'f' ? 4 : 8;
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
        sum->rows = shape->ndim == 2 ? (int)look->size[shape->size[0]] : 1;
        sum->n_columns = (int)look->size[shape->size[shape->ndim - 1]];
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

/* Run the kernel of a row if the arguments are the common case; returns the same.  What a look at them raised is dropped,
   for `careful` looks again; but not an interrupt. */
static PyObject *try_call(const struct row *row, PyObject *out, int accumulate, double eps, PyObject *const *inputs)
{
    struct look look;
    look.format = 0;
    memset(look.size, -1, sizeof look.size);
    memset(look.seen, 0, sizeof look.seen);
    PyObject *outputs = take_all(&look, row, out, inputs);
    if (outputs) {
        struct microgpt_call *call = look.call;
        call->kernel = (int)(row - rows);
        call->accumulate = accumulate && out != Py_None ? -1 : 0; /* new arrays hold nothing */
        call->eps = eps;
        for (int i = 0; i < N; i++)
            call->size[i] = (int)look.size[i];
        call->n_arrays = row->n_arrays;
        call->given = call->apart = call->sums = call->waits = call->is_gradient = 0;
        memset(call->part, 0, sizeof call->part);
        memset(call->column, 0, sizeof call->column);
        for (int i = 0; i < row->n_arrays; i++)
            call->ld[i] = (int)look.size[row->shape[i].size[0]]; /* without gaps: as many as there are rows */
        const int most = public_threads;
        const int n_threads = most > 1 ? threads_for(&look, most) : 1;
        struct microgpt_replay replay = {.calls = call, .n_calls = 1, .n = (int)look.size[N]};
        if (n_threads > 1)
            replay.n_calls = for_threads(&look, row, call);
        if (microgpt_run(look.format, &replay, n_threads))
            Py_CLEAR(outputs);
    }
    for (int i = 0; i < row->n_arrays; i++)
        if (look.seen[i])
            PyBuffer_Release(&look.view[i]);
    if (!outputs && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception))
        PyErr_Clear();
    return outputs;
}

/* call(kernel, out, accumulate, eps, *inputs): run the kernel of this name on these arrays.  Returns its output, or the
   tuple of them; and that is `out` unless it is None. */
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

/* set_threads(n): how many threads work on one large kernel; returns how many did before. */
static PyObject *set_threads(PyObject *dictionary, PyObject *n)
{
    (void)dictionary;
    const int n_threads = (int)PyLong_AsLong(n);
    if (PyErr_Occurred())
        return NULL;
    return PyLong_FromLong(atomic_exchange(&public_threads, n_threads));
}

/* address(array): where its memory begins. */
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

/* numpy's object of this name, which the dictionary has, as a new reference, or NULL */
static PyObject *numpys(PyObject *dictionary, const char *name)
{
    PyObject *object = PyDict_GetItemString(dictionary, name);
    Py_XINCREF(object);
    return object;
}

static int add_functions(PyObject *dictionary)
{
    for (n_rows = 0; microgpt_kernels[n_rows].name && n_rows < MOST_ROWS; n_rows++) {
        struct row row = {0};
        if (read_shapes(&row, &microgpt_kernels[n_rows]))
            row.name = PyUnicode_InternFromString(microgpt_kernels[n_rows].name);
        rows[n_rows] = row;
    }
    ndarray = numpys(dictionary, "ndarray");
    empty = numpys(dictionary, "empty");
    float32 = numpys(dictionary, "float32");
    float64 = numpys(dictionary, "float64");
    int added = ndarray && empty && float32 && float64 && !PyErr_Occurred();
    for (PyMethodDef *method = functions; method->ml_name; method++)
        added = added && add_function(dictionary, method);
    PyErr_Clear();
    return added;
}

int microgpt_add_functions(uintptr_t dictionary)
{
    const PyGILState_STATE state = PyGILState_Ensure(); /* cffi calls without Python's lock */
    const int result = add_functions((PyObject *)dictionary);
    PyGILState_Release(state);
    return result;
}
