"""`distillaw toys kernel | mapping`: the capacity gap in its simplest form, drawn."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from distillaw.cli.console import print_table
from distillaw.cli.options import OutFolder, Several, Whole
from distillaw.cli.output import Output
from distillaw.cli.progress import metered
from distillaw.errors import ConfigError
from distillaw.quantities import format_seconds
from distillaw.runs.process import available_cores
from distillaw.table import Table, number, text
from distillaw.toys.draw import write_kernel, write_mapping
from distillaw.toys.kernel import KernelCurves, draw_target, make_curves

if TYPE_CHECKING:
    from distillaw.toys.grid import Change, Grid, ToyCurve

app = App(name="toys", help="Compute the capacity gap in its simplest form: a closed form and small MLPs.")

Real = Annotated[float, Parameter(allow_leading_hyphen=True)]
Integer = Annotated[int, Parameter(allow_leading_hyphen=True)]
Counts = Annotated[list[Whole] | None, Several]
PUBLISHED_STUDENTS = (300, 400, 500, 600, 700, 800)
"""Of the kernel regression in Busbridge et al. 2025, appendix C (docs/toys.md)."""
_LARGEST_TARGET = 10**6
"""Coefficients of a target: every teacher up to it is computed and drawn."""
_LARGEST_WIDTH = 4096
"""Of a network: eight times the widest one published (512)."""


@app.command
def kernel(
    *,
    size: Whole = 1000,
    teacher_budget: Real = 5.0,
    student_budget: Real = 4.5,
    students: Counts = None,
    seed: Integer = 0,
    out: OutFolder | None = None,
    output: Output = Output(),
) -> None:
    """Compute kernel regression: a teacher and a student with norm budgets, in closed form.

    The published setting by default.

    Args:
        size: coefficients p of the target, uniform on [-1, 1]; teachers of size 1 to p.
        teacher_budget: T, the largest norm of a teacher's coefficients; below the target's.
        student_budget: D, the same for a student; at most T.
        students: sizes n; 300 to 800 by hundreds unless given.
        seed: of the target; the published figure's is not known.
        out: a folder for kernel.svg, kernel.png and kernel.csv.
    """
    if size > _LARGEST_TARGET:
        raise ConfigError(f"--size {size}: every teacher up to it is drawn; give at most {_LARGEST_TARGET}")
    if students is None and size < max(PUBLISHED_STUDENTS):
        raise ConfigError(
            f"--size {size}: the published students have up to {max(PUBLISHED_STUDENTS)} coefficients of the target's; "
            "give smaller ones, e.g. --students 3 5"
        )
    curves = make_curves(
        draw_target(size, seed=seed),
        students=PUBLISHED_STUDENTS if students is None else tuple(students),
        teacher_budget=teacher_budget,
        student_budget=student_budget,
    )
    files = []
    if out is not None:
        files = [str(path) for path in write_kernel(out, curves)]
    document = _kernel_document(curves, seed)
    output.answer(document | {"files": files}, _print_kernel, document)
    _print_end(files, "distillaw toys kernel", output)


def _kernel_document(curves: "KernelCurves", seed: int) -> dict[str, object]:
    rows = zip(curves.n.tolist(), curves.flat_until.tolist(), curves.student_error, strict=True)
    return {
        "size": len(curves.m),
        "teacher_budget": curves.teacher_budget,
        "student_budget": curves.student_budget,
        "seed": seed,
        "budget_ratio_squared": (curves.teacher_budget / curves.student_budget) ** 2,
        "students": [
            {
                "n": n,
                "flat_until": until,
                "flat_ratio": until / n,
                "error_at_one": float(error[0]),
                "error_at_n": float(error[n - 1]),
                "error_at_last": float(error[-1]),
                "rise": float(error[-1] - error[n - 1]),
                "teacher_error_at_n": float(curves.teacher_error[n - 1]),
                "teacher_error_at_last": float(curves.teacher_error[-1]),
            }
            for n, until, error in rows
        ],
    }


def _print_kernel(document: Mapping[str, Any]) -> None:
    last, ratio = document["size"], document["budget_ratio_squared"]
    columns = [
        number("student n", of=itemgetter("n")),
        number("flat n to m*", of=lambda row: f"{row['n']} to {row['flat_until']}"),
        number("m*/n", ".3f", of=itemgetter("flat_ratio")),
        number("error at m=1", ".3f", of=itemgetter("error_at_one")),
        number("at m=n", ".3f", of=itemgetter("error_at_n")),
        number(f"at m={last}", ".3f", of=itemgetter("error_at_last")),
        number("rise", ".3f", of=itemgetter("rise")),
        number("teacher's at m=n", ".3f", of=itemgetter("teacher_error_at_n")),
        number(f"at m={last}", ".3f", of=itemgetter("teacher_error_at_last")),
    ]
    budgets = f"T = {document['teacher_budget']:g}, D = {document['student_budget']:g}"
    print(f"target of {last} coefficients, {budgets}\n")
    print_table(Table.of(columns, document["students"]))
    print(
        "\nThe teacher gets better with every m. A student of size n is best under teachers of size n to m*; where "
        f"both budgets bind, m* is about (T/D)^2 n = {ratio:.3f} n. From there on a better teacher makes it worse: "
        "the teacher spreads its budget over coefficients the student cannot represent, and those it can represent "
        "shrink below what it could afford."
    )


@app.command
def mapping(
    *,
    full: Annotated[bool, Parameter(negative="")] = False,
    num_classes: Whole | None = None,
    sampler: Literal["balanced", "uniform"] | None = None,
    students: Counts = None,
    teacher_widths: Counts = None,
    long_width: Whole | None = None,
    teacher_steps: Counts = None,
    trials: Whole | None = None,
    seed: Integer | None = None,
    workers: Integer = 0,
    out: OutFolder | None = None,
    output: Output = Output(),
) -> None:
    """Train small MLPs on the mapping problem: students under teachers that grow, or train longer.

    About a minute on 2 cores.

    Args:
        full: start from the paper's grid instead of the reduced one; about an hour on 2 cores.
        num_classes: n, length of the context, 2 to 10.
        sampler: balanced points at a zero half of the time; uniform gives each valid question the same chance.
        students: widths of the students, rising.
        teacher_widths: widths on the size axis, rising; each trained on max(500 batches, 20 samples a parameter).
        long_width: the width of the teachers on the training axis.
        teacher_steps: steps on the training axis, rising, batches of 512.
        trials: repetitions with other weights and samples; errors and bands are over them.
        seed: of everything.
        workers: processes, one thread each; 0 takes all cores.
        out: a folder for mapping.svg, mapping.png and mapping.csv.
    """
    from distillaw.toys.grid import PUBLISHED, REDUCED, labels_loss, run_grid, summarise

    lists = {"students": students, "teacher_widths": teacher_widths, "teacher_steps": teacher_steps}
    asked = {"num_classes": num_classes, "sampler": sampler, "long_width": long_width, "trials": trials, "seed": seed}
    asked |= {name: typed and tuple(typed) for name, typed in lists.items()}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    grid = replace(PUBLISHED if full else REDUCED, **given)
    _check_mapping(grid, workers)
    processes = min(grid.trials, workers or available_cores())
    rounds = -(-grid.trials // processes)
    seconds = grid.core_seconds / grid.trials * rounds
    output.say(f"{grid.trials} trials on {processes} processes: about {format_seconds(seconds)} with a core for each")
    with metered("mapping", grid.trials, "trials", quiet=output.quiet) as meter:

        def ended(trial: int) -> None:
            meter.note(f"trial {trial} has ended")
            meter.advance(1)

        outcomes = run_grid(grid, workers=processes, done=ended)
    curves = summarise(outcomes)
    files = []
    if out is not None:
        files = [str(path) for path in write_mapping(out, outcomes, curves)]
    labels = {width: labels_loss(outcomes, width) for width in grid.students}
    document = {
        "grid": asdict(grid),
        "curves": [asdict(curve) | {"is_interior": curve.is_interior} for curve in curves],
        "labels": [{"student_width": width, "student_loss": loss} for width, loss in labels.items()],
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "files": files,
    }
    output.answer(document, _print_mapping, grid, curves, labels)
    _print_end(files, "distillaw toys mapping", output)


def _check_mapping(grid: "Grid", workers: int) -> None:
    widest = {"students": max(grid.students), "teacher-widths": max(grid.teacher_widths), "long-width": grid.long_width}
    for name, width in widest.items():
        if width > _LARGEST_WIDTH:
            raise ConfigError(f"--{name} {width}: these are toys; give widths up to {_LARGEST_WIDTH}")
    if workers < 0:
        raise ConfigError(f"--workers {workers}: give 0 (all cores) or a number of processes")


def _print_mapping(grid: "Grid", curves: "list[ToyCurve]", labels: Mapping[int, float]) -> None:
    print(
        f"{grid.num_classes} classes (guessing costs {math.log(grid.num_classes):.3f} nats), {grid.sampler} sampler, "
        f"{grid.trials} trials; losses against the true labels, mean over trials"
    )
    for axis in dict.fromkeys(curve.axis for curve in curves):
        _print_axis([curve for curve in curves if curve.axis == axis])
    losses = ", ".join(f"{loss:.4f} (width {width})" for width, loss in labels.items())
    print(f"\nthe same students taught by the labels: {losses}")
    print(
        "* smallest mean. gain, cost: from the weakest teacher to the best, from the best to the strongest; +- one "
        "standard error,\npaired over trials, the best teacher of a trial chosen on the others. U: both are clear at "
        "95 %."
    )


def _print_axis(curves: "list[ToyCurve]") -> None:
    axis, teachers = curves[0].axis, curves[0].teachers
    widths = [number(str(getattr(teacher, axis))) for teacher in teachers]
    columns = [text(f"teacher's {axis}"), *widths, *map(text, ("gain", "cost", "minimum", "shape"))]
    rows = [["teacher's loss", *(f"{loss:.4f} " for loss in curves[0].teacher_loss), "", "", "", ""]]
    for curve in curves:
        losses = enumerate(curve.student_loss)
        cells = [f"{loss:.4f}{'*' if place == curve.best else ' '}" for place, loss in losses]
        where = "interior" if curve.is_interior else "at the end"
        changes = (_change(curve.fall), _change(curve.rise))
        rows.append([f"student of {curve.student_width}", *cells, *changes, where, curve.shape])
    print()
    print_table(Table(columns, rows))


def _change(change: "Change") -> str:
    error = "?" if change.error is None else f"{change.error:.4f}"
    return f"{change.mean:.4f} +- {error}"


def _print_end(files: list[str], command: str, output: Output) -> None:
    for path in files if not output.json else ():
        print(f"wrote {path}")
    if files:
        output.suggest("distillaw toys --help", first="docs/toys.md says what it shows")
    else:
        output.suggest(f"{command} --out toys", first="docs/toys.md says why; to draw it:")
