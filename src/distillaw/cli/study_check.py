"""`distillaw study check`: the controls of a study, with the numbers that decided each."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.cli.app import print_json
from distillaw.cli.output import Output, command_of

if TYPE_CHECKING:
    from distillaw.controls.control import Control

_STYLES = {
    "passed": "green",
    "failed": "bold red",
    "undecided": "yellow",
    "not done": "yellow",
    "not applicable": "dim",
}


def study_check(folder: Path, *, output: Output = Output()) -> None:
    """Check the controls that make a study's numbers mean something.

    Args:
        folder: the study folder, finished or not.
    """
    from distillaw.controls.api import check_controls, summary
    from distillaw.runs.record import read_study

    record = read_study(folder)
    controls = check_controls(record)
    if output.json:
        print_json({
            "study": record.name, "folder": str(folder), "summary": summary(controls),
            "controls": [control.to_json() for control in controls], "problems": list(record.problems),
        })  # fmt: skip
        return
    for problem in record.problems:
        print(f"mind: {problem}")
    if not controls:
        print("no student has finished yet, so there is nothing to check")
        return
    _print(controls)
    print(f"\n{record.name}: {summary(controls)}")
    output.suggest(*_next(folder, [c.name for c in controls if c.status == "failed"]))


def _print(controls: "list[Control]") -> None:
    from rich.table import Table
    from rich.text import Text

    from distillaw.cli.console import print_table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("control", "status", "found"):
        table.add_column(name, no_wrap=name != "found")
    for control in controls:
        words = Text(control.found)
        if control.remedy:
            words.append(f"\nguards: {control.guards}\nto do: {control.remedy}", style="dim")
        table.add_row(control.name, Text(control.status, style=_STYLES[control.status]), words)
    print_table(table)


def _next(folder: Path, failed: list[str]) -> tuple[str, str]:
    if failed:
        return command_of(folder), "change the study file as said (finished runs are kept), then:"
    return f"distillaw report {shlex.quote(str(folder))}", ""
