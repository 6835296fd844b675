/* Functions of Python's that run what program.py has recorded.  call.c puts them into c.py's dictionary. */

#ifndef MICROGPT_RECORDED_H
#define MICROGPT_RECORDED_H

#include <Python.h>

PyObject *microgpt_py_replay(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments);
PyObject *microgpt_py_step(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments);
PyObject *microgpt_py_draw(PyObject *dictionary, PyObject *const *arguments, Py_ssize_t n_arguments);

#endif
