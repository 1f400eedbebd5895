"""The report of whatever a folder holds: a study, a recipe, a large-batch study, a branch test."""

from pathlib import Path

from distillaw.report.branch import write_branch_page
from distillaw.report.document import verdict_file, write_report
from distillaw.report.large_batch import write_large_batch_report
from distillaw.report.page import FigureFiles
from distillaw.report.recipe import write_recipe_report
from distillaw.runs.files import read_json


def write_any(
    folder: Path, out: Path | None = None, *, figures: FigureFiles | None = None
) -> tuple[Path, dict[str, object] | None]:
    """Write it; a folder that is nothing else is taken for a study's.

    Args:
        folder: what `study run`, `recipe`, `branch` or `large-batch run` wrote, finished or not.
        out: the HTML file; by default in the folder.
        figures: where to write every figure as files of its own; None: only in the page.

    Returns:
        The HTML file, and the verdict of a study.

    Raises:
        CacheError: there is no such folder, or a file in it is damaged.
    """
    if (folder / "recipe.json").exists():
        return write_recipe_report(folder, out, figures=figures), None
    if (folder / "large_batch.json").exists():
        return write_large_batch_report(folder, out, figures=figures), None
    if (folder / "branch.json").exists() and not (folder / "runs").exists():
        record = read_json(folder / "branch.json")
        return write_branch_page(record, out or folder / "branch.html", figures=figures), None
    page = write_report(folder, out, figures=figures)
    return page, read_json(verdict_file(page))
