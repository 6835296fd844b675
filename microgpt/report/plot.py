"""Plot the losses of runs with matplotlib, which is in the optional extra [plot]."""

import io
import json
import os
from contextlib import ExitStack, closing
from typing import Any

from ..base import files
from ..base.errors import CheckpointError, ConfigError, DataError, PlotError, optional
from ..base.progress import smoothed
from ..base.terminal import escaped, notice, reason
from ..runs.run import METRICS, of_weights

Series = dict[str, tuple[list[int], list[float]]]  # name: (steps, losses)


def read_metrics(path: str) -> Series:
    """{"train": (steps, losses), "held-out": (steps, losses)} from a metrics file or a run's directory."""
    series: Series = {"train": ([], []), "held-out": ([], [])}
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
                for name, key in (("train", "loss"), ("held-out", "val_loss")):
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
    if not series["train"][0]:
        raise PlotError("expected at least one step, found none", subject=path)
    return series


def read_baselines(path: str) -> dict[str, float]:
    """{"uniform guess": loss, "bigram table": loss} of a run's directory, without those whose files are missing."""
    from ..runs import run
    from ..runs.inputs import input_of_run
    from ..runs.trained import Trained
    from . import baselines

    if not os.path.isdir(path):
        return {}
    try:
        model = Trained(run.load(path, last=True))
    except CheckpointError as error:
        notice(f"{path}: plotted without baselines: {error}")
        return {}
    config, documents = model.config, None
    try:
        documents = model.documents(input_of_run(path, config.input))
    except (ConfigError, DataError):
        notice(
            f"{path}: plotted without the bigram baseline, because its training text {config.input} is missing "
            "or has changed"
        )
    return baselines.losses(config, model.params.tokens, documents)


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
    runs = [(path, read_metrics(path)) for path in paths]
    figure, axes = pyplot().subplots(figsize=(8, 5))
    for label, (_, series) in zip(labels(paths), runs):
        steps, losses = series["train"]
        color = axes.plot(steps, smooth(losses), label=label)[0].get_color()
        if raw:
            axes.plot(steps, losses, color=color, alpha=0.15, linewidth=0.5, zorder=1)
        if series["held-out"][0]:
            label += ", held out"
            axes.plot(*series["held-out"], "--o", color=color, label=label, markersize=4, mfc="white", zorder=3)
    known = dict.fromkeys((name, f"{loss:.4f}") for path in paths for name, loss in read_baselines(path).items())
    for name, loss in known:
        style = ":" if name.startswith("uniform") else "-."
        axes.axhline(float(loss), color="gray", linestyle=style, linewidth=1, label=f"{name}, {loss}", zorder=1)
    if log_x:
        axes.set_xscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))  # beside the curves; save() widens the picture to fit
    save(figure, output)


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
