"""`distillaw study status`: how far a study is; works while a scheduler runs and after it died."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.cli.app import print_json
from distillaw.cli.output import Output
from distillaw.quantities import format_count, format_flop, format_seconds

if TYPE_CHECKING:
    from distillaw.sweep.status import StudyStatus


def status(folder: Path, *, output: Output = Output()) -> int:
    """Print progress, time left, failures and cost of a study folder.

    Args:
        folder: the study folder.
    """
    from distillaw.sweep.status import read_status

    found = read_status(folder)
    if output.json:
        print_json(found.to_json())
    else:
        _print(found)
        output.suggest(*_next(found, shlex.quote(str(folder))))
    return 0


def _next(found: "StudyStatus", folder: str) -> tuple[str, str]:
    """Its report once nothing is left, before that the run that goes on; and what to know first."""
    if found.is_complete:
        return f"distillaw report {folder}", ""
    if found.running:
        return f"distillaw study status {folder}", ""
    return (
        "distillaw study run STUDY.toml",
        f"it goes on with the file it was started from and --out {folder}:",
    )


def _print(found: "StudyStatus") -> None:
    known = f"{found.done} of {found.known} runs done" + (" so far known" if found.waiting else "")
    print(f"{found.name}: {known}, {len(found.failures)} failed, {len(found.running)} trunks in training")
    print(f"scheduler: {found.scheduler}")
    print(
        f"cost so far: {format_flop(found.flops)}, {format_seconds(found.core_seconds)} of workers' wall time"
    )
    if found.is_complete:
        print("left: nothing")
    else:
        print(f"left: about {format_seconds(found.left_seconds)} ({found.left_how})")
    _section("in training", [
        f"{r.trunk}: {format_count(r.tokens)} of {format_count(r.of_tokens)} tokens in {format_seconds(r.seconds)}, "
        f"{r.where}"
        for r in found.running
    ])  # fmt: skip
    _section("waiting", found.waiting)
    _section("failed", [f"{run_id}: {error}" for run_id, error in found.failures.items()])
    if found.others:
        print(f"\n{found.others} finished runs do not belong to the study as it stands; they are in no table")


def _section(title: str, lines: list[str]) -> None:
    if lines:
        print(f"\n{title}")
    for line in lines[:20]:
        print(f"  {line}")
    if len(lines) > 20:
        print(f"  and {len(lines) - 20} more (--json shows all)")
