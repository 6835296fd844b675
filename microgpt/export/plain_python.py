"""A character-level GPT in plain Python.  It generates texts, and measures how surprising given texts are to it.

    python FILE --num-samples 20 --temperature 0.5 --seed 42
    python FILE --score TEXT ...

It needs Python 3.11 or newer and no packages.  `microgpt export` put the model at the end of this file: sizes,
vocabulary, and weights row by row.
"""

import argparse
import math
import os
import random
import sys
from bisect import bisect
from collections.abc import Callable, Iterator
from itertools import accumulate

Vector = list[float]

# ---- the mathematics ----


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b))


def linear(rows: list[Vector], x: Vector) -> Vector:
    return [dot(row, x) for row in rows]


def plus(a: Vector, b: Vector) -> Vector:
    return [x + y for x, y in zip(a, b)]


def rmsnorm(x: Vector) -> Vector:
    root = math.sqrt(dot(x, x) / len(x) + 1e-5)
    return [value / root for value in x]


def softmax(x: Vector) -> Vector:
    top = max(x)
    exps = [math.exp(value - top) for value in x]
    total = sum(exps)
    return [e / total for e in exps]


class Context:
    """The tokens read so far, as their keys and values in each layer."""

    def __init__(self, tokens: list[int]) -> None:
        self.length = 0
        self.keys: list[list[Vector]] = [[] for _ in range(N_LAYER)]
        self.values: list[list[Vector]] = [[] for _ in range(N_LAYER)]
        for token in tokens:
            self.read(token)

    def read(self, token: int) -> Vector:
        """Read one more token; returns the logits of the next one."""
        x = rmsnorm(plus(weights["wte"][token], weights["wpe"][self.length]))
        self.length += 1
        for layer in range(N_LAYER):
            w = {name: weights[f"layer{layer}.{name}"] for name in LAYER}
            # x = x + wo attention(rmsnorm(x))
            h = rmsnorm(x)
            self.keys[layer].append(linear(w["attn_wk"], h))
            self.values[layer].append(linear(w["attn_wv"], h))
            h = attention(linear(w["attn_wq"], h), self.keys[layer], self.values[layer])
            x = plus(x, linear(w["attn_wo"], h))
            # x = x + fc2 relu(fc1 rmsnorm(x))
            h = [max(value, 0.0) for value in linear(w["mlp_fc1"], rmsnorm(x))]
            x = plus(x, linear(w["mlp_fc2"], h))
        logits = linear(weights["lm_head"], x)
        if not all(map(math.isfinite, logits)):
            raise ValueError("expected finite logits, found inf or nan: the model's weights are too large")
        return logits


def attention(q: Vector, keys: list[Vector], values: list[Vector]) -> Vector:
    """The outputs of all heads, concatenated."""
    size, out = len(q) // N_HEAD, []
    for start in range(0, len(q), size):
        head = slice(start, start + size)
        probs = softmax([dot(q[head], key[head]) / math.sqrt(size) for key in keys])
        out += [dot(probs, list(feature)) for feature in zip(*(value[head] for value in values))]
    return out


# ---- texts ----


def encode(text: str, name: str, most: int | None) -> list[int]:
    """The id of each character.  Raises ValueError for an unknown character, or for more than `most`."""
    for i, char in enumerate(text):
        if char not in VOCAB:
            raise ValueError(
                f"{name}: expected characters of {VOCAB!r:.100}, found {char!r} at position {i + 1} of {text!r:.100}"
            )
    if most is not None and len(text) > most:
        raise ValueError(f"{name}: expected at most {most} characters, found {len(text)}")
    return list(map(VOCAB.index, text))


def samples(
    num_samples: int = 20, temperature: float = 0.5, top_k: int = 0, top_p: float = 1.0, prompt: str = "",
    length: int = 0, seed: int = 42,
) -> Iterator[str]:  # fmt: skip
    """Generate texts one after another.  Sample i does not depend on num_samples."""
    given = encode(prompt, "--prompt", None if RUNNING or length else BLOCK_SIZE - 1)
    most = len(given) + (length or (500 if RUNNING else BLOCK_SIZE - len(given)))
    rng, uniforms = random.Random(seed), iter(list[float]())
    for _ in range(num_samples):
        for _ in uniforms:  # use up the random numbers that the previous text left
            pass
        uniforms = (rng.random() for _ in range(most))  # one per possible character
        context, ids = Context([]), list[int]()
        for i, uniform in enumerate(uniforms):
            if i == 1 and RUNNING and given:
                context = Context([])  # begins with the prompt, without the start token
            elif context.length == BLOCK_SIZE:
                context = Context(ids[-1 - BLOCK_SIZE // 2 : -1])  # drop the older half
            logits = context.read(ids[-1] if ids else START)
            token = given[i] if i < len(given) else draw(logits, uniform, temperature, top_k, top_p)
            if token == END:
                break
            ids.append(token)
        yield "".join(VOCAB[token] for token in ids)


def draw(logits: Vector, uniform: float, temperature: float, top_k: int, top_p: float) -> int:
    """Draw a token from softmax(logits / temperature), limited to the top_k likeliest and those that reach top_p."""
    likeliest = logits.index(max(logits))
    if temperature == 0:
        return likeliest
    probs = softmax([logit / temperature for logit in logits])
    if math.isnan(probs[0]):  # the temperature is too low for the precision
        return likeliest
    if top_k or top_p < 1:
        kept, total = [0.0] * len(probs), 0.0
        for token in sorted(range(len(probs)), key=lambda token: -probs[token])[: top_k or len(probs)]:
            if total >= top_p:
                break
            kept[token] = probs[token]
            total += probs[token]
        probs = kept
    so_far = list(accumulate(probs))
    return bisect(so_far, so_far[-1] * uniform)


def score(text: str) -> Vector:
    """-log probability of each character, and of the end of the text unless it is running text."""
    ids = [START, *encode(text, "--score", None), *([] if END is None else [END])]
    if len(ids) == 1:
        raise ValueError("--score: expected at least one character, found none")
    losses, context = Vector(), Context([])
    for i in range(len(ids) - 1):
        if context.length == BLOCK_SIZE:
            context = Context(ids[i - BLOCK_SIZE // 2 : i])  # drop the older half
        logits = context.read(ids[i])
        top = max(logits)
        losses.append(math.log(sum(math.exp(logit - top) for logit in logits)) - (logits[ids[i + 1]] - top))
    return losses


# ---- the command line ----


def main() -> None:
    parser = argparse.ArgumentParser(description=DESCRIPTION, allow_abbrev=False)
    whole, real = number(int, 0, 10**9), number(float, 0, 1000)
    n = 1 if SPLIT == "none" else 20
    parser.add_argument("--num-samples", type=whole, default=n, help="number of texts to generate")
    parser.add_argument("--temperature", type=real, default=0.5, help="randomness; 0 always takes the likeliest")
    parser.add_argument("--top-k", type=whole, default=0, help="draw only from the K likeliest characters; 0 means all")
    part = number(float, 0, 1, above=True)
    parser.add_argument(
        "--top-p", type=part, default=1.0, help="draw only from the likeliest with this total probability"
    )
    parser.add_argument("--prompt", default="", help="beginning of every text")
    parser.add_argument(
        "--length",
        type=whole,
        default=0,
        help="characters to generate; 0 means a full context, or 500 in running text",
    )
    parser.add_argument("--seed", type=number(int, 0, 2**63 - 1), default=42, help="seed of the random numbers")
    parser.add_argument("--score", metavar="TEXT", nargs="+", help="print the loss of each character, in bits")
    settings = vars(parser.parse_args())
    texts = settings.pop("score")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        if texts is not None:
            print_scores(texts)
        else:
            print_samples(samples(**settings), SPLIT == "none" and settings["num_samples"] == 1)
        sys.stdout.flush()
    except ValueError as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        os._exit(130)
    except OSError as error:  # exit at once: flushing stdout again would fail again
        if isinstance(error, BrokenPipeError):  # the reader has gone, as after `| head`
            os._exit(0)
        print(f"{parser.prog}: stdout: {error.strerror}", file=sys.stderr)
        os._exit(1)


def print_samples(texts: Iterator[str], plain: bool) -> None:
    for i, text in enumerate(texts, 1):
        if plain:
            print(*map(shown, text.split("\n")), sep="\n")
        elif SPLIT == "line":
            print(f"sample {i:2d}: {shown(text)}")
        else:
            print(f"sample {i:2d}:", *map(shown, text.split("\n")), "", sep="\n")


def print_scores(texts: list[str]) -> None:
    for text in texts:
        losses = score(text)
        bits = (f"{shown(char)} {loss / math.log(2):.2f}" for char, loss in zip([*text, "<end>"], losses))
        print(f"{shown(text)}: loss {math.fsum(losses) / len(losses):.4f}, bits  {'  '.join(bits)}")


def number(kind: Callable[[str], float], low: float, high: float, above: bool = False) -> Callable[[str], float]:
    """A parser of such numbers, for argparse."""
    what = "a whole number" if kind is int else "a number"
    expected = f"expected {what} {'above' if above else 'at least'} {low} and at most {high}"

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (above and value == low):
            raise argparse.ArgumentTypeError(f"{expected}, found {text!r:.100}")
        return value

    return parse


def shown(text: str) -> str:
    """The text; for a terminal, with control characters escaped."""
    if not sys.stdout.isatty():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


# ---- the model ----

DESCRIPTION = ""
N_LAYER, N_HEAD, BLOCK_SIZE = 1, 1, 1
SPLIT = "line"
VOCAB = "a"
WEIGHTS: dict[str, str] = {}

# ---- values derived from the model ----

RUNNING = SPLIT == "none"
END = None if RUNNING else len(VOCAB)
START = max(0, VOCAB.find("\n")) if END is None else END
LAYER = "attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2"
weights = {name: [list(map(float, row.split())) for row in text.splitlines()] for name, text in WEIGHTS.items()}

if __name__ == "__main__":
    main()
