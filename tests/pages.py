"""Pages in a browser, and what texts they must stand."""

from contextlib import contextmanager
from dataclasses import replace

from microgpt.api import Model

HOSTILE = ["</script><b>", "<img onerror=alert(1) src=x>", "\"'`${}\\", "\u202eabc\u200f", "a\u2028b\u2029c", "&amp;",
           "\U0001f600e\u0301", "\x00\x7f\t", "<!--", "א\u05d1b"]  # fmt: skip


@contextmanager
def opened(chromium, path, width=1280, scheme="light", **options):
    """The page of a file; when it closes it must have said nothing, and asked for nothing but itself."""
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme} | options
    context = chromium.new_context(**options)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(path.as_uri())
        yield page
        assert said == []
        assert set(asked) == {path.as_uri()}
    finally:
        context.close()


class Live:
    """The part of a page on which the model can be tried."""

    def __init__(self, page):
        self.page = page
        self.typed = page.get_by_label("Beginning of a text")

    def all(self):
        """Have every outcome shown."""
        more = self.page.locator(".bars + button")
        if more.is_visible() and more.get_attribute("aria-expanded") == "false":
            more.click()

    def probabilities(self):
        """{character, or None for the end: probability} of the bars."""
        found = self.page.eval_on_selector_all(
            ".bar", "all => all.map((bar) => [bar.dataset.char, bar.dataset.probability])"
        )
        return {char or None: float(p) for char, p in found}

    def losses(self):
        found = self.page.eval_on_selector_all(".step", "all => all.slice(1).map((step) => Number(step.dataset.loss))")
        return list(map(float, found))

    def attention(self):
        """Rows, one for each head of each layer, of the weights at the present step."""
        rows = "all => all.map((row) => [...row.cells].slice(1).map((cell) => Number(cell.dataset.weight)))"
        return self.page.eval_on_selector_all(".attention tbody tr", rows)

    def draw(self, **settings):
        """The samples, when they are all drawn."""
        labels = {"num_samples": "How many", "temperature": "Temperature", "top_k": "Top-k (0: all)", "seed": "Seed"}
        labels |= {"top_p": "Top-p (1: all)", "prompt": "Beginning", "length": "Characters"}
        for name, value in settings.items():
            self.page.get_by_label(labels[name], exact=True).fill(str(value))
        self.page.get_by_role("button", name="Draw samples").click()
        self.page.get_by_text("Press a sample to inspect it").wait_for()
        return self.page.eval_on_selector_all(".samples button", "all => all.map((button) => button.textContent)")


def in_doubles(model):
    """The same weights in a float64 model."""
    saved = model._saved
    return Model(replace(saved, config=replace(saved.config, dtype="float64")))
