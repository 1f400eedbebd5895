"""Calibration of a study's models in words: caption, table and sentences around figures/calibrated.py."""

import math
from collections.abc import Sequence
from itertools import pairwise

from distillaw.figures.calibrated import Calibrated, Measured, draw_calibration, or_inf
from distillaw.figures.style import Z90
from distillaw.report.content import Table, Value
from distillaw.report.picture import Picture
from distillaw.runs.record import budget_text

TITLE = "Calibration, and the distance from the teacher"


def calibration_picture(groups: Sequence[Calibrated]) -> Picture:
    """The figure with its words.

    Raises:
        DataError: no taught student has the numbers.
    """
    return Picture(
        name="calibration", title=TITLE, figure=draw_calibration(groups),
        alt=f"{TITLE}. " + " ".join(_words(group) for group in groups if group.teacher),
        caption="Students by size and training tokens, better teachers to the right; dashed, the same student without "
        "a teacher. Calibration error: how far the confidence of a model's first choice lies from how often it comes "
        "(left) or from the teacher's probability of it, in 21 equal bins. Bars and shades are 90 % "
        "intervals over documents.",
    )  # fmt: skip


def _words(group: Calibrated) -> str:
    parts = [f"{100 * group.against_data.value:.1f} % against the text"]
    if group.against_teacher:
        parts.append(f"{100 * group.against_teacher.value:.1f} % against the teacher")
    if group.kl:
        parts.append(f"KL {group.kl.value:.3f}")
    return (
        f"{group.label} on {budget_text(group.tokens)} tokens from the {group.teacher}: {', '.join(parts)}."
    )


def calibration_notes(groups: Sequence[Calibrated]) -> list[str]:
    """What the numbers say."""
    notes = [_range("Teachers", [g for g in groups if g.role == "teacher"]),
             _range("Students without a teacher", [g for g in groups if g.role == "student" and not g.teacher]),
             _range("Taught students", [g for g in groups if g.teacher])]  # fmt: skip
    return [note for note in notes if note] + _distance_notes(groups)


def _range(who: str, groups: Sequence[Calibrated]) -> str:
    if not groups:
        return ""
    values = sorted(100 * group.against_data.value for group in groups)
    widest = 100 * Z90 * max(group.against_data.se for group in groups)
    return (
        f"{who}: calibration error against the text {values[0]:.1f} to {values[-1]:.1f} %, each ± {widest:.1f} or less "
        "(90 %)."
    )


def _distance_notes(groups: Sequence[Calibrated]) -> list[str]:
    """Does the distance grow with a better teacher? Busbridge et al. 2025 find that it always does."""
    cells: dict[tuple[int, int], list[Calibrated]] = {}
    for group in groups:
        if group.kl is not None:
            cells.setdefault((group.params, group.tokens), []).append(group)
    lines = [sorted(own, key=lambda g: -g.teacher_loss) for own in cells.values() if len(own) > 1]
    if not lines:
        return []
    grows = sum(all(b.kl.value > a.kl.value for a, b in pairwise(own)) for own in lines)  # type: ignore[union-attr]
    return [
        f"From the worst teacher to the best, the distance KL(teacher ‖ student) grows at every step in {grows} of "
        f"{len(lines)} rows of students. Busbridge et al. 2025 (arXiv 2502.08606) saw it grow in all of theirs, while "
        "the loss turned up again: a student that cannot follow its teacher is a matter of learning capacity."
    ]


def calibration_table(groups: Sequence[Calibrated]) -> Table:
    """Every group."""
    columns = [
        "model",
        "tokens",
        "teacher",
        "seeds",
        "against the text, %",
        "against the teacher, %",
        "KL, nats/token",
    ]
    return Table(columns=columns, rows=[_row(group) for group in groups])


def _row(group: Calibrated) -> list[Value]:
    return [
        Value(text=f"{group.label} {group.role}", sort=group.params, kind="text"),
        Value(text=budget_text(group.tokens), sort=group.tokens),
        Value(text=group.teacher, sort=or_inf(group.teacher_loss), kind="text"),
        Value(text=str(group.seeds), sort=group.seeds), _with_half(group.against_data, 100.0, 2),
        _with_half(group.against_teacher, 100.0, 2), _with_half(group.kl, 1.0, 3),
    ]  # fmt: skip


def _with_half(measured: Measured | None, factor: float, digits: int) -> Value:
    if measured is None:
        return Value(text="", sort=math.inf)
    value, half = factor * measured.value, factor * Z90 * measured.se
    return Value(text=f"{value:.{digits}f} ± {half:.{digits}f}", sort=value)
