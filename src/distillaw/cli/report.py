"""`distillaw report DIR`: one HTML file from a study folder."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.names import OutFile, checked_folder
from distillaw.cli.output import Output
from distillaw.errors import ConfigError

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
    if output.json:
        print_json(places | ({"verdict": verdict} if verdict else {}))
    else:
        said = [f"{verdict['sentence']}\n"] if verdict else []
        print("\n".join([*said, *(f"{what}: {place}" for what, place in places.items())]))
    if open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    folder = shlex.quote(str(study))
    output.suggest(
        f"distillaw plan --study {folder}"
        if verdict and verdict.get("verdict")
        else f"distillaw report {folder} --open"
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
