"""Plot a sweep: the held-out loss against each varied setting and, if there are rungs, against the step."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

from ..base.errors import ConfigError, PlotError
from ..base.files import Folder
from ..base.terminal import reason
from ..report import plot as runs_plot
from ..report.plot import check_name, pyplot, save, text
from ..runs.run import SWEEP
from .plan import Plan
from .records import Trial
from .space import Space, Values, bounds, varied_settings
from .sweeper import TRIALS, read_trials

Styles = list[tuple[list[Trial], dict[str, Any]]]

COLUMNS = 3  # panels in a row
MAX_TICKS = 6  # on a linear axis
MAX_SPREAD = 4.0  # losses above best + MAX_SPREAD * (median - best) are drawn at the top


def is_sweep(path: str) -> bool:
    return os.path.exists(os.path.join(path, TRIALS))


def plot_runs_or_sweep(paths: list[str], output: str, log_x: bool = False, raw: bool = True) -> None:
    """Plot the losses of runs, or one sweep, depending on what the paths are.  `output` is a PNG or SVG file."""
    if any(map(is_sweep, paths)):
        plot(paths, output)
    else:
        runs_plot.plot(paths, output, log_x, raw)


def plot(paths: list[str], output: str) -> None:
    """Plot a sweep into a PNG or SVG file."""
    check_name(output)
    if len(paths) > 1:
        raise ConfigError(f"expected a single sweep, or only runs, found {len(paths)} paths with a sweep among them")
    space, measured = read_sweep(paths[0])
    names = varied_settings(space) or ["val_fraction"]  # every space has it
    panels = [*names, *["step"] * any(t.rungs for t in measured)]
    columns, rows = min(COLUMNS, len(panels)), -(-len(panels) // COLUMNS)
    size = 4.5 * columns, 3.6 * rows
    figure, grid = pyplot().subplots(rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
    best = min(measured, key=lambda t: (t.status != "done", t.val_loss))
    losses = sorted(float(t.val_loss or 0) for t in measured)
    top = losses[0] + MAX_SPREAD * (losses[len(losses) // 2] - losses[0])
    for axes, name in zip(grid.flat, panels):
        if name == "step":
            draw_rungs(axes, measured, best, top)
        else:
            draw_setting(axes, name, space[name], styles(measured, best, top), top)
        axes.set_xlabel(name)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes in grid[:, 0]:
        axes.set_ylabel("held-out loss (nats)")
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    save(figure, output)


def read_sweep(directory: str) -> tuple[Space, list[Trial]]:
    """The space of a sweep, and its trials that have a held-out loss.  Raises PlotError or DataError."""
    path = os.path.join(directory, TRIALS)
    try:
        with closing(Folder(directory)) as folder, open(path, "rb", opener=folder.open) as file:
            space, trials = Plan.read(folder).space, read_trials(file, path)[0]
    except OSError as error:
        raise PlotError(f"expected readable files {TRIALS} and {SWEEP}: {reason(error)}", subject=directory) from None
    measured = [t for t in trials if t.val_loss is not None]
    if not measured:
        raise PlotError("expected at least one trial with a loss, found none", subject=path)
    return space, measured


def styles(measured: list[Trial], best: Trial, top: float) -> Styles:
    """The trials grouped by marker: stopped at a rung, done, with a loss above `top`, and the best one."""
    near = [t for t in measured if (t.val_loss or 0) <= top]
    return [
        ([t for t in near if t.status == "stopped"], {"marker": "o", "mfc": "white", "label": "stopped"}),
        ([t for t in near if t.status == "done"], {"marker": "o", "label": "done"}),
        ([t for t in measured if t not in near], {"marker": "^", "mfc": "white", "label": f"above {top:.4g}"}),
        ([best], {"marker": "*", "color": "C1", "markersize": 14, "label": f"best, trial {best.trial}"}),
    ]


def draw_setting(axes: Any, name: str, values: Values, styles: Styles, top: float) -> None:
    """Draw each trial's last loss against its value of a setting; the values of a list are evenly spaced."""
    places = {v: i for i, v in enumerate(sorted(values))} if isinstance(values, list) else {}
    for trials, style in styles:
        if trials:
            x = [places.get(v, v) for v in (t.settings[name] for t in trials)]
            losses = [min(t.val_loss or 0, top) for t in trials]
            axes.plot(x, losses, **{"color": "C0", "linestyle": "none"} | style)
    # invisible, but makes the axis cover all possible values
    axes.axvspan(*(places.get(end, end) for end in bounds(values)), alpha=0)
    if isinstance(values, list):
        ticks = list(places)[:: -(-len(places) // MAX_TICKS)]
        axes.set_xticks([places[v] for v in ticks], [label(v) for v in ticks])
    elif values.log and values.high > 5 * values.low:  # a shorter axis could have fewer than two ticks
        from matplotlib.ticker import LogLocator

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=[1, 2, 5] if values.high < 100 * values.low else [1]))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    else:
        axes.xaxis.get_major_locator().set_params(nbins=MAX_TICKS - 1, integer=values.whole)


def label(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else text(os.path.basename(str(value)))


def draw_rungs(axes: Any, trials: list[Trial], best: Trial, top: float) -> None:
    """Draw each trial's losses against the step, at its rungs and at its end."""
    for t in sorted(trials, key=lambda t: t is best):
        points: dict[Any, Any] = dict([*t.rungs, (t.step, t.val_loss)])
        color = "C1" if t is best else "C0" if t.status == "done" else "lightgray"
        losses = [min(loss, top) for loss in points.values()]
        axes.plot(list(points), losses, "o-", color=color, markersize=3, linewidth=1)
