"""The model in JavaScript, run by node: its numbers and samples equal those of Python."""

import random

import numpy as np
import pytest
from pages import HOSTILE, in_doubles

SETTINGS = [
    {"temperature": 0.3}, {"temperature": 0.5}, {"temperature": 1.0}, {"temperature": 1.5},
    {"temperature": 1.0, "top_k": 3}, {"temperature": 1.2, "top_p": 0.7},
    {"temperature": 1.0, "top_k": 5, "top_p": 0.5}, {"prompt": "an"}, {"temperature": 1.5, "length": 30},
    {"temperature": 0.0, "num_samples": 5},
    {"temperature": 1e-320}, {"temperature": 1.0, "seed": 2**63 - 1}, {"temperature": 1.0, "seed": 2**32},
    {"temperature": 1.0, "seed": 0, "num_samples": 0},
]  # fmt: skip


def names(n, chars="abcdefgh", longest=7):
    rng = random.Random(7)
    return ["".join(rng.choices(chars, k=rng.randint(1, longest))) for _ in range(n)]


def wanted(model, name, argument):
    if name == "sample":
        return model.sample(**argument)
    found = getattr(model, name)(argument)
    if name == "score":
        return [found.loss, *found.losses]
    return [layer.tolist() for layer in found] if name == "attention" else [[char, p] for char, p in found.items()]


def numbers(name, found):
    if name == "score":
        return [found["loss"], *found["losses"]] if isinstance(found, dict) else found
    return [p for _, p in found] if name == "next" else np.array(found)


def compare(javascript, model, calls):
    """Compare texts exactly and numbers up to rounding; float32 models are compared in doubles."""
    exact = in_doubles(model) if model.config.dtype == "float32" else model
    # a seed beyond 2^53 is no number of JavaScript's: digits
    told = [(0, name, {**a, "seed": str(a["seed"])} if isinstance(a, dict) and "seed" in a else a) for name, a in calls]
    for (name, argument), found in zip(calls, javascript([model], told), strict=True):
        if name == "sample":
            assert found == wanted(model, name, argument), argument
        else:
            right = wanted(exact, name, argument)
            if name == "next":
                assert [char for char, _ in found] == [char for char, _ in right]
            np.testing.assert_allclose(numbers(name, found), numbers(name, right), rtol=0, atol=1e-9, err_msg=argument)


@pytest.mark.parametrize("n_layer", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_documents(javascript, trained, n_layer, dtype):
    """The losses of 500 names agree to 1e-9, and 1,000 samples exactly, for all sampling settings."""
    model = trained(["anna", "hanah", *names(60)], n_layer=n_layer, dtype=dtype)
    samples = [("sample", {"num_samples": 90} | settings) for settings in SETTINGS]
    assert sum(settings["num_samples"] for _, settings in samples) >= 1000
    looked_at = ["", "a", "anna", "hanahan"]
    calls = [("next", text) for text in looked_at] + [("attention", text) for text in [*looked_at, "hanahanb"]]
    compare(javascript, model, [("score", text) for text in names(500, longest=8)] + calls + samples)


@pytest.mark.parametrize("block_size", [1, 2, 5, 8])
@pytest.mark.parametrize("newline", ["", "\n"])
def test_running_text(javascript, trained, block_size, newline):
    """Running text is sampled, scored and continued past the context as in Python, with and without newlines."""
    text = newline.join(names(40))
    dtype = "float32" if block_size == 5 else "float64"
    model = trained([text], split="none", n_layer=2, block_size=block_size, dtype=dtype)
    calls = [("next", text[:n]) for n in range(3 * block_size + 2)]
    calls += [("score", text[3 : 4 + n]) for n in range(3 * block_size)]
    calls += [("attention", text[2 : 3 + n]) for n in range(block_size)]
    drawn = [{"prompt": ""}, {"prompt": text[:1]}, {"prompt": text[: 3 * block_size]}, {"temperature": 1.5}]
    calls += [("sample", {"num_samples": 10, "length": 40} | settings) for settings in drawn]
    compare(javascript, model, [*calls, ("sample", {"num_samples": 2, "temperature": 1.0})])  # 500 characters


@pytest.mark.parametrize("split", ["line", "blank-line", "none"])
def test_hostile_vocabulary(javascript, trained, split):
    """Texts survive with any vocabulary, including astral characters, combining marks and control characters."""
    texts = [text.strip() for text in HOSTILE]
    model = trained(["\n\n".join(texts)] if split == "blank-line" else texts, split=split, block_size=32)
    calls = [("score", text) for text in texts] + [("next", text[:5]) for text in texts]
    calls += [("sample", {"temperature": 1.5, "num_samples": 50, "length": 40, "prompt": text[:4]}) for text in texts]
    compare(javascript, model, calls)


def test_equals(javascript, trained):
    """Among equally likely characters, the one with the lowest id ranks first."""
    model = trained(names(40))
    model.params["lm_head"][1:6] = model.params["lm_head"][0]
    drawn = [{"temperature": 1.0, "top_k": 3}, {"temperature": 1.5, "top_p": 0.3}, {"temperature": 0.0}]
    compare(javascript, model, [("sample", {"num_samples": 50} | settings) for settings in drawn])


def test_one_character(javascript, trained):
    """A vocabulary of one character works, with and without an end token."""
    for split in ("line", "none"):
        model = trained(["aaa", "aa"] if split == "line" else ["aaa"], split=split)
        compare(javascript, model, [("score", "aa"), ("next", "a"), ("sample", {"temperature": 1.0})])


def test_beyond_the_context(javascript, trained):
    """A text longer than the context is scored to its end, as the older half of a full context is dropped."""
    for split in ("line", "none"):
        model = trained(["abcabacb" * 4], split=split, block_size=5)
        compare(javascript, model, [("score", "abcabacb" * n) for n in (1, 2, 3)])


def test_errors(javascript, trained):
    """Unknown characters, and texts too long to look into, are clear errors."""
    model = trained(names(40))
    for name, argument, said in [
        ("next", "aXb", '"X" at position 2'), ("score", "\U0001f600", "position 1"), ("next", "a" * 8, "at most 7"),
        ("attention", "a" * 9, "at most 8"),
        ("sample", {"prompt": "a" * 8}, "at most 7"),
    ]:  # fmt: skip
        (found,) = javascript([model], [(0, name, argument)])
        assert said in found["error"]
