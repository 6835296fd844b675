"""A sweep as a picture: the held-out loss against each setting, and against the steps where there are rungs."""

from __future__ import annotations

import os
from typing import Any

from . import files
from .errors import ConfigError, PlotError
from .plot import check_name, pyplot, save
from .sweeps import TRIALS, read
from .terminal import reason
from .trial import Trial

Styles = list[tuple[list[Trial], dict[str, Any]]]

WIDE = 3  # panels in a row
FEW = 8  # values that are ticks
DECADES = 20  # times the smallest value, from which on an axis is logarithmic
FAR = 4.0  # times the median's distance from the best loss, beyond which all losses are drawn alike, at the top


def is_sweep(path: str) -> bool:
    return os.path.exists(os.path.join(path, TRIALS))


def plot(paths: list[str], output: str) -> None:
    """Draw a sweep into a file, a PNG or SVG by its name."""
    check_name(output)
    if len(paths) > 1:
        raise ConfigError(f"expected one sweep alone, or runs, found {len(paths)} of them")
    path = os.path.join(paths[0], TRIALS)
    try:
        with open(path, "rb", opener=files.open_file) as file:
            trials = read(file, path)[0]
    except OSError as error:
        raise PlotError(f"{path}: cannot be read: {reason(error)}") from None
    measured = [t for t in trials if t.val_loss is not None]
    if not measured:
        raise PlotError(f"{path}: expected at least one trial with a loss, found none")
    names = [name for name in trials[0].settings if len({t.settings[name] for t in trials}) > 1]
    panels = [*names, *["step"] * any(t.rungs for t in trials)] or ["trial"]
    columns, rows = min(WIDE, len(panels)), -(-len(panels) // WIDE)
    size = 4.5 * columns, 3.6 * rows
    figure, grid = pyplot().subplots(rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
    best = min(measured, key=lambda t: (t.status != "done", t.val_loss))
    losses = sorted(float(t.val_loss or 0) for t in measured)
    top = losses[0] + FAR * (losses[len(losses) // 2] - losses[0])
    near = [t for t in measured if (t.val_loss or 0) <= top]
    styles: Styles = [
        ([t for t in near if t.status == "stopped"], {"marker": "o", "mfc": "white", "label": "stopped"}),
        ([t for t in near if t.status == "done"], {"marker": "o", "label": "done"}),
        ([t for t in measured if t not in near], {"marker": "^", "mfc": "white", "label": f"above {top:.4g}"}),
        ([best], {"marker": "*", "color": "C1", "markersize": 14, "label": f"best, trial {best.trial}"}),
    ]
    for axes, name in zip(grid.flat, panels):
        if name == "step":
            draw_rungs(axes, measured, best, top)
        else:
            draw_setting(axes, name, styles, top)
        axes.set_xlabel(name)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes in grid[:, 0]:
        axes.set_ylabel("held-out loss")
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    save(figure, output)


def draw_setting(axes: Any, name: str, styles: Styles, top: float) -> None:
    """Each trial's last loss against the value of a setting, or against its number."""

    def value(t: Trial) -> Any:
        found = t.trial if name == "trial" else t.settings[name]
        return os.path.basename(found) if isinstance(found, str) else found

    every = sorted({value(t) for trials, _ in styles for t in trials})
    if not isinstance(every[0], str):  # of which each is a tick
        if len(every) <= FEW:
            axes.set_xticks(every)
        elif every[0] > 0 and every[-1] >= DECADES * every[0]:
            axes.set_xscale("log")
    for trials, style in styles:
        if trials:
            losses = [min(t.val_loss or 0, top) for t in trials]
            axes.plot([*map(value, trials)], losses, **{"color": "C0", "linestyle": "none"} | style)


def draw_rungs(axes: Any, trials: list[Trial], best: Trial, top: float) -> None:
    """Each trial's losses against the steps, at its rungs and at its end."""
    for t in sorted(trials, key=lambda t: t is best):
        points: dict[Any, Any] = dict([*t.rungs, (t.step, t.val_loss)])
        color = "C1" if t is best else "C0" if t.status == "done" else "lightgray"
        losses = [min(loss, top) for loss in points.values()]
        axes.plot(list(points), losses, "o-", color=color, markersize=3, linewidth=1)
