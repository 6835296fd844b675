/* Python functions that replay recorded calls.  call.c adds them to a dictionary of compiled.py. */

#ifndef MICROGPT_RECORDED_H
#define MICROGPT_RECORDED_H

#include <Python.h>

PyObject *microgpt_py_replay(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments);
PyObject *microgpt_py_step(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments);
PyObject *microgpt_py_draw(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments);

#endif
