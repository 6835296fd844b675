"""Write the report of a run as a web page."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import ConfigError, DataError, SamplingError, renamed
from ..base.terminal import escaped, notice
from ..core.documents import SINGLE_DOCUMENTS
from ..export.formats import write
from ..export.page import PARTS, model_data, page
from ..runs import run
from ..runs.inputs import input_of_run
from ..runs.trained import Trained
from . import figures, plot
from .comparison import BY_DOCUMENT, HELD_OUT, TRAIN, Basis, Series, basis, differences
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
DIGITS = 6  # significant ones of measured numbers; settings are exact
EXACT = 2**53  # up to which a browser's numbers are whole
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
    runs, compared = list[dict[str, Any]](), dict[str, tuple[Series, Basis]]()
    for i, (path, name) in enumerate(zip(paths, names)):
        series = losses_of(path, name, notices)
        found = plot.read_basis(run.of_weights(path), series) if i else basis(series, model, documents)
        runs.append(shown(name, series, found))
        compared[name] = series, found
    for problem in differences(compared):
        notice(problem)
        notices.append(problem)
    data = collect(model, documents, texts, notices, runs)
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
    older = model.config.val_split == SINGLE_DOCUMENTS
    series = {
        TRAIN: (list(history.steps), list(history.losses)),
        HELD_OUT: held_out,
        BY_DOCUMENT: ([], []) if older else held_out,
    }
    if not history.losses:
        notices.append(NO_LOSSES.format(name))
    runs = [shown(name, series, basis(series, model, documents))]
    write_page(model, collect(model, documents, texts, notices, runs), output)


def write_page(model: Trained, data: dict[str, Any], output: str) -> None:
    title = f"Report of {data['runs'][0]['name']}"
    settings = {k: str(v) if type(v) is int and v > EXACT else v for k, v in data["run"]["settings"].items()}
    data = data | {"run": data["run"] | {"settings": settings}, "model": model_data(model)}
    write(output, page(title, data, STYLES, SCRIPTS).encode())


def collect(
    model: Trained,
    documents: Documents | None,
    texts: list[str] | None,
    notices: list[str],
    runs: list[dict[str, Any]],
) -> dict[str, Any]:
    """The data of the page.  Missing parts are None, explained in `notices`; the model is that of the first run."""
    measured = inspected = None
    if documents is not None:
        measured = figures.measured(documents, figures.MEASURED)
        inspected = figures.inspected(model, documents, figures.INSPECTED)
    return {
        "notices": notices,
        "run": figures.settings(model, documents),
        **rounded({
            "runs": runs,
            "texts": [reading(model, text) for text in texts or figures.excerpts(model, documents)],
            "embedding": figures.embedding(model),
            "losses": None if measured is None else figures.losses_by(model, measured),
            "neurons": None if inspected is None else neurons(model, inspected),
            "samples": figures.samples(model, documents),
        }),
    }  # fmt: skip


def shown(name: str, series: Series, found: Basis) -> dict[str, Any]:
    """The losses of a run as the page needs them."""
    return {"name": name, **figures.curves(series), "mean_over": found.mean_over, "baselines": found.baselines}


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


def losses_of(path: str, name: str, notices: list[str]) -> Series:
    """The losses of a run; they are empty if the run has no metrics."""
    try:
        return plot.read_metrics(run.of_weights(path))
    except DataError as error:
        why = error.problem if error.subject == path else error
        notice(f"{path}: the report shows no losses: {why}")
        notices.append(NO_LOSSES.format(name))
        return {kind: ([], []) for kind in (TRAIN, HELD_OUT, BY_DOCUMENT)}


def rounded(value: Any) -> Any:
    """The value with its numbers rounded to DIGITS.  Raises SamplingError for a number that is not finite."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SamplingError(f"expected finite numbers, found {value}: the model's weights are too large")
        return float(f"{value:.{DIGITS}g}") + 0.0  # + 0.0 turns -0.0 into 0.0
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    return value
