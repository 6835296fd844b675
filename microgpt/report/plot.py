"""Plot the losses of runs with matplotlib, which is in the optional extra [plot]."""

import io
import json
import math
import os
from contextlib import ExitStack, closing
from typing import Any

from ..base import files
from ..base.errors import CheckpointError, ConfigError, DataError, PlotError, optional
from ..base.progress import smoothed
from ..base.terminal import escaped, notice, reason
from ..runs.metrics import CHECKPOINT
from ..runs.run import METRICS, of_weights
from .comparison import BY_DOCUMENT, DOCUMENTS, HELD_OUT, TOKENS, TRAIN, Basis, Series, basis, differences


def read_metrics(path: str) -> Series:
    """The losses in a metrics file or a run's directory.

    Held-out losses are means over tokens; where older lines have only the mean over documents, all are that.
    """
    keys = {TRAIN: "loss", HELD_OUT: "val_loss", BY_DOCUMENT: "val_document_loss"}
    series: Series = {name: ([], []) for name in keys}
    text = ""
    if path.endswith((".npz", ".safetensors")) and os.path.isfile(path):
        advice = "" if (directory := of_weights(path)) == path else f"; use the run's directory {directory}"
        raise PlotError(
            f"expected a run's directory or its metrics, found weights, which have no losses{advice}", subject=path
        )
    try:
        with ExitStack() as stack:
            opener = files.open_file
            if (folder := files.folder_at(path)) is not None:
                stack.enter_context(closing(folder))
                path, opener = folder.file(METRICS), folder.open
            for text in stack.enter_context(open(path, encoding="utf-8", errors="surrogateescape", opener=opener)):
                if not text.endswith("\n"):
                    break  # an incomplete last line: the run is still training, or its disk was full
                line = json.loads(text)
                for name, key in keys.items():
                    if key in line:
                        if not 0 <= int(line["step"]) < 2**63:
                            raise ValueError("the step is out of range")
                        series[name][0].append(int(line["step"]))
                        series[name][1].append(float(line[key]))
    except (OSError, MemoryError) as error:
        raise PlotError(f"cannot be read: {reason(error)}", subject=path) from None
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise PlotError(
            f"expected the JSON of a step in every line, found {text!r:.60}: {error}", subject=path
        ) from None
    if not series[TRAIN][0]:
        raise PlotError("expected at least one step, found none", subject=path)
    steps, losses = series[HELD_OUT]
    if 0 < len(series[BY_DOCUMENT][0]) < len(steps):  # an older run, resumed
        by_document = dict(zip(*series[BY_DOCUMENT]))
        losses[:] = [by_document.get(step, loss) for step, loss in zip(steps, losses)]
    return series


def read_basis(path: str, series: Series) -> Basis:
    """The Basis of a run's losses, as far as the files of the run show it."""
    from ..runs import run
    from ..runs.inputs import input_of_run
    from ..runs.trained import Trained

    if os.path.basename(path) == METRICS and os.path.isfile(os.path.join(os.path.dirname(path), CHECKPOINT)):
        path = os.path.dirname(path) or os.curdir
    if not os.path.isdir(path):
        return basis(series)
    try:
        model = Trained(run.load(path, last=True))
    except CheckpointError as error:
        notice(f"{path}: plotted without baselines: {error}")
        return basis(series)
    name = model.config.input
    try:
        documents = model.documents(input_of_run(path, name))
    except (ConfigError, DataError):
        notice(
            f"{path}: plotted without the bigram baseline, because its training text {name} is missing or has changed"
        )
        return basis(series, model)
    return basis(series, model, documents)


def labels(paths: list[str]) -> list[str]:
    """A distinct label for each path, escaped for matplotlib."""
    return [text(name) for name in last_names(paths)]


def last_names(paths: list[str]) -> list[str]:
    """The shortest endings of the paths, in whole names, that tell all paths apart."""
    parts = [os.path.normpath(path).split(os.sep) for path in paths]
    different, n = len(set(map(tuple, parts))), 1
    while len({tuple(names[-n:]) for names in parts}) < different:
        n += 1
    return [os.sep.join(names[-n:]) for names in parts]


def text(name: str) -> str:
    """The name escaped for matplotlib, where $ begins a formula and a leading _ hides a label."""
    name = escaped(name).replace("$", r"\$")
    return f"./{name}" if name.startswith("_") else name


def smooth(losses: list[float]) -> list[float]:
    """The running averages that the progress bar shows."""
    means, mean = [], 0.0
    for n, loss in enumerate(losses, 1):
        mean = smoothed(mean, loss, n)
        means.append(mean)
    return means


def plot(paths: list[str], output: str, log_x: bool = False, raw: bool = True) -> None:
    """Plot the runs' smoothed losses against the step into a PNG or SVG file.

    With `raw`, the losses of single steps are drawn behind the smoothed ones.
    """
    check_name(output)
    runs = list(zip(paths, labels(paths), map(read_metrics, paths)))
    figure, axes = pyplot().subplots(figsize=(8, 5))
    compared, known = {}, dict[tuple[str, str], list[str]]()  # known: the runs by (baseline, loss)
    for path, label, series in runs:
        found = read_basis(path, series)
        compared[path] = series, found
        for name, loss in found.baselines.items():
            known.setdefault((name, f"{loss:.4f}"), []).append(label)
        steps, losses = series[TRAIN]
        color = axes.plot(steps, smooth(losses), label=label)[0].get_color()
        if raw:
            axes.plot(steps, losses, color=color, alpha=0.15, linewidth=0.5, zorder=1)
        if series[HELD_OUT][0]:
            label += f", held out{held_out_summary(series[HELD_OUT][1], found.mean_over)}"
            axes.plot(*series[HELD_OUT], "--o", color=color, label=label, markersize=4, mfc="white", zorder=3)
    for (baseline, value), names in known.items():
        style = ":" if baseline.startswith("uniform") else "-."
        label = baseline + (f" of {', '.join(dict.fromkeys(names))}" if len(runs) > 1 else "") + f", {value}"
        axes.axhline(float(value), color="gray", linestyle=style, linewidth=1, label=label, zorder=1)
    if problems := differences(compared):
        for problem in problems:
            notice(problem)
        axes.set_title("\n".join(map(text, problems)), fontsize="small", loc="left")
    if log_x:
        axes.set_xscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))  # beside the curves; save() widens the picture to fit
    save(figure, output)


def held_out_summary(losses: list[float], mean: str | None) -> str:
    """The lowest held-out loss, for a legend."""
    lowest = min(losses)
    if mean == DOCUMENTS:
        return f": lowest {lowest:.4f} (mean over documents)"
    return f": lowest {lowest:.4f} ({lowest / math.log(2):.3f} bits per character)" if mean == TOKENS else ""


def check_name(output: str) -> None:
    if not output.lower().endswith((".png", ".svg")):
        raise ConfigError(f"expected a name that ends in .png or .svg, found {output!r}", argument="output")


def pyplot() -> Any:
    """matplotlib.pyplot with a backend that needs no display.  Raises ExtraError."""
    matplotlib = optional("matplotlib", "plot", "plot")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "microgpt"  # otherwise the ids in an SVG would be random
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, output: str) -> None:
    """Write the picture and free its memory.  Raises PlotError."""
    try:
        picture = io.BytesIO()
        kind = output[-3:].lower()
        # without the date, so that equal runs give equal files
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(picture, format=kind, metadata=metadata, bbox_inches="tight")
        files.write(output, picture.getvalue())
    except (OSError, MemoryError, ValueError) as error:
        raise PlotError(
            f"expected a writable picture file, found {output!r}: {reason(error)}", argument="output"
        ) from None
    finally:
        pyplot().close(figure)
