/* Python functions that replay recorded calls: see recorded.h. */

#include "recorded.h"

#include "run.h"

/* `recorded` stands for six arguments: format ("f" or "d"), calls, n_calls, position, n_threads, early.  A batch is the
   two arguments start and n.  Arrays, among them calls and position, are passed as addresses. */
enum { FORMAT, CALLS, N_CALLS, POSITION, N_THREADS, EARLY, RECORDED };

static int take_recorded(struct microgpt_replay *replay, PyObject *const *recorded, PyObject *const *batch,
                         char *format, int *n_threads)
{
    *format = (char)PyUnicode_ReadChar(recorded[FORMAT], 0);
    *n_threads = (int)PyLong_AsLong(recorded[N_THREADS]);
    replay->calls = PyLong_AsVoidPtr(recorded[CALLS]);
    replay->n_calls = (int)PyLong_AsLong(recorded[N_CALLS]);
    replay->position = PyLong_AsVoidPtr(recorded[POSITION]);
    replay->early = (int)PyLong_AsLong(recorded[EARLY]);
    replay->start = (int)PyLong_AsLong(batch[0]);
    replay->n = (int)PyLong_AsLong(batch[1]);
    return !PyErr_Occurred();
}

static int has_arguments(const char *name, Py_ssize_t n_arguments, Py_ssize_t expected)
{
    if (n_arguments != expected)
        PyErr_Format(PyExc_TypeError, "%s: expected %zd arguments, found %zd", name, expected, n_arguments);
    return n_arguments == expected;
}

/* replay(*recorded, start, n) replays the calls on a batch. */
PyObject *microgpt_py_replay(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments)
{
    (void)dictionary;
    struct microgpt_replay replay = {0};
    char format;
    int n_threads;
    if (!has_arguments("replay", n_arguments, RECORDED + 2) ||
        !take_recorded(&replay, arguments, arguments + RECORDED, &format, &n_threads) ||
        microgpt_run(format, &replay, n_threads))
        return NULL;
    Py_RETURN_NONE;
}

/* step(*recorded, losses, weights, param, m, v, grad, squares, count, clip, start, n, learning_rate, beta1, beta2, eps,
   m_correction, v_correction, decay) replays the calls and updates if the loss is finite; returns the loss. */
PyObject *microgpt_py_step(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments)
{
    enum { LOSSES = RECORDED, WEIGHTS, PARAM, M_, V_, GRAD, SQUARES, COUNT, CLIP, BATCH };
    enum { NUMBERS = BATCH + 2, N_NUMBERS = 7 };
    (void)dictionary;
    struct microgpt_replay replay = {0};
    char format;
    int n_threads;
    if (!has_arguments("step", n_arguments, NUMBERS + N_NUMBERS) ||
        !take_recorded(&replay, arguments, arguments + BATCH, &format, &n_threads))
        return NULL;
    double number[N_NUMBERS];
    for (int i = 0; i < N_NUMBERS; i++)
        number[i] = PyFloat_AsDouble(arguments[NUMBERS + i]);
    const struct microgpt_update update = {
        PyLong_AsVoidPtr(arguments[PARAM]),
        PyLong_AsVoidPtr(arguments[M_]),
        PyLong_AsVoidPtr(arguments[V_]),
        PyLong_AsVoidPtr(arguments[GRAD]),
        number[0],
        number[1],
        number[2],
        number[3],
        number[4],
        number[5],
        number[6],
        PyFloat_AsDouble(arguments[CLIP]),
        PyLong_AsVoidPtr(arguments[SQUARES]),
        PyLong_AsSize_t(arguments[COUNT]),
    };
    replay.update = &update;
    replay.losses = PyLong_AsVoidPtr(arguments[LOSSES]);
    replay.weights = PyLong_AsVoidPtr(arguments[WEIGHTS]);
    if (PyErr_Occurred() || microgpt_run(format, &replay, n_threads))
        return NULL;
    return PyFloat_FromDouble(replay.loss);
}

/* draw(format, token, probs, work, logits, uniform, m, n_threads, n, temperature, top_k, top_p) runs microgpt_draw in
   threads, see run.h; returns whether all logits are finite. */
PyObject *microgpt_py_draw(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments)
{
    enum { TOKEN = 1, PROBS, WORK, LOGITS, UNIFORM, ROWS, THREADS, N_COLUMNS, TEMPERATURE, TOP_K, TOP_P, ALL };
    (void)dictionary;
    if (!has_arguments("draw", n_arguments, ALL))
        return NULL;
    struct microgpt_drawing d = {
        .format = (char)PyUnicode_ReadChar(arguments[FORMAT], 0),
        .token = PyLong_AsVoidPtr(arguments[TOKEN]),
        .probs = PyLong_AsVoidPtr(arguments[PROBS]),
        .work = PyLong_AsVoidPtr(arguments[WORK]),
        .logits = PyLong_AsVoidPtr(arguments[LOGITS]),
        .uniform = PyLong_AsVoidPtr(arguments[UNIFORM]),
        .m = (int)PyLong_AsLong(arguments[ROWS]),
        .n = (int)PyLong_AsLong(arguments[N_COLUMNS]),
        .temperature = PyFloat_AsDouble(arguments[TEMPERATURE]),
        .top_k = (int)PyLong_AsLong(arguments[TOP_K]),
        .top_p = PyFloat_AsDouble(arguments[TOP_P]),
        .n_threads = (int)PyLong_AsLong(arguments[THREADS]),
    };
    if (PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(microgpt_run_drawing(&d));
}
