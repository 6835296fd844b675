"""What of csrc/ no test reached, from gcov's JSON files of every instruction set: python tests/uncovered.py FILE...

A line or branch counts as reached when it was on any instruction set, for in plain C a vector is one number, and none
is cut off at a column's end; but in each precision it counts by itself, where names (of a function, or of what was
compiled) end in one.  What is named below with its reason may be left over; anything else is printed, and exit 1.
"""

import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path

MAY_REMAIN = {
    "outputs && i <": "no memory for a tuple",
    "tuple && i <": "the same",
    "if (outputs && several": "the same",
    "PyTuple_SetItem(outputs": "no memory for an array",
    "Py_CLEAR(outputs);": "the same",
    "if (tuple && careful)": "no memory, or a call before checks.py has added `careful`",
    "else if (tuple)": "the same",
    "PyExc_ImportError": "the same",
    "ndarray && empty && float32": "c.py without NumPy's objects",
    "add_function(dictionary, &": "no memory for a function",
    "const int added = function": "the same",
    "PyErr_ExceptionMatches(PyExc_Exception)": "an interrupt while the arguments are looked at",
    "if (row->n_arrays == MAX_ARRAYS)": "a row of more matrices than there is today",
    "view->format[1]": "NumPy writes one letter for float and double",
    "view->buf % view->itemsize": "NumPy writes the format of what is not aligned in another way",
    "n_rows < MAX_ROWS": "a table of more rows than there is today",
    "__builtin_cpu_supports": "asks the processor, and there is one at a time",
    "return 2;": "the same, where there is no AVX-512",
    "if (k)": "plain C's vector of one: where there are lanes to write, this is one of them",
    "return k ? fmadd(a, b, c) : c;": "the same: lags are counted for this one lane",
    "switch ((enum kernel)c->kernel)": "a number that is no kernel: programs are made of enum kernel",
}


def main(paths):
    # how often, by (source, precision of what was compiled, function, line number[, branch])
    lines, branches = defaultdict(int), defaultdict(int)
    for path in paths:
        unit = json.loads(gzip.decompress(Path(path).read_bytes()))
        precision = next((p for p in ("f32", "f64") if p in unit["data_file"]), "")
        for file in unit["files"]:
            source = Path(file["file"])
            if source.parent.name != "csrc":
                continue  # cffi's wrapper, and the system's headers
            for line in file["lines"]:
                key = source.name, precision, line.get("function_name", ""), line["line_number"]
                lines[key] += line["count"]
                for i, branch in enumerate(line["branches"]):
                    branches[*key, i] += branch["count"]
    print(f"{len(lines)} lines and {len(branches)} branches, each in every precision")
    unexpected = 0
    for (source, precision, function, number, *branch), count in sorted({**lines, **branches}.items()):
        if count == 0:
            text = (Path("csrc") / source).read_text().splitlines()[number - 1].strip()
            reason = next((reason for part, reason in MAY_REMAIN.items() if part in text), None)
            unexpected += reason is None
            what = f"branch {branch[0]}" if branch else "line"
            where = " ".join(filter(None, (f"{source}:{number}:", function, precision)))
            print(f"{where}: {what} not reached: {text}\n    {reason or 'WHY?'}")
    print(f"{unexpected} not reached and not explained")
    return unexpected > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
