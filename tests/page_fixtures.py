"""What the tests of pages share: node, a browser, and tiny models."""

import json
import shutil
import subprocess
from contextlib import ExitStack

import pytest
from helpers import PACKAGE
from pages import Live, opened

from microgpt.export.formats import export
from microgpt.export.page import model_data

CALLS = """
const [models, calls] = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const { Model } = require(process.argv[1]);
const loaded = models.map((data) => new Model(data));
const answer = ([i, name, argument]) => {
  try {
    const found = loaded[i][name](argument);
    return found instanceof Map ? [...found] : found;
  } catch (error) {
    return { error: error.message };
  }
};
console.log(JSON.stringify(calls.map(answer)));
"""


@pytest.fixture(scope="session")
def javascript():
    """javascript(models, [(which of them, "score", argument), ...]): what model.js returns, or {"error": message}."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node, to run the page's scripts")

    def call(models, calls):
        given = json.dumps([list(map(model_data, models)), calls])
        command = [node, "-e", CALLS, str(PACKAGE / "export" / "model.js")]
        done = subprocess.run(command, input=given, capture_output=True, encoding="utf-8")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return call


@pytest.fixture(scope="session")
def chromium():
    """A browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install .[browser]")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("needs chromium, to open pages")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def exported(chromium, tmp_path):
    """exported(model, name): the page of an exported model, Live; what it says or asks for is a failure."""
    with ExitStack() as stack:

        def exported(model, name="run", **options):
            path = tmp_path / "page.html"
            export(model, name, str(path))
            return Live(stack.enter_context(opened(chromium, path, **options)))

        yield exported
