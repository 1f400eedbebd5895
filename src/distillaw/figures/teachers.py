"""One look for each teacher of a study, the same in all of its figures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from distillaw.figures.style import INK, SERIES
from distillaw.runs.record import StudyRecord

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""The colours come again with the next of these where teachers are more than colours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherStyle:
    """Colour and marker of one teacher's students."""

    color: str
    marker: str = "o"


NO_TEACHER = TeacherStyle(color=INK)


def teacher_styles(record: StudyRecord) -> Mapping[str, TeacherStyle]:
    """The look of every teacher by its run, worst teacher first, whether or not a figure shows it."""
    losses = {name: run.loss for name, run in record.teachers.items()}
    for run in record.students:
        if run.teacher_run:  # its own run may be elsewhere
            losses.setdefault(run.teacher_run, run.number("teacher_loss"))
    order = sorted(losses, key=lambda run: (-losses[run] if math.isfinite(losses[run]) else math.inf, run))
    return {run: _style(place) for place, run in enumerate(order)}


def _style(place: int) -> TeacherStyle:
    again, at = divmod(place, len(SERIES))
    return TeacherStyle(color=SERIES[at], marker=MARKERS[again % len(MARKERS)])
