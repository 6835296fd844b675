/* Kernels called with NumPy's arrays.

   Looking at every argument of a call takes Python longer than a small kernel takes.  So the common case is looked at
   here: whole, column-major arrays that fit together.  Their memory is had by the buffer protocol, whose reference keeps
   it until the call is over (and NumPy from resizing it, unless told not to check).  Whatever is right for other reasons,
   or wrong, is left to `careful`, a function of Python's with the same arguments: see microgpt/arguments.py. */

#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <pthread.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "kernels.h"
#include "program.h"
#include "call.h"

/* ---- running ---- */

enum { STACK_KB = 112 }; /* more than any kernel takes (see kernels.h), a handler of signals included */

/* Whether this thread has not so much stack left: a RuntimeError then, for a kernel would end the process. */
static int stack_is_short(void)
{
    static _Thread_local const char *lowest; /* of this thread's stack */
    const char *here = __builtin_frame_address(0);
#if defined(__linux__)
    pthread_attr_t attributes;
    void *base = NULL;
    size_t size;
    if (!lowest && pthread_getattr_np(pthread_self(), &attributes) == 0) {
        pthread_attr_getstack(&attributes, &base, &size);
        pthread_attr_destroy(&attributes);
        lowest = base;
    }
#elif defined(__APPLE__)
    if (!lowest)
        lowest = (char *)pthread_get_stackaddr_np(pthread_self()) - pthread_get_stacksize_np(pthread_self());
#endif
    if (!lowest || here - lowest >= STACK_KB * 1024)
        return 0;
    PyErr_Format(
        PyExc_RuntimeError,
        "expected a thread with %d KB of stack for the kernels, found %zd KB left: threading.stack_size sets it",
        STACK_KB, (Py_ssize_t)(here - lowest) / 1024);
    return 1;
}

/* How this thread rounds, traps and treats subnormal numbers is set to the usual while kernels run, for other libraries
   may have changed it (those built with -ffast-math do when they are loaded), and then set back. */
#if defined(__x86_64__)
enum { USUAL_MODE = 0x1f80 };
static unsigned get_mode(void) { return _mm_getcsr() & ~0x3fu; /* but for what has happened */ }
static void set_mode(unsigned mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
enum { USUAL_MODE = 0 };
static unsigned get_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (unsigned)mode;
}
static void set_mode(unsigned mode) { __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode)); }
#else
enum { USUAL_MODE = 0 };
static unsigned get_mode(void) { return USUAL_MODE; }
static void set_mode(unsigned mode) { (void)mode; }
#endif

/* Let statements run without Python's lock, in the usual mode. */
#define BEGIN_KERNELS                   \
    Py_BEGIN_ALLOW_THREADS;             \
    const unsigned its_mode = get_mode(); \
    if (its_mode != USUAL_MODE) \
        set_mode(USUAL_MODE)
#define END_KERNELS             \
    if (its_mode != USUAL_MODE) \
        set_mode(its_mode);     \
    Py_END_ALLOW_THREADS

/* Replay the calls; 0, or -1 with an error set. */
static int run(char format, const struct microgpt_call *calls, int n_calls, int start, int n)
{
    if (stack_is_short())
        return -1;
    BEGIN_KERNELS;
    if (format == 'f')
        microgpt_replay_f32(calls, n_calls, start, n);
    else
        microgpt_replay_f64(calls, n_calls, start, n);
    END_KERNELS;
    return 0;
}

/* ---- one kernel, on arrays ---- */

/* A row of the table of kernels with its sizes as numbers. */
enum { MOST_ROWS = 64, MOST_ARRAYS = 5, M = 0, K = 1, N = 2, SIZES = 3 };
static struct row {
    PyObject *name; /* interned, so that equal text is the same object; NULL for a row that is Python's alone */
    int n_arrays, n_outputs;
    struct shape {
        int ndim, size[2];
    } shape[MOST_ARRAYS];
} rows[MOST_ROWS];
static int n_rows;

static PyObject *ndarray, *empty, *float32, *float64; /* numpy's */

/* Read the shapes of a row; 0 if it has more than matrices and vectors of real numbers, of the sizes m, k and n. */
static int read_shapes(struct row *row, const char *shapes)
{
    for (const char *c = shapes; *c; c++) {
        if (*c == '=')
            row->n_outputs = row->n_arrays;
        if (*c != '[')
            continue;
        if (row->n_arrays == MOST_ARRAYS)
            return 0;
        struct shape *shape = &row->shape[row->n_arrays++];
        for (; *c != ']'; c += 2) { /* c is at the "[" or "," before a size of one letter */
            static const char letters[SIZES] = {[M] = 'm', [K] = 'k', [N] = 'n'};
            const char *letter = memchr(letters, c[1], SIZES);
            if (!letter || (c[2] != ',' && c[2] != ']'))
                return 0;
            shape->size[shape->ndim++] = (int)(letter - letters);
        }
        if (c[1] == '<')
            return 0;
    }
    return 1;
}

/* What is known of a call while its arrays are looked at. */
struct look {
    struct microgpt_call call;
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
    look->call.array[i] = view->buf;
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
        struct microgpt_call *call = &look.call;
        call->kernel = (int)(row - rows);
        call->accumulate = accumulate && out != Py_None ? -1 : 0; /* new arrays hold nothing */
        call->eps = eps;
        call->m = (int)look.size[M];
        call->k = (int)look.size[K];
        call->moves = 0;
        for (int i = 0; i < row->n_arrays; i++)
            call->ld[i] = (int)look.size[row->shape[i].size[0]]; /* without gaps: as many as there are rows */
        if (run(look.format, call, 1, 0, (int)look.size[N]))
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
        PyErr_SetString(PyExc_ImportError, "microgpt.arguments has not been imported");
    Py_XDECREF(careful);
    Py_XDECREF(tuple);
    return result;
}

/* replay(format, calls, n_calls, start, n): microgpt_replay_f32 or _f64, as format is "f" or "d"; `calls` is an address. */
static PyObject *replay(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments)
{
    enum { FORMAT, CALLS, N_CALLS, START, COLUMNS, ALL };
    (void)dictionary;
    if (n_arguments != ALL) {
        PyErr_Format(PyExc_TypeError, "replay: expected %d arguments, found %zd", ALL, n_arguments);
        return NULL;
    }
    const char format = (char)PyUnicode_ReadChar(arguments[FORMAT], 0);
    const struct microgpt_call *calls = PyLong_AsVoidPtr(arguments[CALLS]);
    const int n_calls = (int)PyLong_AsLong(arguments[N_CALLS]), start = (int)PyLong_AsLong(arguments[START]),
              n = (int)PyLong_AsLong(arguments[COLUMNS]);
    if (PyErr_Occurred() || run(format, calls, n_calls, start, n))
        return NULL;
    Py_RETURN_NONE;
}

/* adam(format, param, m, v, grad, n, learning_rate, beta1, beta2, eps, m_correction, v_correction): microgpt_adam; the
   arrays are addresses. */
static PyObject *adam(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments)
{
    enum { FORMAT, ARRAYS, SIZE = ARRAYS + 4, NUMBERS, ALL = NUMBERS + 6 };
    (void)dictionary;
    if (n_arguments != ALL) {
        PyErr_Format(PyExc_TypeError, "adam: expected %d arguments, found %zd", ALL, n_arguments);
        return NULL;
    }
    const char format = (char)PyUnicode_ReadChar(arguments[FORMAT], 0);
    const size_t n = PyLong_AsSize_t(arguments[SIZE]);
    void *a[4];
    double x[6];
    for (int i = 0; i < 4; i++)
        a[i] = PyLong_AsVoidPtr(arguments[ARRAYS + i]);
    for (int i = 0; i < 6; i++)
        x[i] = PyFloat_AsDouble(arguments[NUMBERS + i]);
    if (PyErr_Occurred())
        return NULL;
    BEGIN_KERNELS;
    if (format == 'f')
        microgpt_adam_f32(a[0], a[1], a[2], a[3], x[0], x[1], x[2], x[3], x[4], x[5], n);
    else
        microgpt_adam_f64(a[0], a[1], a[2], a[3], x[0], x[1], x[2], x[3], x[4], x[5], n);
    END_KERNELS;
    Py_RETURN_NONE;
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
    {"replay", (PyCFunction)(void (*)(void))replay, METH_FASTCALL, NULL},
    {"adam", (PyCFunction)(void (*)(void))adam, METH_FASTCALL, NULL},
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
        if (read_shapes(&row, microgpt_kernels[n_rows].shapes))
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
