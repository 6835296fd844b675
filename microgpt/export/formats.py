"""Export a trained model to another format, chosen by the extension of the output file."""

import os
from collections.abc import Callable
from pathlib import Path

from ..base import files
from ..base.config import BLANK_LINE, LINE, RUNNING_TEXT
from ..base.errors import ConfigError, DataError
from ..base.terminal import escaped, reason
from ..core.params import by_rows
from ..runs.trained import Trained

TEXT_KINDS = {LINE: "lines such as names", BLANK_LINE: "paragraphs", RUNNING_TEXT: "running text"}


def export(model: Trained, name: str, output: str) -> None:
    """Write the model to the file `output`, whose extension selects the format; `name` is the title of a page."""
    write(output, writer(output)(model, name))


def write(output: str, data: bytes) -> None:
    """Write the file named by --output.  Raises DataError."""
    try:
        files.write(output, data)
    except (OSError, MemoryError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"expected a writable file, found {output!r}: {reason(error)}", argument="output") from None


def writer(output: str) -> Callable[[Trained, str], bytes]:
    """The function that returns the bytes of such a file.  Raises ConfigError for an unknown extension."""
    for ending, function in FORMATS.items():
        if output.lower().endswith(ending):
            return function
    raise ConfigError(f"expected a name that ends in {' or '.join(FORMATS)}, found {output!r}", argument="output")


def to_html(model: Trained, name: str) -> bytes:
    """A web page on which the model runs."""
    from .page import PARTS, model_data, page

    text = f"{description(model)} It runs inside this page, which makes no network requests."
    data = {"description": text, "model": model_data(model)}
    styles = [PARTS / "page.css", PARTS / "live.css"]
    scripts = [PARTS / "dom.js", PARTS / "model.js", PARTS / "live.js", PARTS / "export.js"]
    return page(f"microgpt: {escaped(name)}", data, styles, scripts).encode()


def to_safetensors(model: Trained, name: str) -> bytes:
    """The weights, settings and vocabulary; microgpt.load() and the commands can read this file."""
    from ..runs import safetensors

    return safetensors.to_bytes(model.params, model.data_sha256)


def to_onnx(model: Trained, name: str) -> bytes:
    """The model as a graph for onnxruntime and other ONNX runtimes."""
    from . import onnx

    return onnx.to_bytes(model.params)


def to_python(model: Trained, name: str) -> bytes:
    """plain_python.py with the model inside, in ASCII; reading the numbers back gives exactly the same values."""
    source = Path(__file__).with_name("plain_python.py").read_text(encoding="utf-8")
    before, model_begins, rest = source.partition("# ---- the model ----\n")
    _, model_ends, after = rest.partition("# ---- values derived from the model ----\n")
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
    """A sentence that describes the model."""
    config = model.config
    counts = (config.n_layer, "layer"), (config.n_head, "head"), (len(model.vocab), "character")
    layers, heads, characters = (f"{n:,} {what}{'s' * (n > 1)}" for n, what in counts)
    return (
        f"A GPT with {model.num_params:,} parameters, trained to write {TEXT_KINDS[config.split]} "
        f"one character at a time: {layers}, {heads}, embedding width {config.n_embd}, "
        f"context length {config.block_size}, vocabulary of {characters}."
    )


def name_of(path: str) -> str:
    """The name of a run or a checkpoint file, without its parent directories."""
    return os.path.basename(os.path.normpath(path)) if path.strip("./") else os.path.basename(os.path.abspath(path))


FORMATS: dict[str, Callable[[Trained, str], bytes]] = {
    ".html": to_html,
    ".safetensors": to_safetensors,
    ".onnx": to_onnx,
    ".py": to_python,
}
