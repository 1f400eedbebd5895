"""A page in a real browser without a network: every request, error and console message fails the test that saw it."""

import os
import shutil

import pytest

PATIENCE = 300_000
"""Milliseconds that a page may take for anything: Playwright's 30 s fail where others use the machine too."""
FLAGS = [
    *"--no-sandbox --disable-gpu --no-first-run".split(),
    *"--disable-background-networking --disable-sync".split(),
    *"--disable-component-update --disable-quic".split(),
]


@pytest.fixture(scope="session")
def chromium():
    """Headless Chromium of the system; the test skips where it or playwright is absent."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright (no browser download)")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next((p for n in names if (p := shutil.which(n))), None)
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or set CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_file(chromium):
    """Open a file in an offline context: `open_file(path, address="", ready="main", **context)`."""
    problems, contexts = [], []

    def opened(path, address="", *, ready="main", **context):
        settings = {"viewport": {"width": 1280, "height": 900}, "offline": True, "accept_downloads": True, **context}
        contexts.append(chromium.new_context(**settings))
        contexts[-1].set_default_timeout(PATIENCE)
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("request", lambda request: _note(request.url, path, problems))
        page.goto(f"{path.as_uri()}{'#' + address if address else ''}")
        page.wait_for_selector(ready)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def _note(url, path, problems):
    if url.split("#")[0] != path.as_uri() and not url.startswith(("data:", "blob:")):
        problems.append(f"request: {url}")


def saved_file(page, selector):
    """The bytes of the file that a click saves."""
    with page.expect_download() as waiting:
        page.click(selector)
    return waiting.value.path().read_bytes()


def grave_findings(page):
    """What axe calls serious or critical on the page."""
    from importlib.resources import files

    axe = pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
    page.evaluate((files(axe) / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:120]}: {v['nodes'][0]['failureSummary']}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
