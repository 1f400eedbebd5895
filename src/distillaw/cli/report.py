"""`distillaw report` and `page`: one HTML file each, of a folder's results, and of the interactive planner."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from distillaw.cli.options import LawNames, OutFile, Several, checked_folder
from distillaw.cli.output import Output
from distillaw.errors import ConfigError
from distillaw.fitting.query import load_law
from distillaw.runs.record import read_study

if TYPE_CHECKING:
    from distillaw.report.page import FigureFiles


def report(
    study: Path,
    *,
    out: OutFile | None = None,
    figures: Annotated[Path, Parameter(validator=checked_folder("--figures"))] | None = None,
    format: str | None = None,
    open: bool = False,
    output: Output = Output(),
) -> None:
    """Write the report of a study folder, a recipe's or a large-batch study's, finished or not, or of a branch test.

    Args:
        study: the folder that `study run`, `recipe`, `branch` or `large-batch run` wrote.
        out: the HTML file; by default report.html in that folder. A study's verdict lies beside it: verdict.json, or
            NAME.verdict.json beside NAME.html.
        figures: folder into which every figure of the page is written as files of its own.
        format: of those files: svg, png, pdf or several of them, e.g. svg,pdf; all three by default.
        open: show it in the browser.
    """
    from distillaw.report.document import write_any

    wanted = _figure_files(figures, format)
    with output.working("writing the report"):
        path, verdict = write_any(study, out, figures=wanted)
    places = {"report": str(path)} | ({"figures": str(figures)} if figures else {})
    said = [f"{verdict['sentence']}\n"] if verdict else []
    said += [f"{what}: {place}" for what, place in places.items()]
    output.answer(places | ({"verdict": verdict} if verdict else {}), print, "\n".join(said))
    if open:
        _show_in_browser(path)
    folder, is_decided = shlex.quote(str(study)), verdict is not None and verdict.get("verdict")
    output.suggest(f"distillaw plan --study {folder}" if is_decided else f"distillaw report {folder} --open")


def _show_in_browser(page: Path) -> None:
    import webbrowser

    webbrowser.open(page.resolve().as_uri())


def _figure_files(folder: Path | None, formats: str | None) -> "FigureFiles | None":
    from distillaw.report.page import FORMATS, FigureFiles

    if folder is None:
        if formats is not None:
            raise ConfigError("--format says how figures are written; name their folder with --figures FOLDER")
        return None
    kinds = [kind.strip() for kind in formats.split(",")] if formats is not None else FORMATS
    return FigureFiles(folder=folder, formats=kinds)


def page(
    *,
    out: OutFile = Path("planner.html"),
    study: Path | None = None,
    law: Annotated[LawNames | None, Several] = None,
    open: bool = False,
    output: Output = Output(),
) -> None:
    """Write the interactive planner: one HTML file that works without network, exact to `distillaw plan`.

    Args:
        out: the HTML file.
        study: folder of a study; its fitted laws can be asked, its runs and paired verdicts are shown.
        law: further laws that can be asked first: published names, or files of `distillaw fit --out`.
        open: show it in the browser.
    """
    from distillaw.page.bundle import study_laws, study_on_page, write_planner_page

    asked = [(name, name, name) for name in law or ()]
    for name in law or ():
        load_law(name)  # an unknown name is better refused here than found in the page
    found = None
    if study is not None:
        record = read_study(study)
        asked += study_laws(record)
        found = study_on_page(record)
    path = write_planner_page(out, asked, found)
    if open:
        _show_in_browser(path)
    laws = [name for name, _, _ in asked]
    cells = 0 if found is None else len(found["cells"])  # type: ignore[arg-type]
    more = f", {len(laws)} laws of yours" if laws else ""
    more += f", {cells} measured cells" if cells else ""
    size = path.stat().st_size
    said = f"page: {path} ({size / 1e3:.0f} kB{more}); open it in any browser, no network needed"
    output.answer({"page": str(path), "bytes": size, "laws": laws, "cells": cells}, print, said)
    output.suggest("distillaw plan --help", first="the same answers in the terminal:")
