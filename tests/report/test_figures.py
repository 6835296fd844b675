"""The figures of a report: the identities behind each view, and invalid arguments."""

import json
import math
import random
import shutil
import warnings
from collections import Counter
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import TINY, microgpt, write_names

import microgpt as package
from microgpt.base.config import Config
from microgpt.base.errors import ConfigError, DataError, SamplingError
from microgpt.core.sample import place
from microgpt.export.page import model_data
from microgpt.report import figures, lens, neurons, novelty, plot, report

RUNNING = "To be, or not to be:\nthat is the question.\n" * 30
SETTINGS = {
    "line": {"n_layer": 2, "val_fraction": 0.2, "block_size": 8},
    "running": {"n_layer": 2, "val_fraction": 0.2, "split": "none", "block_size": 7},
    "float32": {"dtype": "float32", "n_embd": 8},
}


def train(folder, name, **settings):
    """A trained tiny run in folder/name; its input is folder/name.txt."""
    path = folder / f"{name}.txt"
    if settings.get("split") == "none":
        path.write_text(RUNNING, encoding="utf-8")
    else:
        write_names(path, 300)
    return package.train(path, out=folder / name, **{**TINY, "num_steps": 60, "eval_every": 20, **settings})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in SETTINGS.items():
        train(folder, name, **settings)
    return folder


@pytest.fixture(params=SETTINGS)
def model(request, folder):
    return package.load(folder / request.param)


def a_text(model):
    return "to be" if model.config.split == "none" else model.documents().training[0][: model.config.block_size]


def test_excerpts_are_different():
    """A text that occurs twice among the documents or the samples is shown once."""
    documents = SimpleNamespace(held_out=[], training=["anna", "bo", "anna", "ab"], running=False)
    model = SimpleNamespace(config=Config(block_size=8), sample=lambda **_: documents.training)
    assert figures.excerpts(model, documents) == figures.excerpts(model, None) == ["anna", "bo", "ab"]


def test_parts_sum_to_the_logit(model):
    """The contributions of embedding, heads and MLPs sum to the largest logit minus the mean logit: to 1e-9, or
    float32's rounding."""
    found = model.inspect(a_text(model))
    named = lens.parts(model, found)
    config = model.config
    assert len(named) == 1 + config.n_layer * (config.n_head + 1) == len(dict(named))
    bound = 1e-9 if config.dtype == "float64" else 1e-5
    logits = found["logits"].max(axis=0) - found["logits"].mean(axis=0)
    assert np.abs(sum(values for _, values in named) - logits).max() < bound
    assert lens.reading(model, a_text(model))["parts"]["logits"] == pytest.approx(logits.tolist(), abs=1e-5)


def test_the_report_depends_only_on_the_predictions(model):
    """Subtracting one vector from every row of lm_head changes no probability, and nothing that is said about a text;
    moving one vector from the characters' to the positions' vectors does not change which positions are alike."""
    text = a_text(model)
    before, alike = lens.reading(model, text), figures.embedding(model)
    shift = np.random.default_rng(1).standard_normal(model.config.n_embd)
    model.params["lm_head"][:] -= shift
    model.params["wte"][:] -= shift[:, None]
    model.params["wpe"][:] += shift[:, None]
    after = lens.reading(model, text)
    bound = 1e-9 if model.config.dtype == "float64" else 1e-4
    for name in ("values", "logits"):
        assert np.allclose(before["parts"][name], after["parts"][name], rtol=0, atol=bound)
    assert np.allclose(before["bits"], after["bits"], rtol=0, atol=bound)
    for i, row in enumerate(figures.embedding(model)["positions"]):
        assert np.allclose(row, alike["positions"][i], rtol=0, atol=bound)


def test_a_part_is_what_is_lost_without_it(model):
    """A head's contribution is the decrease of the largest logit, relative to the mean logit, when its columns of the
    last layer's attn_wo are zero and the MLP's output is kept."""
    found, config = model.inspect(a_text(model)), model.config
    size, last = config.n_embd // config.n_head, f"layer{config.n_layer - 1}."
    winners = found["logits"].argmax(axis=0)
    for head in range(config.n_head):
        wo = model.params[last + "attn_wo"].copy()
        wo[:, head * size : (head + 1) * size] = 0
        x = found[last + "x_mlp"] - found[last + "attn_out"] + wo @ found[last + "attn"]
        logits = model.params["lm_head"] @ x
        without = logits[winners, np.arange(len(winners))] - logits.mean(axis=0)
        part = dict(lens.parts(model, found))[f"head {config.n_layer - 1}.{head}"]
        lost = found["logits"].max(axis=0) - found["logits"].mean(axis=0) - without
        assert np.allclose(lost, part, atol=1e-5, rtol=0)


def test_the_lens_ends_with_the_prediction(model):
    """The last stage of the logit lens is the model's prediction, and the first that of the embedding alone."""
    found = model.inspect(a_text(model))
    lines = lens.logit_lens(model, found)
    assert len(lines) == 1 + 2 * model.config.n_layer
    bound = 1e-12 if model.config.dtype == "float64" else 1e-6
    assert np.abs(lines[-1][1] - found["probs"]).max() < bound
    logits = model.params["lm_head"] @ found["x"]
    probs = np.exp(logits) / np.exp(logits).sum(axis=0)
    assert np.allclose(lines[0][1], probs, atol=1e-6)


def test_reading(model):
    """Bits equal those of score(), alternatives those of next(), and attention that of attention()."""
    text = a_text(model)
    found = lens.reading(model, text)
    n = len(found["bits"])
    assert found["bits"] == model.score(text).bits[:n] and n >= len(text)
    assert found["loss"] == pytest.approx(sum(found["bits"]) / n * math.log(2))
    assert len(found["inputs"]) == len(found["targets"]) == len(found["bits"]) == len(found["likeliest"])
    if model.params.tokens.end is not None:
        for i in range(min(len(text), model.config.block_size - 1)):
            best = sorted(model.next(text[:i]).items(), key=lambda pair: -pair[1])[:5]
            assert [p for _, p in found["likeliest"][i]] == pytest.approx([p for _, p in best], abs=1e-6)
            assert {char for char, _ in found["likeliest"][i]} == {char for char, _ in best}
            assert found["targets"][i] == text[i] and found["inputs"][i + 1] == text[i]
    for layer, heads in zip(found["attention"], model.attention(text)):
        for rows, head in zip(layer, heads):
            assert all(row == head[i, : i + 1].tolist() for i, row in enumerate(rows))
            assert all(sum(row) == pytest.approx(1, abs=1e-6) for row in rows)


def test_losses_by_position_and_character(model):
    """The losses by position and by character, weighted by their counts, average to those of evaluate(): of every
    character and every end, however long the text.  Each equals the mean from score() of the single texts; beyond the
    context, a position is the place in what sampling would have kept of the text."""
    documents = model.documents()
    texts = documents.held_out or documents.training
    found = figures.losses_by(model, figures.measured(documents, 10**9))
    bits = model.evaluate(texts).bits_per_character
    assert found["bits"] == pytest.approx(bits, abs=1e-9)
    for means in (found["positions"], [(mean, n) for _, mean, n in found["characters"]]):
        assert sum(n for _, n in means) == found["n_tokens"]
        assert sum(mean * n for mean, n in means) / found["n_tokens"] == pytest.approx(bits, abs=1e-9)
    of_each = [
        (char, place(i, model.config.block_size)[0], bit)
        for text in texts
        for i, (char, bit) in enumerate(zip([*text, None], model.score(text).bits))
    ]
    places = [(i, mean, n) for i, (mean, n) in enumerate(found["positions"])]
    for key, means in ((0, found["characters"]), (1, places)):
        for name, mean, n in means:
            own = [each[2] for each in of_each if each[key] == name]
            assert n == len(own) and mean == pytest.approx(sum(own) / n, abs=1e-6)


def test_cost_of_the_position_alone(model):
    """The loss by position alone is the entropy of the characters, ends included, at that position."""
    documents = model.documents()
    texts = documents.held_out or documents.training
    running = model.params.tokens.end is None
    found = figures.losses_by(model, figures.measured(documents, 10**9))
    counts = [Counter() for _ in found["positions"]]
    for text in texts:
        for i, char in enumerate(text if running else [*text, None]):
            counts[place(i, model.config.block_size)[0]][char] += 1
    for alone, (_, n), counted in zip(found["by_position_alone"], found["positions"], counts, strict=True):
        assert n == counted.total()
        assert alone == pytest.approx(sum(k / n * math.log2(n / k) for k in counted.values()), abs=1e-12)


def test_measured_is_capped(model):
    """As many whole texts are measured, from the first on, as fit into the limit of tokens; texts to inspect are cut
    to the context, and as many as fit when cut."""
    documents, size = model.documents(), model.config.block_size
    texts = documents.held_out or documents.training
    few = figures.measured(documents, 100)
    n = figures.losses_by(model, few)["n_tokens"]
    longest = max(len(text) + 1 for text in texts)
    assert (n == 100 and texts[0].startswith(few[0])) if documents.running else few == texts[: len(few)]
    assert 100 - longest < n <= 100
    short = figures.inspected(model, documents, 100)
    n = sum(model.inspect(text)["probs"].shape[1] for text in short)
    assert 100 - size < n <= 100
    assert [text[:size] for text in texts[: len(short)]] == short or documents.running
    if not documents.running:
        assert figures.measured(documents, len(texts[0]) + len(texts[1]) + 2) == texts[:2]
    assert figures.measured(documents, 1) == [texts[0][:1] if documents.running else texts[0]]


def test_principal_components():
    """With all components, the points keep the distances of the rows and are uncorrelated, with decreasing variance;
    the largest coordinate is positive; few rows or columns are no error."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((7, 4)) * [5, 3, 1, 0.1]
    points, shares = figures.principal(rows)
    centred = rows - rows.mean(axis=0)
    assert np.allclose(points @ points.T, centred @ centred.T)
    variances = np.linalg.eigvalsh(np.cov(centred.T))[::-1]
    assert np.allclose(np.cov(points.T), np.diag(variances))
    assert np.allclose(shares, variances / variances.sum()) and shares.sum() == pytest.approx(1)
    assert (points[np.abs(points).argmax(axis=0), np.arange(4)] > 0).all()
    assert np.allclose(figures.principal(-rows)[1], shares)
    for shape in ((1, 1), (1, 4), (5, 1)):
        points, shares = figures.principal(np.ones(shape))
        assert points.shape[1] >= 2 and not points.any() and not shares.any()


def test_embedding(model):
    """The map has every token, and the cosines are those of wpe relative to its mean, with 1 on the diagonal."""
    found = figures.embedding(model)
    assert [char for char, *_ in found["characters"]] == lens.outputs(model)
    wpe = model.params["wpe"].astype(float)
    wpe -= wpe.mean(axis=1, keepdims=True)
    for i, row in enumerate(found["positions"]):
        for j, cosine in enumerate(row):
            a, b = wpe[:, i], wpe[:, j]
            assert cosine == pytest.approx(a @ b / math.sqrt((a @ a) * (b @ b)), abs=1e-9)
        assert row[i] == pytest.approx(1)


def test_neurons(model):
    """Dead neurons are active in no text; the shares and values of the others equal those of inspect() at the marked
    character."""
    documents = model.documents()
    texts = (documents.held_out or documents.training)[:40]
    if model.config.split == "none":
        texts = figures.pieces(texts[0], model.config.block_size)
    texts = [text[: model.config.block_size] for text in texts]
    found = neurons.neurons(model, texts)
    inspected = [model.inspect(text) for text in texts]
    for l, layer in enumerate(found["layers"]):
        relu = np.concatenate([each[f"layer{l}.mlp_relu"] for each in inspected], axis=1)
        assert found["n_tokens"] == relu.shape[1] and layer["count"] == relu.shape[0]
        assert layer["dead"] == (relu.max(axis=1) == 0).sum()
        totals = [relu[neuron["index"]].sum() for neuron in layer["most_active"]]
        assert totals == pytest.approx(sorted(relu.sum(axis=1), reverse=True)[: len(totals)], rel=1e-5)
        for neuron in layer["most_active"]:
            own, shown = relu[neuron["index"]], neuron["examples"]
            assert neuron["active"] == pytest.approx((own > 0).mean())
            assert shown[0]["value"] == own.max()
            assert [example["value"] for example in shown] == sorted((e["value"] for e in shown), reverse=True)
            places = {
                (text[: max(0, t - 1)], char, text[t:], float(each[f"layer{l}.mlp_relu"][neuron["index"], t]))
                for text, each in zip(texts, inspected)
                for t, char in enumerate(lens.inputs(model, text)[: each["probs"].shape[1]])
            }
            for e in shown:
                assert (e["before"], e["char"], e["after"], e["value"]) in places and not any(e["cut"])


def test_a_dead_neuron_is_counted(folder):
    """Setting a neuron's weights to zero adds one dead neuron, which is not shown."""
    model = package.load(folder / "line")
    texts = model.documents().held_out[:20]
    before = neurons.neurons(model, texts)["layers"][0]
    index = before["most_active"][0]["index"]
    model.params["layer0.mlp_fc1"][index] = 0
    after = neurons.neurons(model, texts)["layers"][0]
    assert after["dead"] == before["dead"] + 1
    assert index not in [neuron["index"] for neuron in after["most_active"]]


def edit_distance(a, b):
    """The edit distance by the textbook table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [*accumulate(
            range(1, len(b) + 1),
            lambda left, j, i=i, x=x, old=row: min(left + 1, old[j] + 1, old[j - 1] + (x != b[j - 1])), initial=i,
        )]  # fmt: skip
    return row[-1]


def test_nearest():
    """The nearest text and its distance agree with a plain edit distance to every text, for all lengths."""
    assert edit_distance("kitten", "sitting") == 3 and edit_distance("", "ab") == 2
    rng = random.Random(2)

    def word(most):
        return "".join(rng.choices("abc", k=rng.randint(1, most)))

    for _ in range(20):
        texts = [word(9) for _ in range(rng.randint(1, 30))]
        nearest = novelty.Nearest(texts)
        for text in ("", word(4), word(20), texts[0], "é"):
            found, distance = nearest.to(text)
            assert found in texts
            assert distance == edit_distance(text, found) == min(edit_distance(text, each) for each in texts)


def test_longest_run():
    """The copied passage is in the training text, and no longer part of the sample is."""
    rng = random.Random(3)
    for _ in range(200):
        training, text = ("".join(rng.choices("ab", k=n)) for n in (rng.randint(0, 60), rng.randint(0, 20)))
        start, length = novelty.longest_run(text, training)
        assert text[start : start + length] in training
        assert not any(text[i : i + length + 1] in training for i in range(len(text) - length))


def test_samples(model):
    """Samples are those of sample(); new ones are not in the set of training texts, and the share counts them."""
    documents = model.documents()
    found = figures.samples(model, documents)
    texts = [entry["text"] for entry in found["texts"]]
    if model.config.split == "none":
        assert texts == model.sample(5, length=200) and found["new"] is None
        assert all(0 < entry["run"][1] <= 200 for entry in found["texts"])
    else:
        assert texts == model.sample(20)
        known = set(documents.training)
        assert [entry["new"] for entry in found["texts"]] == [text not in known for text in texts]
        assert found["new"] == sum(text not in known for text in texts) / 20
        assert all(entry["new"] == (entry["distance"] > 0) for entry in found["texts"])


def test_curves(folder):
    """The curve has the smoothed losses of the metrics; thinning keeps the first and the last point."""
    series = plot.read_metrics(str(folder / "line"))
    found = figures.curves(series)
    assert found["train"] == list(zip(series["train"][0], plot.smooth(series["train"][1])))
    assert found["held_out"] == list(zip(*series["held-out"]))
    steps = list(range(1, 5000))
    points = figures.thinned(steps, [1 / step for step in steps])
    assert len(points) == figures.MAX_POINTS and points[0] == (1, 1) and points[-1] == (4999, 1 / 4999)
    assert figures.thinned([1, 2, 3], [1.0, math.nan, math.inf]) == [(1, 1.0)]


@pytest.mark.parametrize("name", SETTINGS)
def test_json_is_the_page(folder, name):
    """--json prints the data of the page, with or without -o, and never the path of the run."""
    process = microgpt("report", name, "--json", "-o", "json.html", cwd=folder)
    lines = {"float32": "--block-size 4 cuts off"}.get(name, f"{name}: using best.npz")
    assert process.returncode == 0 and process.stderr.count("\n") == 1 and lines in process.stderr
    html = (folder / "json.html").read_text(encoding="utf-8")
    data = html.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    page = json.loads(data)
    assert page.pop("model") == model_data(package.load(folder / name))
    assert json.loads(process.stdout) == page
    assert microgpt("report", name, "--json", cwd=folder).stdout == process.stdout
    assert str(folder) not in html and "http:" not in html.replace("http://www.w3.org/2000/svg", "")


def test_equal_runs_give_equal_bytes(folder, tmp_path):
    """Equal settings and texts give equal bytes, in another directory and on a second call."""
    train(tmp_path, "line", **SETTINGS["line"])
    for where in (folder, tmp_path):
        for name in ("a.html", "b.html"):
            assert microgpt("report", "line", "-o", name, cwd=where).stdout == f"wrote {name}\n"
    pages = [(where / name).read_bytes() for where in (folder, tmp_path) for name in ("a.html", "b.html")]
    assert len(set(pages)) == 1


@pytest.mark.parametrize("arguments, says", [
    (["line", "-o", "p.html", "--texts", "abc,xyz"], "--texts: expected characters of the vocabulary"),
    (["line", "-o", "p.html", "--texts", "abcdefgha"], "--texts: expected at most 8 characters (context length 8)"),
    (["running", "-o", "p.html", "--texts", ""], "--texts: expected at least one character, found none"),
    (["line", "-o", "p.png"], "--output: expected a name that ends in .html, found 'p.png'"),
    (["line"], "--output: expected a name that ends in .html, found none"),
    (["line", "--json", "-o", "p"], "--output: expected a name that ends in .html, found 'p'"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")  # fmt: skip
def test_wrong_usage(folder, arguments, says):
    """A wrong argument gives one line that names the flag, exit code 2, and no file."""
    process = microgpt("report", *arguments, "--last", cwd=folder)
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.startswith(f"microgpt: {says}") and process.stderr.count("\n") == 1
    assert not list(folder.glob("p*"))


@pytest.mark.parametrize("arguments, says", [
    (["none", "-o", "p.html"], "none"),
    (["line.txt", "-o", "p.html"], "line.txt"),
    (["line", "-o", "no/p.html"], "--output: expected a writable file, found 'no/p.html': No such file"),
])  # fmt: skip
def test_failures(folder, arguments, says):
    """An unreadable run and an unwritable page give one line, exit code 1, and no file."""
    process = microgpt("report", *arguments, "--last", cwd=folder)
    assert process.returncode == 1 and process.stdout == ""
    assert says in process.stderr and process.stderr.count("\n") == 1
    assert not list(folder.glob("p*"))


def test_an_old_page_stays(folder):
    """An existing page stays unchanged if writing the next one fails."""
    page = folder / "old.html"
    page.write_text("old", encoding="utf-8")
    assert microgpt("report", "line", "-o", page, "--texts", "!", cwd=folder).returncode == 2
    assert page.read_text(encoding="utf-8") == "old"
    page.unlink()


def test_weights_too_large(folder):
    """Numbers that are not finite raise SamplingError and never reach a page."""
    with pytest.raises(SamplingError, match="expected finite numbers, found nan"):
        report.rounded({"a": [1.0, math.nan]})
    found = report.rounded({"a": (1.23456789, -1.23456789e-9, -0.0, 2, None, True, "x")})
    assert str(found) == str({"a": [1.23457, -1.23457e-09, 0.0, 2, None, True, "x"]})


def test_settings_are_exact(tmp_path):
    """Settings are shown in full, small ones and seeds that a browser's numbers cannot hold."""
    settings = {"eps": 1.25e-8, "learning_rate": 0.00025, "beta1": 0.123456789, "seed": 2**63 - 1}
    train(tmp_path, "run", **settings)
    data = report.report([str(tmp_path / "run")], str(tmp_path / "p.html"))
    assert data["run"]["settings"].items() >= settings.items()
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert '"eps":1.25e-08' in page and '"learning_rate":0.00025' in page and '"seed":"9223372036854775807"' in page


@pytest.mark.parametrize("name", ["line", "running"])
def test_without_input(folder, tmp_path, name):
    """If the run's texts are missing or changed, the page says so and shows what does not need them."""
    shutil.copytree(folder / name, tmp_path / name)
    settings = (tmp_path / name / "config.toml").read_text(encoding="utf-8")
    other = tmp_path / "other.txt"
    (tmp_path / name / "config.toml").write_text(
        settings.replace(str(folder / f"{name}.txt"), str(other)), encoding="utf-8"
    )
    hidden = folder / f"{name}.txt"
    hidden.rename(folder / "hidden")
    try:
        for text in (None, "abc\nde\n"):
            if text is not None:
                other.write_text(text, encoding="utf-8")
            data = report.report([str(tmp_path / name)], None, required=False)
            assert "is missing or has changed" in data["notices"][0]
            assert data["run"]["texts"] is data["losses"] is data["neurons"] is data["samples"]["new"] is None
            assert data["texts"] and data["runs"][0]["train"] and data["samples"]["texts"]
            asked = report.report([str(tmp_path / name)], None, ["e"], required=False)["texts"]
            assert [found["text"] for found in asked] == ["e"]
    finally:
        (folder / "hidden").rename(hidden)


def test_weights_of_a_run(folder):
    """The report of weights in a run's directory shows its losses, and both names."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = report.report([str(folder / "line" / "best.npz"), str(folder / "running")], None, required=False)
    (whole,) = report.report([str(folder / "line")], None, required=False)["runs"]
    assert data["runs"][0] == whole | {"name": "line/best.npz"} and data["runs"][1]["name"] == "running"
    assert len(data["notices"]) == 2
    assert [str(each.message) for each in said] == data["notices"]


def test_without_losses(folder, tmp_path):
    """For weights alone, and for a run without metrics, the page leaves out the losses and says so."""
    shutil.copytree(folder / "line", tmp_path / "line")
    (tmp_path / "line" / "metrics.jsonl").unlink()
    for name, why in (
        ("line/best.npz", "found weights, which have no losses\n"),
        ("line", "metrics.jsonl: cannot be read"),
    ):
        path = str(tmp_path / name)
        with pytest.warns(package.MicrogptWarning, match="shows no losses") as caught:
            data = report.report([path, str(folder / "running")], None, required=False, last=True)
        (said,) = (f"{each.message}\n" for each in caught)
        assert said.count(path) == 1 + (name == "line") and why in said
        assert "No losses are shown" in data["notices"][0] and data["runs"][0]["train"] == []
        assert data["losses"] and data["runs"][1]["train"]


def test_several_runs(folder):
    """Each of several runs has its losses under a distinct name; the rest is about the first run."""
    paths = [str(folder / name) for name in ("running", "line")]
    data = report.report(paths, None, required=False)
    assert [run["name"] for run in data["runs"]] == ["running", "line"]
    assert [run["mean_over"] for run in data["runs"]] == ["tokens", "tokens"]
    assert data["notices"] == [
        "The training losses are not comparable: the runs differ in training texts, vocabulary and context length.",
        "The held-out losses are not comparable: the runs differ in held-out texts and vocabulary.",
    ]
    assert data["run"]["running"] and set(data["runs"][0]["baselines"]) == {"uniform guess", "bigram table"}


@pytest.mark.parametrize("settings", [
    {"block_size": 1, "n_embd": 1, "n_head": 1}, {"split": "blank-line", "block_size": 80},
    {"split": "none", "block_size": 1}, {"split": "none", "block_size": 500},
], ids=str)  # fmt: skip
def test_odd_shapes(tmp_path, settings):
    """Reports work for the narrowest model, contexts of one token, paragraphs, and a context longer than the text."""
    train(tmp_path, "odd", **{**settings, "num_steps": 2})
    data = report.report([str(tmp_path / "odd")], None, required=False)
    assert data["notices"] == [] and data["texts"] and data["losses"]["n_tokens"] and data["samples"]["texts"]


def test_errors_in_python(folder):
    """In Python, these mistakes raise ConfigError or DataError, which names the argument."""
    with pytest.raises(ConfigError, match=r"^texts: expected characters of the vocabulary"):
        report.report([str(folder / "line")], None, ["?"], required=False)
    with pytest.raises(ConfigError, match=r"^output: expected a name that ends in .html, found none"):
        report.report([str(folder / "line")], None)
    with pytest.raises(DataError, match=r"^output: expected a writable file"):
        report.report([str(folder / "line")], str(folder / "no" / "p.html"))
