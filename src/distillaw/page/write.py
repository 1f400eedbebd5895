"""The planner page as one file: the built page with the data put in. Nothing is loaded, from anywhere, ever."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from distillaw.errors import RunError
from distillaw.page.bundle import planner_bundle
from distillaw.planning.voices import LawLike
from distillaw.runs.files import write_text
from distillaw.runs.places import GENERATOR

BUILT = "built/planner.html"
"""Made by `npm run build` in web/, and committed, so that nobody needs Node to have a page."""
_PLACE = '<script type="application/json" id="distillaw-data">null</script>'


def planner_page(
    asked: Sequence[tuple[str, str, LawLike]] = (), study: Mapping[str, object] | None = None
) -> str:
    """The page as text.

    Args:
        asked: laws that people may consult first, as in `planner_bundle`.
        study: runs and measured cells of a study (`page/study.py`).

    Raises:
        RunError: the built page is missing from the installation, or is not one of ours.
    """
    built = files("distillaw.page") / BUILT
    if not built.is_file():
        raise RunError(
            f"the built page ({BUILT}) is not part of this installation; reinstall distillaw, or build it: "
            "cd web && npm ci && npm run build"
        )
    page = built.read_text(encoding="utf-8")
    if page.count(_PLACE) != 1:
        raise RunError(
            f"{BUILT} has no place for the data; build it again: cd web && npm ci && npm run build"
        )
    text = json.dumps(
        planner_bundle(asked, study), allow_nan=False, ensure_ascii=False, separators=(",", ":")
    )
    page = page.replace("<head>", f'<head><meta name="generator" content="{GENERATOR}">', 1)
    # inside a script element only `</` and `<!--` could end or comment it
    return page.replace(_PLACE, _PLACE.replace("null", text.replace("<", "\\u003c")))


def write_planner_page(
    path: Path, asked: Sequence[tuple[str, str, LawLike]] = (), study: Mapping[str, object] | None = None
) -> Path:
    """Write the page atomically.

    Args:
        path: the HTML file.
        asked: as in `planner_page`.
        study: as in `planner_page`.

    Raises:
        RunError: the built page is missing, or the file cannot be written.
    """
    write_text(path, planner_page(asked, study))
    return path
