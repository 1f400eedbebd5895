"""The controls of a study as a section of its report."""

from collections.abc import Sequence

from distillaw.controls.api import summary
from distillaw.controls.control import STATUSES, Control
from distillaw.report.content import Table, Value


def control_notes(controls: Sequence[Control]) -> list[str]:
    """How they stand, and what a failed one means."""
    if not controls:
        return ["No student has finished yet, so nothing can be checked."]
    lines = [f"{summary(controls)}. A failed control leaves laws and verdict standing, with a caveat."]
    return lines + [f"{c.name}: without it, {c.guards}." for c in controls if c.status == "failed"]


def control_table(controls: Sequence[Control]) -> Table:
    """Name, status, numbers and what to do, in the order of the checks."""
    rows = [
        [Value(text=c.name, sort=c.name, kind="text"), Value(text=c.status, sort=STATUSES.index(c.status), kind="text"),
         Value(text=c.found, kind="text wrap"), Value(text=c.remedy, kind="text wrap")]
        for c in controls
    ]  # fmt: skip
    return Table(columns=["control", "status", "found", "what to do"], rows=rows)
