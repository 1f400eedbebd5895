"""`distillaw study status` and `study check`: how far a study is, and what its numbers rest on."""

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from distillaw.cli.console import coloured, live_console, print_table
from distillaw.cli.output import Output, command_of
from distillaw.quantities import format_count, format_flop, format_seconds
from distillaw.runs.record import read_study
from distillaw.sweep.status import StudyStatus, read_status
from distillaw.table import Table, text

if TYPE_CHECKING:
    from distillaw.controls.control import Control


WATCH_SECONDS = 5.0
"""Between two looks."""
INTERRUPTED = 130
"""What a shell returns for a command that Ctrl-C ended: 128 + SIGINT."""


def status(folder: Path, *, watch: Annotated[bool, Parameter(negative="")] = False, output: Output = Output()) -> int:
    """Print progress, time left, failures and cost of a study folder.

    Args:
        folder: the study folder.
        watch: look again every few seconds until nothing is left or nobody works on it: a terminal shows the present,
            a pipe a line for every change, --json waits and prints the end. Exit code 1 if something is left or failed.
    """
    found = _watched(folder, output) if watch else read_status(folder)
    if found is None:
        return INTERRUPTED
    output.answer(found.to_json(), print, "\n".join(_lines(found)))
    output.suggest(*_next(found, shlex.quote(str(folder))))
    return int(watch and not (found.is_complete and not found.failures))


def _watched(folder: Path, output: Output) -> "StudyStatus | None":
    """The end of a study that is watched; None where the watcher had enough, which changes nothing for the study."""
    try:
        found = read_status(folder)
        with _screen(output) as show:
            while found.is_running and not found.is_complete:
                show(found)
                time.sleep(WATCH_SECONDS)
                found = read_status(folder)
    except KeyboardInterrupt:
        return None
    return found


@contextlib.contextmanager
def _screen(output: Output) -> "Iterator[Callable[[StudyStatus], None]]":
    """What shows a moment: redrawn in a terminal and gone when it is over; elsewhere a line per change."""
    if output.json or output.quiet:
        yield lambda found: None
    elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from rich.live import Live
        from rich.text import Text

        with Live(console=live_console(stderr=False), auto_refresh=False, transient=True) as live:
            yield lambda found: live.update(Text("\n".join(_lines(found))), refresh=True)
    else:
        said: list[str] = []

        def show(found: "StudyStatus") -> None:
            if said[-1:] != [_known(found)]:
                said.append(_known(found))
                print(f"{said[-1]}; {_left(found)}", flush=True)

        yield show


def _next(found: "StudyStatus", folder: str) -> tuple[str, str]:
    """Its report once nothing is left, before that the run that goes on; and what to know first."""
    if found.is_complete:
        return f"distillaw report {folder}", ""
    if found.running:
        return f"distillaw study status {folder}", ""
    return command_of(Path(found.folder)), "it goes on where it stopped, with what it was started with:"


def _lines(found: "StudyStatus") -> list[str]:
    lines = [_known(found), f"scheduler: {found.scheduler}"]
    lines.append(f"cost so far: {format_flop(found.flops)}, {format_seconds(found.core_seconds)} of workers' wall time")
    lines.append(_left(found) + ("" if found.is_complete else f" ({found.left_how})"))
    far = (
        f"{one.trunk}: {format_count(one.tokens)} of {format_count(one.of_tokens)} tokens in "
        f"{format_seconds(one.seconds)}, {one.where}"
        for one in found.running
    )
    lines += _section("in training", [*far])
    lines += _section("waiting", found.waiting)
    lines += _section("failed", [f"{run_id}: {error}" for run_id, error in found.failures.items()])
    if found.others:
        lines += ["", f"{found.others} finished runs do not belong to the study as it stands; they are in no table"]
    return lines


def _known(found: "StudyStatus") -> str:
    known = f"{found.done} of {found.known} runs{' known so far' * bool(found.waiting)} done"
    return f"{found.name}: {known}, {len(found.failures)} failed, {len(found.running)} trunks in training"


def _left(found: "StudyStatus") -> str:
    return "left: nothing" if found.is_complete else f"left: about {format_seconds(found.left_seconds)}"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - 20} more (--json shows all)"] if len(lines) > 20 else []
    return ["", title, *(f"  {line}" for line in lines[:20]), *more]


_COLOURS = {"passed": "32", "failed": "1;31", "undecided": "33", "not done": "33", "not applicable": "2"}
"""Of a terminal: green, bold red, yellow, dim (ECMA-48, Select Graphic Rendition)."""


def study_check(folder: Path, *, output: Output = Output()) -> None:
    """Check the controls that make a study's numbers mean something.

    Args:
        folder: the study folder, finished or not.
    """
    from distillaw.controls.api import check_controls, summary

    record = read_study(folder)
    controls = check_controls(record)
    problems = [*record.problems]
    if (looked_at := len(record.thinned().trained)) < len(record.trained):
        problems.append(
            f"controls look at {looked_at:,} of {len(record.trained):,} runs: whole cells evenly over compute, those "
            "with a teacher first"
        )
    document = {
        "study": record.name,
        "folder": str(folder),
        "summary": summary(controls),
        "controls": [asdict(control) for control in controls],
        "problems": problems,
    }

    def show() -> None:
        print(*(f"mind: {problem}" for problem in problems), sep="\n", end="\n" * bool(problems))
        if controls:
            _print_controls(controls)
            print(f"\n{record.name}: {summary(controls)}")
        else:
            print("no student has finished yet, so there is nothing to check")

    output.answer(document, show)
    if controls:
        output.suggest(*_after_check(folder, [c.name for c in controls if c.status == "failed"]))


def _print_controls(controls: "list[Control]") -> None:
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


def _after_check(folder: Path, failed: list[str]) -> tuple[str, str]:
    if failed and (folder / "study.json").is_file():  # imported runs have no study file
        return command_of(folder), "change the study file as said (finished runs are kept), then:"
    return f"distillaw report {shlex.quote(str(folder))}", ""
