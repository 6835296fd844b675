"""Export: a trained model as a file of another kind, by the file's ending."""

import os
from collections.abc import Callable
from pathlib import Path

from ..base import files
from ..base.config import BLANK_LINE, LINE, RUNNING_TEXT
from ..base.errors import ConfigError, DataError
from ..base.terminal import escaped, reason
from ..core.params import by_rows
from ..runs.trained import Trained

WRITES = {LINE: "lines such as names", BLANK_LINE: "paragraphs", RUNNING_TEXT: "running text"}


def export(model: Trained, name: str, output: str) -> None:
    """Write the model, which people know as `name`, into a file of the kind that its ending says."""
    write(output, writer(output)(model, name))


def write(output: str, data: bytes) -> None:
    """Write the file that --output names.  Raises DataError."""
    try:
        files.write(output, data)
    except (OSError, MemoryError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(
            f"expected a file that can be written, found {output!r}: {reason(error)}", argument="output"
        ) from None


def writer(output: str) -> Callable[[Trained, str], bytes]:
    """What makes the bytes of such a file.  Raises ConfigError, which names the known endings."""
    for ending, function in FORMATS.items():
        if output.lower().endswith(ending):
            return function
    raise ConfigError(f"expected a name that ends in {' or '.join(FORMATS)}, found {output!r}", argument="output")


def to_html(model: Trained, name: str) -> bytes:
    """A page on which the model runs."""
    from .page import PARTS, model_data, page

    said = f"{description(model)} It runs in this page, which sends nothing anywhere."
    data = {"description": said, "model": model_data(model)}
    styles = [PARTS / "page.css", PARTS / "live.css"]
    scripts = [PARTS / "dom.js", PARTS / "model.js", PARTS / "live.js", PARTS / "export.js"]
    return page(f"microgpt: {escaped(name)}", data, styles, scripts).encode()


def to_safetensors(model: Trained, name: str) -> bytes:
    """The weights, settings and vocabulary, which microgpt.load() and the commands take too."""
    from ..runs import safetensors

    return safetensors.to_bytes(model.params, model.data_sha256)


def to_onnx(model: Trained, name: str) -> bytes:
    """The model as a graph that onnxruntime and others run."""
    from . import onnx

    return onnx.to_bytes(model.params)


def to_python(model: Trained, name: str) -> bytes:
    """standalone.py with the model in it: numbers are written so that they are read as the same, texts in ASCII."""
    source = Path(__file__).with_name("standalone.py").read_text(encoding="utf-8")
    before, model_begins, rest = source.partition("# ---- the model ----\n")
    _, model_ends, after = rest.partition("# ---- what follows from it ----\n")
    config = model.config
    lines = [
        f"DESCRIPTION = {description(model)!r}",
        f"N_LAYER, N_HEAD, BLOCK_SIZE = {config.n_layer}, {config.n_head}, {config.block_size}",
        f"SPLIT = {config.split!r}",
        f"VOCAB = {''.join(model.vocab)!a}",
        "WEIGHTS: dict[str, str] = {",
    ]
    for matrix, rows in by_rows(model.params).items():
        text = "\n".join(" ".join(map(repr, row)) for row in rows.tolist())
        lines.append(f'{matrix!r}: """{text}""",')
    return "\n".join([before + model_begins, *lines, "}\n", model_ends + after]).encode()


def description(model: Trained) -> str:
    """A sentence on what the model is."""
    config = model.config
    counts = (config.n_layer, "layer"), (config.n_head, "head"), (len(model.vocab), "character")
    layers, heads, characters = (f"{n:,} {what}{'s' * (n > 1)}" for n, what in counts)
    return (
        f"A GPT of {model.num_params:,} parameters that has learned to write {WRITES[config.split]}, "
        f"one character after another: {layers}, {heads}, {config.n_embd} wide, "
        f"a context of {config.block_size} tokens, {characters}."
    )


def name_of(path: str) -> str:
    """What people know a run or a checkpoint file as: its own name, whatever folders it is in."""
    return os.path.basename(os.path.normpath(path)) if path.strip("./") else os.path.basename(os.path.abspath(path))


FORMATS: dict[str, Callable[[Trained, str], bytes]] = {
    ".html": to_html,
    ".safetensors": to_safetensors,
    ".onnx": to_onnx,
    ".py": to_python,
}
