"""Write the report of a run as a web page."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import ConfigError, DataError, SamplingError, renamed
from ..base.terminal import escaped, notice
from ..export.formats import write
from ..export.page import PARTS, model_data, page
from ..runs import run
from ..runs.inputs import input_of_run
from ..runs.trained import Trained
from . import baselines, figures, plot
from .lens import reading
from .neurons import neurons

if TYPE_CHECKING:
    from ..core.documents import Documents

VIEWS = Path(__file__).parent
STYLES = [PARTS / "page.css", VIEWS / "views.css", PARTS / "live.css"]
SCRIPTS = [
    PARTS / "dom.js",
    VIEWS / "pictures.js",
    VIEWS / "views.js",
    PARTS / "model.js",
    PARTS / "live.js",
    VIEWS / "report.js",
]
DECIMALS = 4  # in every number on the page
NO_TEXTS = (
    "The training text of this run is missing or has changed. This report therefore leaves out everything that is "
    "measured on it, and shows the texts that you asked for, or samples of the model."
)
NO_LOSSES = "No losses are shown for {}, because they are only in the metrics.jsonl of a run's directory."


def report(
    paths: list[str], output: str | None, texts: list[str] | None = None, required: bool = True, last: bool = False
) -> dict[str, Any]:
    """Return the data of a page about the first run and the losses of all runs.  The page, which also contains the
    model, is written to `output` if that is given."""
    if output is not None or required:
        check_name(output)
    model, names, notices = Trained(run.load(paths[0], last)), names_of(paths), list[str]()
    check_texts(model, texts)
    documents = documents_of(model, paths[0], notices)
    runs = [{"name": name, **curves_of(path, name, notices)} for path, name in zip(paths, names)]
    baselines_of_others = map(plot.read_baselines, map(run.of_weights, paths[1:]))
    data = collect(model, documents, texts, notices, runs, baselines_of_others)
    if output is not None:
        write_page(model, data, output)
    return data


def report_model(model: Trained, output: str, texts: list[str] | None = None) -> None:
    """Write the page about a model in memory, with the losses in its history."""
    check_name(output)
    check_texts(model, texts)
    name, notices, history = escaped(Path(output).stem), list[str](), model.history
    documents = documents_of(model, None, notices)
    held_out = [step for step, _ in history.val_losses], [loss for _, loss in history.val_losses]
    if not history.losses:
        notices.append(NO_LOSSES.format(name))
    curves = figures.curves({"train": (list(history.steps), list(history.losses)), "held-out": held_out})
    write_page(model, collect(model, documents, texts, notices, [{"name": name, **curves}]), output)


def write_page(model: Trained, data: dict[str, Any], output: str) -> None:
    title = f"Report of {data['runs'][0]['name']}"
    write(output, page(title, data | {"model": model_data(model)}, STYLES, SCRIPTS).encode())


def collect(
    model: Trained,
    documents: Documents | None,
    texts: list[str] | None,
    notices: list[str],
    runs: list[dict[str, Any]],
    baselines_of_others: Iterable[dict[str, float]] = (),
) -> dict[str, Any]:
    """The data of the page.  Missing parts are None, explained in `notices`; the model is that of the first run."""
    known = [baselines.losses(model.config, model.params.tokens, documents), *baselines_of_others]
    measured = inspected = None
    if documents is not None:
        measured = figures.measured(model, documents, figures.MEASURED)
        inspected = figures.measured(model, documents, figures.INSPECTED)
        if documents.running:
            inspected = figures.pieces(inspected[0], model.config.block_size)
    data = {
        "notices": notices,
        "runs": [each | {"baselines": found} for each, found in zip(runs, known)],
        "run": figures.settings(model, documents),
        "texts": [reading(model, text) for text in texts or figures.excerpts(model, documents)],
        "embedding": figures.embedding(model),
        "losses": None if measured is None else figures.losses_by(model, measured),
        "neurons": None if inspected is None else neurons(model, inspected),
        "samples": figures.samples(model, documents),
    }
    return rounded(data)  # type: ignore[no-any-return]


def names_of(paths: list[str]) -> list[str]:
    """Distinct names for the runs; for weights in a run's directory, the run's name and the file's."""
    names = plot.last_names(paths)
    for i, path in enumerate(paths):
        if run.of_weights(path) != path and os.sep not in names[i]:
            names[i] = os.sep.join(os.path.abspath(path).split(os.sep)[-2:])
    return list(map(escaped, names))


def check_name(output: str | None) -> None:
    if not str(output).endswith(".html"):
        found = "none" if output is None else repr(output)
        raise ConfigError(f"expected a name that ends in .html, found {found}", argument="output")


def check_texts(model: Trained, texts: list[str] | None) -> None:
    """Raise ConfigError for a text that the model cannot read."""
    with renamed("text", argument="texts"):
        for text in texts or []:
            model.inspect(text)


def documents_of(model: Trained, path: str | None, notices: list[str]) -> Documents | None:
    """The documents of the run at `path`, or of a model without a path; None, with a notice, if they are missing."""
    try:
        documents = model.documents(None if path is None else input_of_run(path, model.config.input))
    except (ConfigError, DataError) as error:
        notice(f"{path or model}: the report leaves out what needs the training text: {error}")
        notices.append(NO_TEXTS)
        return None
    documents.notice_unusual(model.config.block_size)
    return documents


def curves_of(path: str, name: str, notices: list[str]) -> dict[str, Any]:
    """The loss curves of a run; they are empty if the run has no metrics."""
    try:
        return figures.curves(plot.read_metrics(run.of_weights(path)))
    except DataError as error:
        why = error.problem if error.subject == path else error
        notice(f"{path}: the report shows no losses: {why}")
        notices.append(NO_LOSSES.format(name))
        return {"train": [], "held_out": []}


def rounded(value: Any) -> Any:
    """The value with its numbers rounded.  Raises SamplingError for a number that is not finite."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SamplingError(f"expected finite numbers, found {value}: the model's weights are too large")
        return round(value, DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    return value
