"""Sampling from a trained model: the same texts however they are drawn, from the right distribution, and fast."""

import itertools
import json
import math
import os
import random
import re
import time

import numpy as np
import pytest
from helpers import INPUT, SLOW, microgpt, write_names

from microgpt import api, kernels
from microgpt.base.config import Config, Sampling
from microgpt.base.errors import ConfigError, SamplingError
from microgpt.core import model, sample
from microgpt.core.program import Program, Replay
from microgpt.core.sample import Sampler
from microgpt.core.trainer import Trainer
from microgpt.kernels import compiled as c


@pytest.fixture(scope="module", params=["float64", "float32"])
def trained(request, tmp_path_factory):
    """A model of two layers after a few hundred steps."""
    path = write_names(tmp_path_factory.mktemp("names") / "names.txt", 300)
    trainer = Trainer(Config(input=path, num_steps=300, n_layer=2, batch_size=4, dtype=request.param))
    trainer.steps(300, [], ())
    return api.Model(trainer.checkpoint())


def drawn(trained, columns, probs=False, threads=1, **settings):
    batches = sample.samples(trained.params, Sampling(**settings), probs, threads, columns)
    return [found for texts, p in batches for found in zip(texts, p or texts)]


def choose(logits, uniforms, sampling):
    """The kernel's tokens, one for each column of logits and its uniform number."""
    m, n = logits.shape
    tokens, work = np.full(n, -1, np.int32), np.empty(m, np.int32)
    probs, logits = np.empty(m * (n + 1), logits.dtype), np.asfortranarray(logits)
    draw = c.drawing(tokens, probs, work, logits, np.ascontiguousarray(uniforms, np.float64), m)
    assert draw(n, sampling.temperature, min(sampling.top_k, m) or m, sampling.top_p)
    return tokens


def likeliest(probs, top_k, top_p):
    """Where the top_k likeliest of each column are, and the likeliest that make up top_p; of equals the first."""
    order = np.argsort(-probs, axis=0, kind="stable")
    ranked = np.take_along_axis(probs, order, axis=0)
    before = np.cumsum(ranked, axis=0) - ranked
    mask = np.empty(probs.shape, bool)
    np.put_along_axis(mask, order, (np.arange(len(probs))[:, None] < top_k) & (before < top_p), axis=0)
    return mask


def chosen(logits, uniforms, sampling):
    """What the kernel should choose, by NumPy."""
    if sampling.temperature == 0:
        return logits.argmax(axis=0)
    probs = sample.tempered(logits, sampling.temperature).astype(np.float64)
    probs = np.where(likeliest(probs, sampling.top_k or len(probs), sampling.top_p), probs, 0)
    sums = np.cumsum(probs, axis=0)
    return np.count_nonzero(sums <= uniforms * sums[-1], axis=0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("m", [1, 2, 15, 27, 33, 300])
def test_the_kernel_against_numpy(dtype, m):
    """The drawn tokens are those of the formula in NumPy, for any temperature, top-k, top-p and number of columns."""
    rng = np.random.default_rng(m)
    for settings in [{}, {"temperature": 0}, {"temperature": 3.0, "top_k": 4}, {"temperature": 2.0, "top_p": 0.7},
                     {"top_k": 9, "top_p": 0.9}, {"temperature": 1e-300}, {"top_p": 1e-9}, {"top_k": 1}]:  # fmt: skip
        sampling = Sampling(**{"temperature": 1.0} | settings)
        for n in 1, 7, 8, 50:
            logits = (rng.standard_normal((m, n)) * 2).astype(dtype)
            logits[:: 1 + m // 5] = np.round(logits[:: 1 + m // 5])  # some are equal
            uniforms = rng.random(n)
            assert (choose(logits, uniforms, sampling) == chosen(logits, uniforms, sampling)).all(), (settings, n)


def test_each_thread_ranks_by_itself():
    """Threads that rank a large vocabulary at the same time choose what one thread chooses."""
    m, n, found = 20_000, 64, []
    rng = np.random.default_rng(3)
    logits, uniforms = np.asfortranarray(rng.standard_normal((m, n))), rng.random(n)
    for threads in 1, 4, 4, 4:
        tokens, work, probs = np.zeros(n, np.int32), np.zeros(threads * m, np.int32), np.zeros(m * (n + threads))
        assert c.drawing(tokens, probs, work, logits, uniforms, m, threads)(n, 1.0, 5000, 0.9)
        found.append(tokens.tolist())
    assert found == found[:1] * 4


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_logits_that_are_not_finite(dtype, wrong):
    """The kernel says so wherever one is."""
    for i in range(0, 27 * 9, 7):
        logits = np.zeros((27, 9), dtype, "F")
        logits.reshape(-1, order="F")[i] = wrong
        tokens, work, probs = np.zeros(9, np.int32), np.zeros(27, np.int32), np.zeros(27 * 10, dtype)
        assert not c.drawing(tokens, probs, work, logits, np.zeros(9), 27)(9, 1.0, 27, 1.0)


WAYS = [{}, {"temperature": 0}, {"temperature": 1.5, "top_k": 5}, {"top_p": 0.8, "temperature": 1.0}, {"prompt": "ab"}]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_any_number_of_threads(trained, way):
    """Sample i is the same by any number of threads, in batches of any size, and they come in their order."""
    expected = drawn(trained, 1, probs=True, num_samples=12, **way)
    for threads, columns in (2, 1), (3, 4), (5, 12), (8, None):
        assert drawn(trained, columns, probs=True, threads=threads, num_samples=12, **way) == expected


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_any_batch(trained, way):
    """Sample i is the same one by one and in batches of any size, and so are its probabilities."""
    expected = drawn(trained, 1, probs=True, num_samples=40, **way)
    for columns in 2, 7, 64:
        assert drawn(trained, columns, probs=True, num_samples=40, **way) == expected
    assert drawn(trained, 16, probs=True, num_samples=13, **way) == expected[:13]


def uncached(trained):
    """A function of a list of tokens: the logits of what follows, a column, from a full forward pass."""
    config, params = trained.config, trained.params
    n = config.block_size
    ops = Program()
    model.forward(ops, params.arrays, config, ops.attention_forward)
    given = {"tokens": np.zeros(n, np.int32), "positions": np.arange(n, dtype=np.int32)}
    replay = Replay(ops, config.dtype, n, {**params.views, **given})
    logits = replay.values["logits"]

    def following(tokens):
        n = len(tokens)
        given["tokens"][:n] = tokens
        replay.over(0, n)
        return logits.reshape(-1, order="F")[len(logits) * (n - 1) : len(logits) * n].reshape(-1, 1, order="F")

    return following


def test_without_cache(trained):
    """The same samples come without a cache of keys and values: from a full forward pass for each character."""
    following, vocab, n = uncached(trained), trained.vocab, trained.config.block_size
    rng, found = random.Random(42), []
    for _ in range(30):
        uniforms, tokens = [rng.random() for _ in range(n)], [len(vocab)]
        while len(tokens) <= n:
            uniform = np.array([uniforms[len(tokens) - 1]])
            tokens += choose(following(tokens), uniform, Sampling()).tolist()
            if tokens[-1] == len(vocab):
                break
        found.append("".join(vocab[token] for token in tokens[1:] if token < len(vocab)))
    assert found == [text for text, _ in drawn(trained, 16, num_samples=30)]


def test_uniform():
    """The vectorised numbers are those that random.random() gives, one after the other."""
    one, other = random.Random(7), random.Random(7)
    assert sample.uniform(one, 1000).tolist() == [other.random() for _ in range(1000)]
    assert one.getstate() == other.getstate()


def test_frequencies():
    """Characters are drawn as often as their probabilities say, up to the noise of 100,000 draws."""
    logits = np.array([[0.0], [1.0], [2.0], [-1.0]]).repeat(100_000, 1)
    uniforms = sample.uniform(random.Random(1), 100_000)
    tokens = choose(np.asfortranarray(logits), uniforms, Sampling(temperature=0.7))
    expected = kernels.softmax_forward(logits[:, :1] / 0.7)[:, 0]
    counts = np.bincount(tokens, minlength=4)
    assert (abs(counts - 100_000 * expected) < 5 * np.sqrt(100_000 * expected * (1 - expected))).all()


@pytest.mark.parametrize("settings, allowed", [
    ({"temperature": 0}, {2}), ({"top_k": 1}, {2}), ({"top_k": 2}, {1, 2}), ({"top_k": 9}, {0, 1, 2, 3}),
    ({"top_p": 0.1}, {2}), ({"top_p": 0.8}, {1, 2}), ({"top_p": 1e-300}, {2}),
    ({"top_k": 3, "top_p": 0.999}, {0, 1, 2}),
    ({"temperature": 1e-300}, {2}), ({"temperature": 1000.0}, {0, 1, 2, 3}),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_which_may_be_drawn(settings, allowed, dtype):
    """Top-k, top-p and temperature leave the characters that they should, and all of those."""
    logits = np.array([[0.0], [1.0], [2.0], [-1.0]], dtype).repeat(5000, 1)
    uniforms = sample.uniform(random.Random(2), 5000)
    uniforms[:2] = 0, np.nextafter(1, 0)
    tokens = choose(np.asfortranarray(logits), uniforms, Sampling(**{"temperature": 1.0} | settings))
    assert set(tokens.tolist()) == allowed


def test_equal_logits():
    """Of equally likely characters the first are the likeliest, whatever asks."""
    logits = np.zeros((100, 1))
    for settings in {"temperature": 0}, {"top_k": 1}, {"top_p": 0.005}:
        assert choose(logits, np.array([0.99]), Sampling(**settings)) == [0]
    uniforms = (np.arange(100) + 0.5) / 100
    for k in 1, 2, 40, 99:
        tokens = choose(np.zeros((100, 100)), uniforms, Sampling(temperature=1.0, top_k=k))
        assert set(tokens.tolist()) == set(range(k))


def test_a_probability_that_is_met_exactly():
    """Top-p takes no more characters than make it up."""
    logits = np.zeros((4, 400))  # four of 1/4 each
    uniforms = (np.arange(400) + 0.5) / 400
    for top_p, expected in (0.25, 1), (0.5, 2), (0.51, 3), (0.75, 3), (0.76, 4):
        tokens = choose(logits, uniforms, Sampling(temperature=1.0, top_p=top_p))
        assert set(tokens.tolist()) == set(range(expected))


def test_where_one_character_ends():
    """In either precision the numbers below the sum of the first probabilities draw these, to within 1e-12."""
    logits = np.random.default_rng(0).standard_normal((27, 1)).astype(np.float32)
    ends = np.cumsum(sample.tempered(logits, 1.0).astype(np.float64))
    for side, first in (1 - 1e-12, 0), (1 + 1e-12, 1):
        uniforms = ends[:-1] / ends[-1] * side
        tokens = choose(np.repeat(logits, 26, axis=1), uniforms, Sampling(temperature=1.0))
        assert tokens.tolist() == list(range(first, 26 + first))


def test_columns_for_a_large_model():
    """However large the model is, one document at a time is drawn; of small ones many, but no more than are wanted, nor
    than there is memory for when they are long."""
    assert sample.columns_for(Config(n_embd=2**14, n_head=1, block_size=2**10), 5, 2**10) == 1
    assert sample.columns_for(Config(), 5, 16) == 5 and sample.columns_for(Config(), 10**6, 16) > 500
    assert sample.columns_for(Config(), 10**6, 10**6) == 4 and sample.columns_for(Config(), 10**6, 10**8) == 1


def test_a_column_too_cold_leaves_its_neighbours_alone():
    """Logits that overflow when divided by a low temperature become the likeliest, in their column only."""
    logits = np.asfortranarray([[1e10, 0.0], [1e9, 0.0]], np.float32)
    found = sample.tempered(logits, 1e-30)
    np.testing.assert_array_equal(found[:, 0], [1, 0])
    np.testing.assert_array_equal(found[:, 1], [0.5, 0.5])


def test_prompt_and_probabilities(trained):
    """Every sample begins with the prompt, and the probabilities shown are those that score finds."""
    for text, probs in trained.sample_probs(10, prompt="ba", temperature=1.0):
        assert text.startswith("ba")
        losses = trained.score(text).losses
        assert len(probs) == len(losses) == min(len(text) + 1, trained.config.block_size)
        np.testing.assert_allclose(-np.log(probs), losses, rtol=1e-4)


def test_seeds(trained):
    """Another seed draws other samples, the same one the same."""
    assert trained.sample(5, seed=1) == trained.sample(5, seed=1) != trained.sample(5, seed=2)


def test_bad_prompts(trained):
    """A prompt with an unknown character, or without room after it, is refused: which, where, and what there is."""
    with pytest.raises(ConfigError, match=r"prompt: expected .*'abcdefgh', found 'X' at position 3 of 'abX'"):
        trained.sample(prompt="abX")
    with pytest.raises(ConfigError, match="at most 15 characters"):
        trained.sample(prompt="a" * 16)
    assert all(len(text) == 16 or text.startswith("a" * 15) for text in trained.sample(3, prompt="a" * 15))


def test_what_is_no_column_or_position(trained):
    """What is no token, no position of the context, no column or one too many does not reach C."""
    sampler, bos, n = Sampler(trained.params, 2), len(trained.vocab), trained.config.block_size
    for tokens, position in ([bos], n), ([bos], -1), (np.zeros(0, int), 0), ([bos] * 3, 0), ([bos + 1], 0), ([-1], 0):
        with pytest.raises(ValueError, match="expected"):
            sampler.logits(tokens, position)
    assert sampler.logits([bos, bos], 0).shape == (bos + 1, 2)


def test_weights_without_sense(trained):
    """Weights so large that the logits overflow are an error, not a constant character."""
    broken = api.Model(trained._saved)
    broken.params.copy_from(trained.params)
    broken.params["lm_head"][:] = np.finfo(trained.config.dtype).max
    with pytest.raises(SamplingError):
        broken.sample(1)


# ---- beyond the context ----


@pytest.fixture(
    scope="module", params=itertools.product(["none", "line"], [1, 2, 3, 8], ["float64", "float32"]), ids=str
)
def short(request, tmp_path_factory):
    """A model of running text, or of documents, with a short context."""
    split, block_size, dtype = request.param
    path = write_names(tmp_path_factory.mktemp("names") / "names.txt", 300)
    settings = {"n_layer": 2, "n_embd": 8, "n_head": 2, "batch_size": 4, "num_steps": 60}
    trainer = Trainer(Config(path, split=split, block_size=block_size, dtype=dtype, **settings))
    trainer.steps(60, [], ())
    return api.Model(trainer.checkpoint())


def gone_on(trained, uniforms, sampling):
    """The text that goes on with the prompt for sampling.length characters or to its end, and their probabilities; each
    from a full forward pass over a list of tokens, the older half of which is dropped when it is full."""
    vocab, block_size, following = trained.vocab, trained.config.block_size, uncached(trained)
    running = trained.config.split == "none"
    end = None if running else len(vocab)
    context, said, probs = [vocab.index("\n") if running else end], [], []
    for i in range(len(sampling.prompt) + sampling.length):
        logits = following(context)
        if i < len(sampling.prompt):
            token = vocab.index(sampling.prompt[i])
        else:
            token = int(choose(logits, np.array([uniforms[i]]), sampling)[0])
        probs.append(float(kernels.softmax_forward(logits)[token, 0]))
        if token == end:
            break
        said.append(vocab[token])
        if running and i == 0 and sampling.prompt:
            context = []  # a prompt stands alone
        if len(context) == block_size:
            context = context[block_size - block_size // 2 :]
        context.append(token)
    return "".join(said), probs


@pytest.mark.parametrize("temperature", [0, 2.0])
@pytest.mark.parametrize("prompt", ["", "a", "ab", "hgfedcbaabcdefgh"])
def test_past_the_context(short, prompt, temperature):
    """Texts go on past several contexts, after any prompt, as by a list of tokens in plain Python, without a cache."""
    sampling = Sampling(6, prompt=prompt, length=35, temperature=temperature)
    rng = random.Random(sampling.seed)
    numbers = [[rng.random() for _ in range(len(prompt) + 35)] for _ in range(6)]
    expected = [gone_on(short, uniforms, sampling) for uniforms in numbers]
    assert expected == drawn(short, 6, probs=True, **sampling.as_dict())
    if short.config.split == "none":
        assert all(len(text) == len(prompt) + 35 for text, _ in expected)


@pytest.mark.parametrize("prompt", ["", "abcdefgha"])
def test_past_the_context_side_by_side(short, prompt):
    """They are the same however many are drawn side by side, by any number of threads, and the first of more too."""
    settings = {"num_samples": 9, "prompt": prompt, "length": 20, "temperature": 1.5}
    expected = drawn(short, 1, probs=True, **settings)
    for threads, columns in (1, 2), (1, 100), (3, 4), (2, 9), (2, None):
        assert drawn(short, columns, probs=True, threads=threads, **settings) == expected
    assert drawn(short, 3, probs=True, **settings | {"num_samples": 4}) == expected[:4]


def test_probabilities_and_scores(short):
    """As far as the context goes probabilities are those that score finds; in running text the first character follows
    a newline, and a prompt that begins with one stands in the context as that does."""
    running, n = short.config.split == "none", short.config.block_size
    for text, probs in drawn(short, 5, probs=True, num_samples=5, length=20, temperature=1.0):
        losses = short.score(text[:n]).losses[:n]
        np.testing.assert_allclose(-np.log(probs[: len(losses)]), losses, rtol=1e-4)
        assert len(losses) == n or not running
    if running:
        for text, probs in drawn(short, 5, probs=True, num_samples=5, prompt="\n", length=20):
            np.testing.assert_allclose(-np.log(probs[1 : n + 1]), short.score(text[1 : n + 1]).losses, rtol=1e-4)


def test_how_far_it_goes(short):
    """Without a length running text goes on for 500 characters, and a document, with its prompt, to the end of the
    context; a document that ends has not more."""
    n, running = short.config.block_size, short.config.split == "none"
    assert {len(text) for text in short.sample(3, prompt="ab" if running else "a" * (n - 1))} <= (
        {502} if running else {n - 1, n}
    )
    longest = max(len(text) for text in short.sample(200, length=40, temperature=1.5))
    assert longest == 40 if running or n == 1 else n < longest <= 40


def test_the_samples_of_a_run(short):
    """What a run draws at its end, one by one with the reference's generator, goes on past the context as well."""
    config, following = short.config, uncached(short)
    found = Sampler(short.params).sample(random.Random(1), 1.0)
    rng, context, text = random.Random(1), [Sampler(short.params).tokens.start], ""
    for _ in range(500 if config.split == "none" else config.block_size):
        token = sample.draw(rng, following(context), 1.0)
        if token == len(short.vocab):
            break
        text += short.vocab[token]
        if len(context) == config.block_size:
            context = context[config.block_size - config.block_size // 2 :]
        context.append(token)
    assert found == text


# ---- the command ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with a default run in it, in float32."""
    folder = tmp_path_factory.mktemp("run")
    flags = ["--input", INPUT, "--dtype", "float32", "--num-samples", 0]
    assert microgpt("train", "--out", "run", *flags, cwd=folder).returncode == 0
    return folder


def command(folder, *arguments):
    process = microgpt("sample", "run", *arguments, cwd=folder)
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


def test_output(folder):
    """The samples are numbered lines, with --probs each character and its probability, with --json objects."""
    plain = re.findall(r"sample +(\d+): (\w*)\n", command(folder, "--num-samples", 12))
    assert [int(i) for i, _ in plain] == list(range(1, 13))
    shown = command(folder, "--num-samples", 12, "--probs").splitlines()
    for (i, text), line in zip(plain, shown):
        rest = line.removeprefix(f"sample {int(i):2d}: {text}  ")
        assert "".join(re.findall(r"(\w) 0\.\d{4}", rest)) == text
        assert rest.endswith("<end> " + rest[-6:]) or len(text) == 16
    objects = [json.loads(line) for line in command(folder, "--num-samples", 12, "--json", "--probs").splitlines()]
    assert [(str(o["sample"]), o["text"]) for o in objects] == plain
    assert all(0 < p <= 1 for o in objects for p in o["probs"])
    assert command(folder, "--num-samples", 0) == ""


def test_numbers_go_on(folder):
    """The lines are numbered without a gap where one batch ends and the next begins."""
    lines = command(folder, "--num-samples", 5000).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"sample {i:2d}" for i in range(1, 5001)]


def test_checkpoint(folder):
    """RUN may be the checkpoint itself."""
    other = microgpt("sample", "run/checkpoint.npz", "--num-samples", 3, cwd=folder).stdout
    assert other == command(folder, "--num-samples", 3)


@pytest.mark.slow
@pytest.mark.skipif(not SLOW, reason="a measurement, which other processes disturb: MICROGPT_SLOW=1")
def test_speed(folder):
    """`sample --num-samples 100000` draws at least 1,000,000 characters and ends a second, on one core."""
    trained = api.load(str(folder / "run"))
    best = math.inf
    for _ in range(5):
        begun = time.process_time()
        texts = trained.sample(100_000)
        best = min(best, time.process_time() - begun)
    n = sum(len(text) + (len(text) < 16) for text in texts)
    print(f"{n} tokens in {best:.3f} s: {n / best:.0f} a second on {os.cpu_count()} cores")
    assert n / best >= 1_000_000
