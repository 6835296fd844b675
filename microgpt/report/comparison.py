"""Comparison: whether the losses of several runs measure the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..base.config import RUNNING_TEXT, Config
from ..core.documents import SINGLE_DOCUMENTS
from . import baselines

if TYPE_CHECKING:
    from ..core.documents import Documents
    from ..runs.trained import Trained

Series = dict[str, tuple[list[int], list[float]]]  # name: (steps, losses)

TRAIN, HELD_OUT, BY_DOCUMENT = "train", "held-out", "held-out, by document"  # the names in a Series
TOKENS, DOCUMENTS = "tokens", "documents"  # what held-out losses may be means over
COMPARABLE = {  # if these are equal
    TRAIN: ("training losses", ("training texts", "vocabulary", "context length")),
    HELD_OUT: ("held-out losses", ("held-out texts", "vocabulary", "kind of mean")),
}


class Basis(NamedTuple):
    """What the losses of a run are compared by."""

    baselines: dict[str, float]
    mean_over: str | None  # TOKENS, DOCUMENTS, or None if it is unknown
    conditions: dict[str, Any]  # what the losses depend on besides the weights; what is unknown is left out


def basis(series: Series, model: Trained | None = None, documents: Documents | None = None) -> Basis:
    """The Basis of a run's losses; without documents, its texts are unknown."""
    mean = mean_over(series, None if model is None else model.config)
    if model is None:
        return Basis({}, mean, {})
    conditions = {
        "vocabulary": (*model.vocab, model.params.tokens.end),
        "context length": model.config.block_size,
        # older versions measured no tokens beyond the context
        "kind of mean": (mean, model.config.block_size if mean == DOCUMENTS else None),
    }
    if documents is not None:
        conditions["training texts"] = hash(tuple(sorted(documents.training)))
        conditions["held-out texts"] = hash(tuple(sorted(documents.held_out)))
    return Basis(baselines.losses(model.config, model.params.tokens, documents), mean, conditions)


def mean_over(series: Series, config: Config | None) -> str | None:
    """What the held-out losses of a run are means over.  Versions before 0.2 wrote only the mean over documents."""
    n = len(series[HELD_OUT][0])
    if n and series[BY_DOCUMENT][0]:
        return TOKENS if n == len(series[BY_DOCUMENT][0]) else DOCUMENTS
    if config is None or not n:
        return None
    return TOKENS if config.split == RUNNING_TEXT and config.val_split != SINGLE_DOCUMENTS else DOCUMENTS


def differences(runs: Mapping[str, tuple[Series, Basis]]) -> list[str]:
    """A sentence about each kind of loss that is not comparable between the runs, {name: (losses, their basis)}."""
    found = []
    for kind, (losses, names) in COMPARABLE.items():
        compared = {run: basis.conditions for run, (series, basis) in runs.items() if series[kind][0]}
        values = {name: {known[name] for known in compared.values() if name in known} for name in names}
        if differ := [name for name in names if len(values[name]) > 1]:
            found.append(f"The {losses} are not comparable: the runs differ in {listed(differ)}.")
        elif unknown := [run for run, known in compared.items() if len(compared) > 1 and not known.keys() >= {*names}]:
            found.append(f"The {losses} may not be comparable: the texts of {listed(unknown)} are unknown.")
    return found


def listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
