"""The page in a real browser without a network: every request, error and console message fails the test that saw it."""

import os
import shutil

import pytest

from distillaw.page.write import write_planner_page

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--disable-quic"]  # fmt: skip


@pytest.fixture(scope="session")
def chromium():
    """Headless Chromium of the system; the test skips where it or playwright is absent."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="pip install playwright (no browser download)"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next((p for n in names if (p := shutil.which(n))), None)
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or set CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def planner(tmp_path_factory):
    """The page as `distillaw page` writes it."""
    return write_planner_page(tmp_path_factory.mktemp("page") / "planner.html")


@pytest.fixture
def open_page(chromium):
    """Open a file in an offline context: `open_page(path, address="", **context)`."""
    problems, contexts = [], []

    def opened(path, address="", **context):
        settings = {
            "viewport": {"width": 1280, "height": 900},
            "offline": True,
            "accept_downloads": True,
            **context,
        }
        contexts.append(chromium.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("request", lambda request: _note(request.url, path, problems))
        page.goto(f"{path.as_uri()}{'#' + address if address else ''}")
        page.wait_for_selector("#answer > :not(h2)")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def _note(url, path, problems):
    if url.split("#")[0] != path.as_uri() and not url.startswith(("data:", "blob:")):
        problems.append(f"request: {url}")
