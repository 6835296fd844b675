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

WIDE = 3  # panels in a row
FEW = 8  # values that are ticks
DECADES = 20  # times the smallest value, from which on an axis is logarithmic


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
    for axes, name in zip(grid.flat, panels):
        if name == "step":
            draw_rungs(axes, measured, best)
        else:
            draw_setting(axes, name, measured, best)
        axes.set_xlabel(name)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes in grid[:, 0]:
        axes.set_ylabel("held-out loss")
    grid.flat[0].legend()
    save(figure, output)


def draw_setting(axes: Any, name: str, trials: list[Trial], best: Trial) -> None:
    """Each trial's last loss against the value of a setting, or against its number."""

    def draw(some: list[Trial], marker: str, **style: Any) -> None:
        axes.plot([value(t) for t in some], [t.val_loss for t in some], marker, **style)

    def value(t: Trial) -> Any:
        found = t.trial if name == "trial" else t.settings[name]
        return os.path.basename(found) if isinstance(found, str) else found

    every = sorted({value(t) for t in trials})
    if not isinstance(every[0], str):  # of which each is a tick
        if len(every) <= FEW:
            axes.set_xticks(every)
        elif every[0] > 0 and every[-1] >= DECADES * every[0]:
            axes.set_xscale("log")
    for status, fill in (("stopped", "white"), ("done", "C0")):
        if some := [t for t in trials if t.status == status]:
            draw(some, "o", mfc=fill, mec="C0", label=status)
    draw([best], "*", color="C1", markersize=14, label=f"best, trial {best.trial}")


def draw_rungs(axes: Any, trials: list[Trial], best: Trial) -> None:
    """Each trial's losses against the steps, at its rungs and at its end."""
    for t in sorted(trials, key=lambda t: t is best):
        points: dict[Any, Any] = dict([*t.rungs, (t.step, t.val_loss)])
        color = "C1" if t is best else "C0" if t.status == "done" else "lightgray"
        axes.plot(list(points), list(points.values()), "o-", color=color, markersize=3, linewidth=1)
