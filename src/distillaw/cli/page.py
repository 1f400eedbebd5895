"""`distillaw page`: the planner as one HTML file, with your own laws and runs inside."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.names import LawNames, OutFile
from distillaw.cli.output import Output


def page(
    *,
    out: OutFile = Path("planner.html"),
    study: Path | None = None,
    law: Annotated[LawNames | None, Parameter(consume_multiple=True)] = None,
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
    from distillaw.fitting.query import load_law
    from distillaw.page.study import study_laws, study_on_page
    from distillaw.page.write import write_planner_page
    from distillaw.runs.record import read_study

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
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    laws = [name for name, _, _ in asked]
    cells = 0 if found is None else len(found["cells"])  # type: ignore[arg-type]
    if output.json:
        print_json({"page": str(path), "bytes": path.stat().st_size, "laws": laws, "cells": cells})
        return
    more = f", {len(laws)} laws of yours" if laws else ""
    more += f", {cells} measured cells" if cells else ""
    print(
        f"page: {path} ({path.stat().st_size / 1e3:.0f} kB{more}); open it in any browser, no network needed"
    )
    output.suggest("distillaw plan --help", first="the same answers in the terminal:")
