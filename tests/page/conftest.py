"""The planner page as `distillaw page` writes it, and as a browser without a network opens it."""

from functools import partial

import pytest

from distillaw.page.bundle import write_planner_page
from in_browser import chromium, open_file  # noqa: F401


@pytest.fixture(scope="session")
def planner(tmp_path_factory):
    """The page as `distillaw page` writes it."""
    return write_planner_page(tmp_path_factory.mktemp("page") / "planner.html")


@pytest.fixture
def open_page(open_file):  # noqa: F811
    """Open a file in an offline context: `open_page(path, address="", **context)`."""
    return partial(open_file, ready="#answer > :not(h2)")
