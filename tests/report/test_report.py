"""A report in a browser: it shows all sections, writes nothing to the console, requests nothing and is accessible."""

import math
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import TINY, write_names
from pages import opened

import microgpt
from microgpt.report import report

ALWAYS = ["run", "losses", "surprise", "attention", "lens", "parts", "embedding", "samples", "try"]
WITH_TEXTS = [*ALWAYS[:-2], "places", "neurons", "samples", "try"]
HOSTILE = ["</script><b>", "<!--", "&lt;i&gt;", "{{data}}", "a'b\"c", "\u202ex\u200b", "日本", "🙂é\ud7ff"]


def make(folder, name, text=None, **settings):
    path = folder / f"{name}.txt"
    if text is None:
        write_names(path, 100)
    else:
        path.write_text(text, encoding="utf-8")
    settings = {**TINY, "num_steps": 30, "eval_every": 10, "val_fraction": 0.2, "block_size": 8} | settings
    microgpt.train(path, out=folder / name, **settings)
    return str(folder / name)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{kind of run: its page}."""
    folder = tmp_path_factory.mktemp("runs")
    line = make(folder, "line", n_layer=2)
    running = make(folder, "running", "To be, or not to be:\nthat is the question.\n" * 30, split="none", block_size=24)
    missing = shutil.copytree(line, folder / "missing")
    (missing / "config.toml").unlink()
    (missing / "metrics.jsonl").unlink()
    hostile = make(folder, "<img src=x onerror=alert(1)>", "\n".join(HOSTILE * 3), block_size=16)
    paths = {"line": [line], "running": [running], "several": [line, running], "hostile": [hostile]}
    for name, runs in paths.items():
        report.report(runs, str(folder / f"page-{name}.html"))
    (folder / "line.txt").unlink()
    report.report([str(missing)], str(folder / "page-missing.html"))
    return {name: folder / f"page-{name}.html" for name in [*paths, "missing"]}


KINDS = ["line", "running", "several", "hostile", "missing"]


@pytest.mark.parametrize("kind", KINDS)
def test_sections(chromium, pages, kind):
    """All sections are present, in order, with a heading, content and a link in the contents; nothing is written to the
    console and nothing requested."""
    expected = ALWAYS if kind == "missing" else WITH_TEXTS
    with opened(chromium, pages[kind]) as page:
        assert page.eval_on_selector_all("main > section", "all => all.map((one) => one.id)") == expected
        links = page.eval_on_selector_all("nav a", "all => all.map((one) => one.getAttribute('href'))")
        assert links == [f"#{name}" for name in expected]
        for name in expected:
            assert page.locator(f"#{name} h2").inner_text()
            assert page.locator(f"#{name}").locator("svg, table, ol, p, details").count()
        assert page.locator(".notice").count() == {"missing": 3, "several": 2}.get(kind, 0)
        assert "undefined" not in page.inner_text("main") and "NaN" not in page.inner_html("main")


@pytest.mark.parametrize("kind", KINDS)
def test_everything_opens(chromium, pages, kind):
    """The keyboard opens every <details>, which holds a table; attention, lens and parts follow the chosen text."""
    with opened(chromium, pages[kind]) as page:
        for i in range(page.locator("details").count()):
            page.locator("summary").nth(i).focus()
            page.keyboard.press("Enter")
            page.locator("details").nth(i).locator("table").first.wait_for()
        assert "NaN" not in page.inner_text("main") and "undefined" not in page.inner_text("main")
        texts = page.locator("#text option").count()
        seen = set()
        for i in range(texts):
            page.select_option("#text", index=i)
            seen.add(page.inner_text("#lens") + page.inner_text("#parts") + page.inner_html("#attention"))
            assert page.locator("#lens tbody tr").count() == page.locator("#parts tbody tr").count()
        assert len(seen) == texts == page.locator("#surprise ol").count()


def test_numbers_are_the_runs(chromium, pages):
    """The numbers on the page equal the data: bits, attention, parts, losses, samples."""
    with opened(chromium, pages["line"]) as page:
        data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
        first = data["texts"][0]
        shown = page.locator("#surprise ol").first.locator(".char small").all_inner_texts()
        assert shown == [f"{bits:.1f} bits" for bits in first["bits"]]
        cells = page.locator("#attention svg").first.locator("rect title").all_text_contents()
        assert [float(cell.rpartition(" ")[2]) for cell in cells] == pytest.approx(
            [p for row in first["attention"][0][0] for p in row], abs=0.0051
        )
        rows = page.locator("#parts tbody tr")
        for i, values in enumerate(first["parts"]["values"]):
            cells = [float(cell.replace("\u2212", "-")) for cell in rows.nth(i).locator("td.number").all_inner_texts()]
            assert cells == pytest.approx([*values, first["parts"]["logits"][i]], abs=0.0051)
        assert f"{data['losses']['bits']:.3f} bits" in page.inner_text("#places")
        samples = page.locator("#samples tbody th").all_inner_texts()
        assert samples == [sample["text"] or "<end>" for sample in data["samples"]["texts"]]
        curve = page.locator("#losses polyline").first.get_attribute("points").split()
        assert len(curve) == len(data["runs"][0]["train"])


def test_baselines_of_several_runs(chromium, pages):
    """Each baseline names its run when there are several, and no two labels overlap; a held-out loss stands beside its
    bits per character."""
    with opened(chromium, pages["several"]) as page:
        data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
        labels = page.locator("#losses svg[role=img] text.halo")
        pairs = [(run["name"], *each) for run in data["runs"] for each in run["baselines"].items()]
        wanted = sorted(f"{name} of {run} {loss:.2f}" for run, name, loss in pairs)
        assert sorted(labels.all_text_contents()) == wanted and len(wanted) == 4
        boxes = sorted((box["y"], box["y"] + box["height"]) for box in (label.bounding_box() for label in labels.all()))
        assert all(one[1] <= two[0] + 4 for one, two in pairwise(boxes))
        for run in data["runs"]:
            loss = run["held_out"][-1][1]
            shown = f"last held-out loss {loss:.4f} ({loss / math.log(2):.3f} bits per character)"
            assert shown in page.inner_text("#losses figcaption")
        page.locator("#losses summary").click()
        bits = page.locator("#losses tbody tr:last-child td:last-child").all_inner_texts()
        assert bits == [f"{run['held_out'][-1][1] / math.log(2):.3f}" for run in data["runs"]]


def test_settings_on_the_page(chromium, tmp_path):
    """The table of settings shows every number in full."""
    settings = {"eps": 1.25e-8, "learning_rate": 0.00025, "beta1": 0.123456789, "seed": 2**63 - 1}
    report.report([make(tmp_path, "run", **settings)], str(tmp_path / "p.html"))
    with opened(chromium, tmp_path / "p.html") as page:
        page.locator("#run summary").click()
        rows = page.locator("#run tbody tr").all_inner_texts()
        shown = dict(row.split("\t") for row in rows)
        assert {name: type(value)(shown[name]) for name, value in settings.items()} == settings


def test_names_are_their_own():
    """The scripts of this folder, which share one page, do not declare a name twice."""
    folder = Path(report.__file__).parent
    scripts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.js"))]
    names = re.findall(r"^(?:async )?(?:function\*?|class|const|let|var) (\w+)", "\n".join(scripts), re.MULTILINE)
    assert len(names) > 20 and sorted(set(names)) == sorted(names)


def test_hostile_text_is_text(chromium, pages):
    """Markup in texts, vocabulary and names creates no elements, and is shown as text."""
    with opened(chromium, pages["hostile"]) as page:
        assert page.locator("img, b, i, script[src]").count() == 0
        assert "<img src=x onerror=alert(1)>" in page.title()
        assert page.locator("h1").inner_text() == page.title()


def test_what_scrolls_takes_the_focus(chromium, pages):
    """A box takes the keyboard focus only if its content is wider, so that it can be scrolled."""
    from playwright.sync_api import expect

    with opened(chromium, pages["line"], 360) as page:
        box = page.locator("#parts .scroll")
        expect(box).to_have_attribute("tabindex", "0")
        box.focus()
        page.keyboard.press("ArrowRight")
        page.evaluate("""new Promise((done) => {
            const box = document.querySelector("#parts .scroll");
            const look = () => box.scrollLeft > 0 ? done() : requestAnimationFrame(look);
            look();
        })""")
        page.set_viewport_size({"width": 1600, "height": 800})
        expect(page.locator(".scroll[tabindex]")).to_have_count(0)


@pytest.mark.parametrize("width", [360, 768, 1600])
@pytest.mark.parametrize("kind", KINDS)
def test_no_page_is_wider_than_its_window(chromium, pages, kind, width):
    """Wide content scrolls in its own box; the page never scrolls sideways."""
    with opened(chromium, pages[kind], width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_two_squares_stand_beside_each_other(chromium, pages):
    """On a narrow page, the attention of seven characters takes half the width, so that two heads fit side by side."""
    with opened(chromium, pages["line"], 360) as page:
        page.evaluate("""() => {
            const rows = Array.from({ length: 8 }, (_, i) => Array(i + 1).fill(0.5)), inputs = [null, ..."abcdefg"];
            document.getElementById("attention").append(...attentionView({ inputs, attention: [[rows, rows]] }));
        }""")
        boxes = [figure.bounding_box() for figure in page.locator("#attention > .heads figure").all()]
        assert len(boxes) == 2 and boxes[0]["y"] == boxes[1]["y"]


def test_the_command_breaks_between_flags(chromium, pages):
    """The command to copy is never broken inside a flag, however narrow the page."""
    with opened(chromium, pages["line"], 360) as page:
        words = page.locator("#try code span")
        assert page.locator("#try code").inner_text().split() == words.all_inner_texts()
        assert len({word.bounding_box()["height"] for word in words.all()}) == 1


def test_kinds_of_characters(chromium, pages):
    """Vowels with diacritics and ligatures count as vowels; letters of other scripts are not called consonants."""
    with opened(chromium, pages["line"]) as page:
        kinds = page.evaluate("[...'aÉøæœybßя7'].map(kindOf)")
        assert kinds == 5 * ["vowel"] + 3 * ["consonant"] + 2 * ["other"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("kind", ["line", "running", "missing"])
def test_accessible(chromium, pages, kind, width, scheme):
    """axe-core finds no violation with all tables open, light or dark, narrow or wide."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    with opened(chromium, pages[kind], width, scheme, bypass_csp=True) as page:
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stays_readable(chromium, pages, scheme):
    """Text on the strongest colour of either hue, and on marks, has a contrast of at least 4.5 to 1."""
    contrast = """() => {
        const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const light = (colour) => {
            context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((x) => x / 255)
                .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
        };
        const made = [1, -1].map((amount) => element("span", { style: { backgroundColor: shade(amount) } }));
        document.body.append(...made);
        made.push(document.querySelector("mark"));
        const backgrounds = made.map((one) => getComputedStyle(one).backgroundColor);
        const text = light(getComputedStyle(document.body).color);
        return backgrounds.map((colour) => { const x = light(colour); return Math.max(x, text) / Math.min(x, text); });
    }"""
    with opened(chromium, pages["line"], scheme=scheme) as page:
        assert min(page.evaluate(contrast)) >= 4.5
