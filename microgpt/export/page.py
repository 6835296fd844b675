"""Build a page: HTML, styles, scripts and data in a single file."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..runs.trained import Trained

PARTS = Path(__file__).parent  # the folder of the page's template, styles and scripts


def page(title: str, data: dict[str, Any], styles: Sequence[Path], scripts: Sequence[Path]) -> str:
    """The complete page.  Scripts find `data` as JSON in the element with the id "data"."""
    style, script = ("\n".join(map(read, names)) for names in (styles, scripts))
    policy = {
        "default-src": "'none'",
        "style-src": sha256(style),
        "script-src": sha256(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    parts = {
        "title": escape(title),
        "policy": escape("; ".join(f"{name} {value}" for name, value in policy.items())),
        "style": style,
        # every < is escaped, so that no text in the data can end the element
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read(PARTS / "page.html"))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def sha256(text: str) -> str:
    """The hash by which a Content-Security-Policy allows exactly this script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def model_data(model: Trained) -> dict[str, Any]:
    """The model as model.js reads it: settings, vocabulary, and each matrix column by column in base64."""
    config = model.config
    names = ("n_layer", "n_embd", "n_head", "block_size", "split", "dtype")
    arrays = {
        name: base64.b64encode(view.astype(view.dtype.newbyteorder("<")).tobytes(order="F")).decode()
        for name, view in model.params.items()
    }
    return {name: getattr(config, name) for name in names} | {"vocab": model.vocab, "params": arrays}
