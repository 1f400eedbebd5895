"""The two sheets: `kernel.svg` and `mapping.svg` with their tables as CSV. Matplotlib is imported when one is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillaw.errors import ConfigError
from distillaw.runs.files import csv_text, write_text

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from distillaw.toys.grid import ToyCurve, ToyOutcome
    from distillaw.toys.kernel import KernelCurves


def write_kernel(folder: Path, curves: "KernelCurves") -> list[Path]:
    """Write kernel.svg, kernel.png and kernel.csv (one row for each student and teacher).

    Raises:
        ConfigError: matplotlib is not installed.
        RunError: the folder cannot be written.
    """
    teachers = list(zip(curves.m.tolist(), curves.teacher_error.tolist(), strict=True))
    students = zip(curves.n.tolist(), curves.flat_until.tolist(), curves.student_error.tolist(), strict=True)
    rows = (
        {
            "student_size": n,
            "teacher_size": m,
            "teacher_error": teacher,
            "student_error": student,
            "is_flat": n <= m <= until,
        }
        for n, until, errors in students
        for (m, teacher), student in zip(teachers, errors, strict=True)
    )
    return _write(folder, "kernel", draw_kernel(curves), rows)


def write_mapping(folder: Path, outcomes: "Sequence[ToyOutcome]", curves: "Sequence[ToyCurve]") -> list[Path]:
    """Write mapping.svg, mapping.png and mapping.csv (one row for each student, teacher and trial).

    Raises:
        ConfigError: matplotlib is not installed.
        RunError: the folder cannot be written.
    """
    return _write(folder, "mapping", draw_mapping(curves), map(asdict, outcomes))


def draw_kernel(curves: "KernelCurves") -> "Figure":
    """Left as published, error against m; right against m / n, flat stretches marked."""
    style = _house_style()
    figure, [[left, right]] = style.new_figure(1, 2, width=8.6, height=3.6)
    left.plot(curves.m, curves.teacher_error, color=style.MUTED, linestyle=":", label="the teacher itself")
    students = zip(curves.n.tolist(), curves.flat_until.tolist(), curves.student_error, strict=True)
    for place, (n, until, error) in enumerate(students):
        color = style.SERIES[place % len(style.SERIES)]
        flat = slice(n - 1, until)
        left.plot(curves.m, error, color=color, linewidth=1.0, label=f"n = {n}")
        left.plot(curves.m[flat], error[flat], color=color, linewidth=3.0, solid_capstyle="butt")
        right.plot(curves.m / n, error, color=color, linewidth=1.0)
        right.plot(curves.m[flat] / n, error[flat], color=color, linewidth=3.0, solid_capstyle="butt")
    right.axvspan(1.0, (curves.teacher_budget / curves.student_budget) ** 2, color=style.GRID, alpha=0.6, linewidth=0)
    right.set_xlim(0.0, 2.5)
    style.set_title(left, "as published")
    style.set_title(right, "bold and grey: as good as m = n")
    left.set_xlabel("teacher's size m")
    right.set_xlabel("teacher's size / student's size, m / n")
    left.set_ylabel("distance to the target")
    left.legend(frameon=False, fontsize=7.5, labelspacing=0.25)
    return figure


def draw_mapping(curves: "Sequence[ToyCurve]") -> "Figure":
    """A column for each student; loss against the teacher's width, its steps, and its loss."""
    style = _house_style()
    students = sorted({curve.student_width for curve in curves})
    figure, axes = style.new_figure(3, len(students), width=2.9 * len(students), height=6.6)
    colors = {"width": style.SERIES[0], "steps": style.SERIES[1]}
    for curve in curves:
        column = students.index(curve.student_width)
        row, color = list(colors).index(curve.axis), colors[curve.axis]
        _draw_curve(axes[row][column], curve, _strength(curve), color)
        _draw_curve(axes[2][column], curve, curve.teacher_loss, color, label=f"teacher {_GROWS[curve.axis]}")
        axes[row][column].set_xlabel(_LABELS[curve.axis])
        axes[row][column].set_xscale("log", base=2)
        axes[row][column].xaxis.set_major_formatter("{x:g}")
        axes[row][column].set_xticks(_strength(curve))
    for column, width in enumerate(students):
        style.set_title(axes[0][column], f"student of width {width}")
        axes[2][column].set_xlabel("teacher's loss, nats; better to the right")
        axes[2][column].invert_xaxis()
    for row in axes:
        row[0].set_ylabel("student's loss, nats")
    axes[2][0].legend(frameon=False, fontsize=7.5)
    return figure


_GROWS = {"width": "grows", "steps": "trains longer"}
_LABELS = {"width": "teacher's width", "steps": "teacher's steps"}


def _strength(curve: "ToyCurve") -> list[int]:
    return [getattr(teacher, curve.axis) for teacher in curve.teachers]


def _draw_curve(ax: "Axes", curve: "ToyCurve", at: Sequence[float], color: str, *, label: str | None = None) -> None:
    """Mean over trials with a band from 25 to 75 % of them; the best teacher is ringed."""
    order = np.argsort(at)
    place, mean, low, high = (np.asarray(v)[order] for v in (at, curve.student_loss, curve.low, curve.high))
    ax.fill_between(place, low, high, color=color, alpha=0.2, linewidth=0)
    ax.plot(place, mean, color=color, marker="o", markersize=3, label=label)
    ax.plot(at[curve.best], curve.student_loss[curve.best], "o", color=color, markersize=8, fillstyle="none")


def _house_style() -> "ModuleType":
    try:
        from distillaw.figures import style
    except ImportError as error:
        raise ConfigError(
            "--out draws with matplotlib, which is not installed: pip install 'distillaw[report]'"
        ) from error
    return style


def _write(folder: Path, name: str, figure: "Figure", rows: Iterable[Mapping[str, object]]) -> list[Path]:
    from distillaw.figures.files import save_all

    drawn, table = save_all(figure, folder, name, dpi=110), folder / f"{name}.csv"
    write_text(table, csv_text(rows))
    return [*drawn, table]
