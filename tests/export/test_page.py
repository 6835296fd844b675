"""The page that export writes, in a browser."""

import json
import re

import pytest
from helpers import microgpt, write_names
from pages import HOSTILE

from microgpt.export.page import PARTS, page

NAMES = ["anna", "hanah", "bo", "nab", "abba", "dana", "hab"]


def test_what_is_typed(exported, trained):
    """After every typed character, probabilities, losses and attention equal the model's to 1e-9; nothing is written to
    the console or requested."""
    model = trained(NAMES, n_layer=2)
    shown = exported(model)
    shown.all()
    for text in ["", "a", "an", "ann", "anna", "hanahab", "bo"]:
        shown.typed.fill(text)
        assert shown.probabilities() == pytest.approx(model.next(text), rel=0, abs=1e-9)
        assert shown.losses() == pytest.approx(model.score(text).losses, rel=0, abs=1e-9)
        wanted = [head[len(text), : len(text) + 1].tolist() for layer in model.attention(text) for head in layer]
        assert shown.attention() == [pytest.approx(row, rel=0, abs=1e-9) for row in wanted]
    assert shown.page.title() == "microgpt: run"


def test_steps(exported, trained):
    """Buttons and arrow keys step through the text token by token; each step shows its predictions and attention, and
    choosing a prediction replaces the rest of the text."""
    model = trained(NAMES)
    shown = exported(model)
    shown.all()
    shown.typed.fill("hana")
    attention = model.attention("hana")[0]

    def at(step):
        assert shown.probabilities() == pytest.approx(model.next("hana"[:step]), rel=0, abs=1e-9)
        wanted = [head[step, : step + 1].tolist() for head in attention]
        assert shown.attention() == [pytest.approx(row, rel=0, abs=1e-9) for row in wanted]
        assert shown.page.locator(".step[aria-current=step]").inner_text().startswith(("<start>", *"hana")[step])

    back, forward = (shown.page.get_by_role("button", name=name) for name in ("Back", "Forward"))
    back.click()
    at(3)
    back.press("ArrowLeft")
    at(2)
    forward.press("ArrowRight")
    at(3)
    shown.page.locator(".step").nth(1).click()
    at(1)
    shown.page.keyboard.press("Home")
    at(0)
    assert back.get_attribute("aria-disabled") == "true" and forward.get_attribute("aria-disabled") == "false"
    back.press("Enter")  # the first step has no predecessor
    at(0)
    shown.page.keyboard.press("End")
    at(4)
    shown.page.locator(".step").nth(2).click()
    shown.page.locator(".bar[data-char=b]").click()
    assert shown.typed.input_value() == "hab" and shown.losses()[:3] == pytest.approx(model.score("hab").losses[:3])


def test_samples(exported, trained, tmp_path):
    """Samples equal those of `microgpt sample` with the same settings; pressing a sample inspects it."""
    model = trained(NAMES)
    model.save(tmp_path / "model.npz")
    shown = exported(model)
    for settings in {}, {"temperature": 1.5, "seed": 7}, {"top_k": 3, "prompt": "an"}, {"top_p": 0.5, "temperature": 1}:
        shown.page.reload()
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        lines = microgpt("sample", tmp_path / "model.npz", *flags, "--json").stdout.splitlines()
        wanted = [json.loads(line)["text"] for line in lines]
        found = shown.draw(**settings)
        assert len(wanted) == 20 and sum(a == b for a, b in zip(found, wanted, strict=True)) == 20
    shown.page.locator(".samples button").nth(4).click()
    assert shown.typed.input_value() == wanted[4]
    assert shown.losses() == pytest.approx(model.score(wanted[4]).losses)


def test_stopping(exported, trained):
    """While many samples are drawn, the page still reacts to typing and to Stop."""
    model = trained(NAMES, steps=1, n_layer=4, n_embd=64, block_size=16)
    shown = exported(model)
    shown.page.get_by_label("How many", exact=True).fill("1000")
    shown.page.get_by_role("button", name="Draw samples").click()
    shown.typed.fill("ha")
    shown.page.get_by_role("button", name="Stop").click()
    shown.page.get_by_text("then stopped").wait_for()
    drawn = shown.page.locator(".samples button").all_inner_texts()
    assert 0 < len(drawn) < 1000 and drawn[:-1] == model.sample(len(drawn) - 1)
    assert shown.page.locator(".step").count() == 4


def test_running_text(exported, trained):
    """Running text continues past the context, with a message about the dropped half, and samples are equal."""
    model = trained(["\n".join(NAMES * 5)], split="none")
    shown = exported(model)
    shown.all()
    for text in ["", "a", "anna\nhan", "anna\nhanah\nbo\nnab"]:
        shown.typed.fill(text)
        assert shown.probabilities() == pytest.approx(model.next(text), rel=0, abs=1e-9)
        assert shown.losses() == pytest.approx(model.score(text).losses if text else [], rel=0, abs=1e-9)
        assert shown.page.get_by_text("dropped its older half").count() == (len(text) > 8)
    assert shown.draw(num_samples=4, prompt="ab\n") == model.sample(4, prompt="ab\n", length=500)


def test_what_cannot_be_typed(exported, trained):
    """The page names an unknown character, reports a full context, and uses the text before them."""
    model = trained(NAMES)
    shown = exported(model)
    shown.all()
    message = shown.page.locator("#live-message")
    for text, said, looked_at in [
        ("anXa", "does not know “X” (character 3)", "an"), ("\u200fa", "does not know “\\u{200f}” (character 1)", ""),
        ("an😀", "does not know “😀”", "an"), ("hanahanb", "nothing can follow", "hanahan"),
        ("hanahanbhab", "Only the first 8 characters", "hanahan"),
    ]:  # fmt: skip
        shown.typed.fill(text)
        assert said in message.inner_text()
        assert shown.typed.get_attribute("aria-invalid") == str("nothing" not in said).lower()
        assert shown.probabilities() == pytest.approx(model.next(looked_at), rel=0, abs=1e-9)
    shown.page.get_by_label("Beginning", exact=True).fill("zz")
    draw = shown.page.get_by_role("button", name="Draw samples")
    draw.click()
    assert shown.page.get_by_text("does not know “z” (character 1)").count() == 1
    shown.page.get_by_label("Beginning", exact=True).fill("a" * 8)
    draw.click()
    assert shown.page.get_by_text("Beginning: expected at most 7 characters, found 8").count() == 1
    shown.page.get_by_label("Beginning", exact=True).fill("a")
    shown.page.get_by_label("How many", exact=True).fill("0")
    draw.click()  # the browser rejects the value
    assert shown.page.locator(".samples li").count() == 0


def test_weights_too_large(exported, trained):
    """The page of a model whose weights are too large says so."""
    model = trained(NAMES)
    model.params["lm_head"][:] = 1e308
    shown = exported(model)
    assert "weights are too large" in shown.page.locator("#live-message").inner_text()


@pytest.mark.parametrize("split", ["line", "none"])
def test_hostile_text(exported, trained, split):
    """HTML, ends of scripts, quotes and direction marks in a vocabulary or a name stay text."""
    model = trained([text.strip() for text in HOSTILE], split=split, block_size=16)
    name = "</title><script>alert(1)</script>\u202e\u2028\n<img src=x onerror=alert(1)>"
    shown = exported(model, name)
    assert shown.page.locator("img, main script, b").count() == 0
    assert shown.page.locator("h1").inner_text().startswith("microgpt: </title><script>alert(1)</script>\\u202e")
    shown.all()
    for text in HOSTILE:
        text = text.strip()[:12]
        shown.typed.fill(text)
        assert shown.probabilities() == pytest.approx(model.next(text), rel=0, abs=1e-9)
    given = {"num_samples": 10, "temperature": 1.5, "prompt": HOSTILE[1][:9]}
    assert shown.draw(**given) == model.sample(**given)


def test_data_is_text():
    """Text in the data of a page cannot end its element, and is read back unchanged."""
    made = page(HOSTILE[0], {"texts": HOSTILE}, [], [PARTS / "dom.js"])
    (data,) = re.findall(r'<script type="application/json" id="data">(.*)</script>\n', made)
    assert json.loads(data) == {"texts": HOSTILE} and made.count("</script") == 2


def test_keys(exported, trained):
    """Everything works without a mouse: Tab stops once per group, and arrow keys move inside it."""
    model = trained(NAMES)
    shown = exported(model)
    shown.typed.fill("an")
    stops = []
    for _ in range(20):
        shown.page.keyboard.press("Tab")
        stops.append(shown.page.evaluate("document.activeElement.className || document.activeElement.textContent"))
        if stops[-1] == "Draw samples":
            break
    assert [stop.split(" ")[0] for stop in stops[:4]] == ["◀", "Forward", "step", "bar"] and stops[-1] == "Draw samples"
    shown.page.locator(".bar").first.focus()
    shown.page.keyboard.press("ArrowDown")
    second = shown.page.locator(".bar").nth(1)
    assert second.evaluate("bar => bar === document.activeElement")
    char = second.get_attribute("data-char")
    shown.page.keyboard.press("Enter")
    assert shown.typed.input_value() == f"an{char}"
    assert second.evaluate("bar => bar === document.activeElement")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_accessible(exported, trained, scheme, width):
    """axe finds no violation, light or dark, narrow or wide, and nothing is wider than the window."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe: pip install .[browser]")
    for split in ("line", "none"):
        model = trained(["\n".join(NAMES)] if split == "none" else NAMES, split=split, n_layer=2, block_size=16)
        shown = exported(model, color_scheme=scheme, viewport={"width": width, "height": 800})
        shown.typed.fill("hanahabba")
        shown.page.get_by_role("button", name="Back").click()
        shown.draw(num_samples=5)
        shown.page.get_by_label("Beginning", exact=True).fill("Z")
        shown.page.get_by_role("button", name="Draw samples").click()
        found = axe.Axe().run(shown.page)
        assert found.violations_count == 0, found.generate_report()
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width


def test_equal_runs(tmp_path):
    """Equal runs in different directories give equal bytes."""
    pages = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_names(folder / "names.txt")
        flags = ["--num-steps", 5, "--num-samples", 0, "--n-embd", 8]
        assert microgpt("train", "--input", "names.txt", "--out", "run", *flags, cwd=folder).returncode == 0
        done = microgpt("export", "run/", "-o", "page.html", cwd=folder)
        assert (done.returncode, done.stdout, done.stderr) == (0, "wrote page.html\n", "")
        pages.append((folder / "page.html").read_bytes())
    assert (
        pages[0] == pages[1] and str(tmp_path).encode() not in pages[0] and b"<title>microgpt: run</title>" in pages[0]
    )


@pytest.mark.parametrize("arguments, code, named", [
    (["model.npz", "-o", "page.pdf"], 2, ["--output", ".html", "page.pdf"]), (["model.npz"], 2, ["--output"]),
    (["missing", "-o", "page.html"], 1, ["missing"]), (["model.npz", "-o", "no/page.html"], 1, ["no/page.html"]),
    (["names.txt", "-o", "page.html"], 1, ["names.txt"]),
])  # fmt: skip
def test_mistakes(trained, tmp_path, arguments, code, named):
    """Unreadable models and unwritable outputs are refused in one line, and nothing is written."""
    trained(NAMES).save(tmp_path / "model.npz")
    write_names(tmp_path / "names.txt")
    before = sorted(tmp_path.iterdir())
    refused = microgpt("export", *arguments, cwd=tmp_path)
    assert refused.returncode == code and refused.stderr.count("\n") == 1 and refused.stdout == ""
    assert all(name in refused.stderr for name in named) and sorted(tmp_path.iterdir()) == before
