"""`distillaw report DIR`: one HTML file from a study folder."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.cli.app import print_json
from distillaw.cli.output import Output, check_place
from distillaw.errors import ConfigError

if TYPE_CHECKING:
    from distillaw.report.page import FigureFiles


def report(
    study: Path,
    *,
    out: Path | None = None,
    figures: Path | None = None,
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
    check_place("--out", out)
    check_place("--figures", figures, is_folder=True)
    from distillaw.report.document import verdict_file
    from distillaw.runs.files import read_json

    wanted = _figure_files(figures, format)
    write = _writer(study)
    with output.working("writing the report"):
        path = write(study, out, wanted)
    places = {"report": str(path)} | ({"figures": str(figures)} if figures else {})
    verdict = read_json(verdict_file(path)) if write is _write_study_report else None
    if output.json:
        print_json(places | ({"verdict": verdict} if verdict else {}))
    else:
        said = [f"{verdict['sentence']}\n"] if verdict else []
        print("\n".join([*said, *(f"{what}: {place}" for what, place in places.items())]))
    if open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    output.suggest(
        f"distillaw plan --study {shlex.quote(str(study))}"
        if verdict
        else f"distillaw report {shlex.quote(str(study))} --open"
    )


def _figure_files(folder: Path | None, formats: str | None) -> "FigureFiles | None":
    from distillaw.report.page import FORMATS, FigureFiles

    if folder is None:
        if formats is not None:
            raise ConfigError(
                "--format says how figures are written; name their folder with --figures FOLDER"
            )
        return None
    kinds = [kind.strip() for kind in formats.split(",")] if formats is not None else FORMATS
    return FigureFiles(folder=folder, formats=kinds)


def _writer(folder: Path) -> Callable[[Path, Path | None, "FigureFiles | None"], Path]:
    """What writes the report of a folder; a study's where it is nothing else."""
    if (folder / "recipe.json").exists():
        return _write_recipe_report
    if (folder / "large_batch.json").exists():
        return _write_large_batch_report
    if (folder / "branch.json").exists() and not (folder / "runs").exists():
        return _write_branch_page
    return _write_study_report


def _write_study_report(folder: Path, out: Path | None, figures: "FigureFiles | None") -> Path:
    from distillaw.report.document import write_report

    return write_report(folder, out, figures=figures)


def _write_recipe_report(folder: Path, out: Path | None, figures: "FigureFiles | None") -> Path:
    from distillaw.report.recipe import write_recipe_report

    return write_recipe_report(folder, out, figures=figures)


def _write_large_batch_report(folder: Path, out: Path | None, figures: "FigureFiles | None") -> Path:
    from distillaw.report.large_batch import write_large_batch_report

    return write_large_batch_report(folder, out, figures=figures)


def _write_branch_page(folder: Path, out: Path | None, figures: "FigureFiles | None") -> Path:
    from distillaw.report.branch import write_branch_page
    from distillaw.runs.files import read_json

    return write_branch_page(
        read_json(folder / "branch.json"), out or folder / "branch.html", figures=figures
    )
