"""The report of a run: its figures as a page."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from ..api import Model
from ..base.errors import ConfigError, DataError, SamplingError, named
from ..base.terminal import escaped, notice
from ..export.formats import write
from ..export.page import model_data, page
from ..runs import run
from . import baselines, figures, plot
from .lens import reading
from .neurons import neurons

if TYPE_CHECKING:
    from ..core.documents import Documents

STYLES = ["page.css", "views.css", "live.css"]
SCRIPTS = ["dom.js", "pictures.js", "views.js", "model.js", "live.js", "report.js"]
DECIMALS = 4  # of every number


def report(
    paths: list[str], output: str | None, texts: list[str] | None = None, required: bool = True
) -> dict[str, Any]:
    """The data of the page about the first run and the losses of all; the page, which has the model too, is written to
    `output`, if given."""
    if (output is not None or required) and not str(output).endswith(".html"):
        found = "none" if output is None else repr(output)
        raise ConfigError(f"{named('output')}: expected a name that ends in .html, found {found}")
    saved = run.load(paths[0])
    model = Model(saved)
    data = collect(paths, model, saved.step, texts)
    if output is not None:
        html = page(f"Report of {data['runs'][0]['name']}", data | {"model": model_data(model)}, STYLES, SCRIPTS)
        write(output, html.encode())
    return data


def collect(paths: list[str], model: Model, step: int, texts: list[str] | None = None) -> dict[str, Any]:
    """The page's data.  What cannot be had is None, and `notices` says why."""
    names = names_of(paths)
    notices: list[str] = []
    if texts is not None:
        check(model, texts)
    documents = documents_of(paths[0], model, notices)
    looked_into = None if documents is None else figures.measured(model, documents, figures.LOOKED_INTO)
    if looked_into is not None and model.params.tokens.end is None:
        looked_into = figures.pieces(looked_into[0], model.config.block_size)
    curves = [losses(path, name, notices) for path, name in zip(paths, names)]
    known = [
        baselines.losses(model.config, model.params.tokens, documents),
        *map(plot.read_baselines, map(run.of_weights, paths[1:])),
    ]
    data = {
        "notices": notices,
        "runs": [each | {"baselines": found} for each, found in zip(curves, known)],
        "run": figures.settings(model, step, documents),
        "texts": [reading(model, text) for text in texts or figures.excerpts(model, documents)],
        "embedding": figures.embedding(model),
        "losses": None
        if documents is None
        else figures.losses_by(model, figures.measured(model, documents, figures.MEASURED)),
        "neurons": None if looked_into is None else neurons(model, looked_into),
        "samples": figures.samples(model, documents),
    }
    return rounded(data)  # type: ignore[no-any-return]


def names_of(paths: list[str]) -> list[str]:
    """What tells the runs apart; of weights that lie in a run's directory the run's name, and the file's."""
    names = plot.last_names(paths)
    for i, path in enumerate(paths):
        if run.of_weights(path) != path and os.sep not in names[i]:
            names[i] = os.sep.join(os.path.abspath(path).split(os.sep)[-2:])
    return list(map(escaped, names))


def check(model: Model, texts: list[str]) -> None:
    """ConfigError for a text that the model does not take."""
    for text in texts:
        try:
            model.inspect(text)
        except ConfigError as error:
            raise ConfigError(f"{named('texts')}: {str(error).removeprefix('text: ')}") from None


def documents_of(path: str, model: Model, notices: list[str]) -> Documents | None:
    try:
        return model.documents(run.input_of(path, model.config.input))
    except (ConfigError, DataError) as error:
        notice(f"{path}: reported without what needs its texts: {error}")
        notices.append(
            "The file that this run was trained on is not there, or has changed: what is measured on its texts is "
            "left out, and the texts that are looked at are those asked for, or the model's own inventions."
        )
        return None


def losses(path: str, name: str, notices: list[str]) -> dict[str, Any]:
    """A run's name and its curves, which are empty where its files do not tell."""
    try:
        curves = figures.curves(plot.read_metrics(run.of_weights(path)))
    except DataError as error:
        notice(f"{path}: reported without its losses: {str(error).removeprefix(f'{path}: ')}")
        notices.append(f"{name} has no losses to draw: they are in the metrics.jsonl of a run's directory.")
        return {"name": name, "train": [], "held_out": []}
    return {"name": name, **curves}


def rounded(value: Any) -> Any:
    """The same with short numbers.  SamplingError for one that is none."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SamplingError(f"expected finite numbers, found {value}: the model's weights are too large")
        return round(value, DECIMALS) + 0.0  # no negative zero
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    return value
