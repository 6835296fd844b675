"""Loss curves of runs, drawn with matplotlib, an optional extra ([plot])."""

import io
import json
import os
from contextlib import ExitStack, closing

from . import files
from .errors import ConfigError, PlotError, named
from .progress import SMOOTHING
from .run import METRICS
from .terminal import escaped, reason

Series = dict[str, tuple[list[int], list[float]]]  # name: steps, losses


def read_metrics(path: str) -> Series:
    """{"train": (steps, losses), "held-out": (steps, losses)} of a metrics file, or of the one in a run's directory."""
    series: Series = {"train": ([], []), "held-out": ([], [])}
    text = ""
    try:
        with ExitStack() as stack:
            opener = files.open_file
            if (folder := files.folder_at(path)) is not None:
                stack.enter_context(closing(folder))
                path, opener = folder.file(METRICS), folder.open
            for text in stack.enter_context(open(path, encoding="utf-8", errors="surrogateescape", opener=opener)):
                if not text.endswith("\n"):
                    break  # the last line of a run that goes on, or whose disk was full
                line = json.loads(text)
                for name, key in (("train", "loss"), ("held-out", "val_loss")):
                    if key in line:
                        if not 0 <= int(line["step"]) < 2**63:
                            raise ValueError("the step is out of range")
                        series[name][0].append(int(line["step"]))
                        series[name][1].append(float(line[key]))
    except (OSError, MemoryError) as error:
        raise PlotError(f"{path}: cannot be read: {reason(error)}") from None
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise PlotError(f"{path}: expected a step's JSON in every line, found {text!r:.60}: {error}") from None
    if not series["train"][0]:
        raise PlotError(f"{path}: expected at least one step, found none")
    return series


def smooth(values: list[float]) -> list[float]:
    """Each value drawn towards those before it, as the bar does."""
    smoothed, mean = [], values[0]
    for value in values:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        smoothed.append(mean)
    return smoothed


def plot(paths: list[str], output: str) -> None:
    """Draw the runs' losses against the step into a file, a PNG or SVG by its name."""
    if not output.endswith((".png", ".svg")):
        raise ConfigError(f"{named('output')}: expected a name that ends in .png or .svg, found {output!r}")
    runs = [(path, read_metrics(path)) for path in paths]
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise PlotError("plot needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "microgpt"  # or else names within an SVG would be random
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for path, series in runs:
        steps, losses = series["train"]
        label = escaped(os.path.basename(os.path.normpath(path))).replace("$", r"\$")  # which begins a formula
        label = f"./{label}" if label.startswith("_") else label  # which the legend would leave out
        line = axes.plot(steps, smooth(losses), label=label)[0]
        axes.plot(steps, losses, color=line.get_color(), alpha=0.2, linewidth=0.5)
        if series["held-out"][0]:
            axes.plot(*series["held-out"], "--.", color=line.get_color(), label=f"{label}, held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend()
    try:
        picture = io.BytesIO()
        # without the date, so that equal runs give equal files
        figure.savefig(picture, format=output[-3:], metadata={"Date": None} if output.endswith(".svg") else None)
        files.write(output, picture.getbuffer())
    except (OSError, MemoryError, ValueError) as error:
        raise PlotError(
            f"{named('output')}: expected a picture file that can be written, found {output!r}: {reason(error)}"
        ) from None
    finally:
        pyplot.close(figure)
