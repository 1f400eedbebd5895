"""`distillaw study check`: the controls of a study, with the numbers that decided each."""

import shlex
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.cli.app import print_json
from distillaw.cli.console import coloured, print_table
from distillaw.cli.output import Output, command_of
from distillaw.table import Table, text

if TYPE_CHECKING:
    from distillaw.controls.control import Control

_COLOURS = {"passed": "32", "failed": "1;31", "undecided": "33", "not done": "33", "not applicable": "2"}
"""Of a terminal: green, bold red, yellow, dim (ECMA-48, Select Graphic Rendition)."""


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
        print_json(
            {
                "study": record.name,
                "folder": str(folder),
                "summary": summary(controls),
                "controls": [control.to_json() for control in controls],
                "problems": list(record.problems),
            }
        )
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
    def found(control: "Control") -> str:
        if not control.remedy:
            return control.found
        return f"{control.found}\nguards: {control.guards}\nto do: {control.remedy}"

    columns = [
        text("control", of=attrgetter("name")),
        text("status", of=lambda control: coloured(control.status, _COLOURS[control.status])),
        text("found", of=found),
    ]
    print_table(Table.of(columns, controls))


def _next(folder: Path, failed: list[str]) -> tuple[str, str]:
    if failed:
        return command_of(folder), "change the study file as said (finished runs are kept), then:"
    return f"distillaw report {shlex.quote(str(folder))}", ""
