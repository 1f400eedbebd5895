"""`distillaw report DIR`: one HTML file from a study folder."""

import shlex
from collections.abc import Callable
from pathlib import Path

from distillaw.cli.app import print_json
from distillaw.cli.output import Output


def report(study: Path, *, out: Path | None = None, output: Output = Output()) -> None:
    """Write the report of a study folder, a recipe's or a large-batch study's, finished or not, or of a branch test.

    Args:
        study: the folder that `study run`, `recipe`, `branch` or `large-batch run` wrote.
        out: the HTML file; by default report.html in that folder, with a study's verdict.json beside it.
    """
    from distillaw.runs.files import read_json

    if write := _other_writer(study):
        with output.working("writing the report"):
            path = write(study, out)
        print_json({"report": str(path)}) if output.json else print(f"report: {path}")
        output.suggest(f"open {shlex.quote(str(path))} in a browser")
        return
    from distillaw.report.document import write_report

    with output.working("writing the report"):
        path = write_report(study, out)
    verdict = read_json(path.parent / "verdict.json")
    if output.json:
        print_json({"report": str(path), "verdict": verdict})
    else:
        print(f"{verdict['sentence']}\n\nreport: {path}")
    output.suggest(f"distillaw plan --study {shlex.quote(str(study))}")


def _other_writer(folder: Path) -> Callable[[Path, Path | None], Path] | None:
    """What writes the report of a folder that is no study; None for a study."""
    if (folder / "recipe.json").exists():
        from distillaw.report.recipe import write_recipe_report

        return write_recipe_report
    if (folder / "large_batch.json").exists():
        from distillaw.report.large_batch import write_large_batch_report

        return write_large_batch_report
    if (folder / "branch.json").exists() and not (folder / "runs").exists():
        return _write_branch_page
    return None


def _write_branch_page(folder: Path, out: Path | None) -> Path:
    from distillaw.report.branch import write_branch_page
    from distillaw.runs.files import read_json

    return write_branch_page(read_json(folder / "branch.json"), out or folder / "branch.html")
