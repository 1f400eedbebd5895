"""`distillaw map`: where distilling pays, the best teachers, what the compute goes into; text, arrays, figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from cyclopts import Parameter

from distillaw.accounting.family import PAPER_CONTEXT, PAPER_VOCAB, FixedAspect
from distillaw.accounting.scenarios import Scenario
from distillaw.cli.console import print_table
from distillaw.cli.options import LawNames, Number, OutFolder, Text, Whole, flag
from distillaw.cli.output import Output
from distillaw.cli.typed import refuse_idle, typed_options
from distillaw.errors import ConfigError
from distillaw.planning.map_grid import Laws, Terms, laws_for_map
from distillaw.planning.maps import GridMap, Quantity, allocation_map, gain_map, teacher_map
from distillaw.planning.optimum import PAPER_BOUNDS
from distillaw.planning.situation import SMALLEST_RATIO, check_plausible, check_trained
from distillaw.quantities import format_count, format_flop, parse_count
from distillaw.table import Table, number

Kind = Literal["gain", "teacher", "allocation"]
_RANGES = {"student": "100M..100B", "tokens": "1B..10T", "compute": "1e19..1e25"}
_UNITS = {"tokens": "tokens", "teacher_tokens": "tokens", "compute": "FLOP", "teacher_loss": "nats/token"}
"""Of what is asked; of all else, parameters."""
_DRAWN, _PRINTED = (200, 200), (25, 25)
"""Cells of a map that is written, and of one that is only printed, where nobody sees more."""
_MOST_CELLS = 4_000_000
"""32 MB for each layer."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """What is drawn; a kind refuses what means nothing to it, lest someone believes that it did."""

    scenario: Literal["best-case", "inference", "pretraining", "pretraining-inference"] | None = None
    """Who pays for the teacher; pretraining-inference by default."""
    student: Text | None = None
    """Non-embedding parameters: a range such as 100M..100B; one size for allocation."""
    tokens: Text | None = None
    """Tokens of the student: a range such as 1B..10T."""
    compute: Text | None = None
    """A range of FLOP, e.g. 1e19..1e25."""
    teacher_loss: Number | None = None
    """gain: loss of a given teacher in nats/token; without it, the best teacher of each cell."""
    teacher_params: Text | None = None
    """gain: size of a given teacher (with --teacher-tokens)."""
    teacher_tokens: Number | None = None
    """Tokens of the given teacher."""
    max_teacher_tokens: Number | None = None
    """The most tokens a teacher may be trained on; by default 1e17, as in the paper."""
    vocab: Whole | None = None
    """Vocabulary, for counting FLOP; 32768 by default."""
    context: Whole | None = None
    """Training context in tokens, for counting FLOP; 4096 by default."""

    def span(self, name: str, count: int) -> np.ndarray:
        """Values in equal ratios over a range such as 100M..100B."""
        typed, option = getattr(self, name) or _RANGES[name], flag(name)
        ends = typed.split("..")
        if len(ends) != 2:
            raise ConfigError(f"{option}: got {typed!r}; write a range of two numbers, e.g. {option} 100M..100B")
        low, high = (_plausible(name, parse_count(end, name=option)) for end in ends)
        if low >= high:
            raise ConfigError(f"{option}: got {typed!r}; the first number must be the smaller one")
        return np.geomspace(low, high, count)

    def one(self, name: str, what: str, example: str) -> float:
        """A single number that this kind needs."""
        typed, option = getattr(self, name), flag(name)
        if typed is None or ".." in typed:
            got = "" if typed is None else f", not the range {typed!r}"
            raise ConfigError(f"{option}: name {what} as one number{got}, e.g. {option} {example}")
        return _plausible(name, parse_count(typed, name=option))

    def budgets(self, params: float, count: int) -> np.ndarray:
        """Budgets, the largest of which trains the (smallest) student at all: C = 6 N D."""
        values = self.span("compute", count)
        check_trained(params, SMALLEST_RATIO * params)
        if values[-1] < 6 * params * SMALLEST_RATIO * params:
            raise ConfigError(
                f"--compute: {format_flop(values[-1])} gives a {format_count(params)} student less than "
                f"{SMALLEST_RATIO} tokens per parameter, where nothing is learnt that a law describes; ask for more"
            )
        return values

    def terms(self) -> "Terms":
        """Who pays for which teachers."""
        least, most = PAPER_BOUNDS[0], self.max_teacher_tokens or PAPER_BOUNDS[1]
        if most <= least:
            raise ConfigError(
                f"--max-teacher-tokens: got {most:g}; teachers of {least:g} tokens and more are searched, so allow "
                "more than that, e.g. 30T"
            )
        sizes = {"context": self.context or PAPER_CONTEXT, "vocab": self.vocab or PAPER_VOCAB}
        forward = partial(FixedAspect().forward_flops, **sizes)
        scenario = Scenario[(self.scenario or "pretraining-inference").upper().replace("-", "_")]
        return Terms(scenario=scenario, forward=forward, teacher_tokens=(None, most))


def draw_map(
    kind: Kind,
    /,
    *,
    law: LawNames | None = None,
    asked: MapOptions = MapOptions(),
    size: Text | None = None,
    out: OutFolder | None = None,
    output: Output = Output(),
) -> None:
    """Draw a map by one or several laws: as text, or as CSV, arrays and figures.

    Args:
        kind: gain (distilling against training alone, over student size and tokens); teacher (the best teacher over
            student size and compute); allocation (shares of the compute, for one student). The loss of one student over
            the size of its teacher is what `distillaw gap` answers.
        law: a published law (repeatable), or the file of one fitted law; by default surrogate-s1 to -s3 together.
        asked: what is drawn.
        size: rows x columns, e.g. 200x200, or one number for both, and for the one axis of allocation; by default
            25x25 as text, 200x200 with --out.
        out: folder for CSV, arrays (npz), meta data (json) and figures (SVG and PNG).
    """
    make, takes = _MAPS[kind]
    others = {name for _, names in _MAPS.values() for name in names} - takes
    refuse_idle(map(flag, sorted(others)), f"a map of kind {kind} takes {', '.join(map(flag, sorted(takes)))}")
    if size is not None and "x" in size.lower() and kind == "allocation":
        raise ConfigError(f"--size {size}: a map of kind {kind} has one axis; give one number, e.g. --size 25")
    laws = laws_for_map(law or ())
    with output.working("mapping"):
        found = make(laws, asked, _size(size, _PRINTED if out is None else _DRAWN))
        files = [] if out is None else _save(found, out)
    for warning in laws.warnings:
        output.say(f"WARNING: {warning}")

    def show() -> None:
        _print(found, most=_WIDEST if size is not None else None)
        for path in files:
            print(f"wrote {path}")

    cells = {} if out is not None else {"cells": _cells(found)}
    output.answer({**found.to_json(), "files": [str(path) for path in files], **cells}, show)
    again = f"distillaw map {kind}{typed_options(without=('--size',))} --out maps"
    output.suggest(again if out is None else "distillaw plan --help")


def _gain(laws: "Laws", asked: MapOptions, size: tuple[int, int]) -> "GridMap":
    if (asked.teacher_params is None) != (asked.teacher_tokens is None):
        raise ConfigError("a given teacher needs both --teacher-params and --teacher-tokens, or --teacher-loss alone")
    teacher = None
    if asked.teacher_params is not None and asked.teacher_tokens is not None:
        params = parse_count(asked.teacher_params, name="--teacher-params")
        teacher = _plausible("teacher_params", params), _plausible("teacher_tokens", asked.teacher_tokens)
    loss = asked.teacher_loss
    students, tokens = asked.span("student", size[0]), asked.span("tokens", size[1])
    check_trained(students[0], tokens[-1])
    if teacher is not None:
        check_trained(*teacher, who="teacher")
    return gain_map(
        laws,
        student_params=students,
        student_tokens=tokens,
        teacher=teacher,
        teacher_loss=loss and _plausible("teacher_loss", loss),
    )


def _teacher(laws: "Laws", asked: MapOptions, size: tuple[int, int]) -> "GridMap":
    students = asked.span("student", size[0])
    compute = asked.budgets(students[0], size[1])
    return teacher_map(laws, student_params=students, compute=compute, terms=asked.terms())


def _allocation(laws: "Laws", asked: MapOptions, size: tuple[int, int]) -> "GridMap":
    student = asked.one("student", "the student whose compute is divided", "1B")
    compute = asked.budgets(student, size[1])
    return allocation_map(laws, student_params=student, compute=compute, terms=asked.terms())


_OF_COMPUTE = {"student", "compute", "scenario", "max_teacher_tokens", "vocab", "context"}
_MAPS: Mapping[Kind, tuple[Callable[["Laws", MapOptions, tuple[int, int]], "GridMap"], set[str]]] = {
    "gain": (_gain, {"student", "tokens", "teacher_params", "teacher_tokens", "teacher_loss"}),
    "teacher": (_teacher, _OF_COMPUTE),
    "allocation": (_allocation, _OF_COMPUTE),
}
"""Kind -> what makes its map, and the options that mean something to it."""


def _plausible(name: str, value: float) -> float:
    """The value, unless no model, corpus or machine can be so large."""
    check_plausible(flag(name), value, _UNITS.get(name, "parameters"))
    return value


def _size(typed: str | None, default: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns from 200x100, or one number for both."""
    if typed is None:
        return default
    parts = typed.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"--size: got {typed!r}; write rows x columns such as 200x100, or one number for both")
    rows, columns = int(parts[0]), int(parts[-1])
    if min(rows, columns) < 3 or rows * columns > _MOST_CELLS:
        raise ConfigError(f"--size: got {typed!r}; at least 3 along each axis and at most {_MOST_CELLS:g} cells")
    return rows, columns


def _save(found: "GridMap", folder: Path) -> list[Path]:
    try:
        from distillaw.figures.maps import save_map
    except ImportError as error:
        raise ConfigError(
            "--out draws with matplotlib, which is not installed: pip install 'distillaw[report]'"
        ) from error
    return found.save(folder) + save_map(found, folder)


def _cells(found: "GridMap") -> dict[str, object]:
    """Coordinates, layers and flags as nested lists; null where there is no answer."""
    layers = {name: np.where(np.isfinite(v.values), v.values, None).tolist() for name, v in found.layers.items()}
    axes = {axis.name: axis.values.tolist() for axis in (found.y, found.x) if axis is not None}
    return {**axes, **layers, "inside_range": found.inside_range.tolist()}


# --- as text ------------------------------------------------------------------------------------------------


_ROWS, _COLUMNS, _LINES = 9, 8, 13
"""What 80 columns and half a screen hold."""
_WIDEST = 25
"""Cells along an axis that are printed where a size was asked for."""


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _count(value: float) -> str:
    return format_count(value, digits=2) if value < 1e15 else f"{value:.0e}".replace("e+", "e")


_SHOWN: dict[str, Callable[[float], str]] = {
    "student_share": _percent,
    "logits_share": _percent,
    "teacher_share": _percent,
    "teacher_loss": "{:z.3f}".format,
    "teacher_params": _count,
    "teacher_tokens": _count,
    "student_tokens": _count,
    "student_loss": "{:z.3f}".format,
    "gain": "{:+z.3f}".format,
}
"""How the layers are written."""
_LAYERS = {
    "gain": ("gain",),
    "teacher": ("teacher_loss", "teacher_params", "teacher_tokens", "gain"),
    "allocation": (
        *("student_share", "logits_share", "teacher_share", "teacher_params", "teacher_tokens"),
        *("student_tokens", "student_loss", "gain"),
    ),
}
"""Kind -> layers that are printed, in order."""


def _print(found: "GridMap", *, most: int | None) -> None:
    """Tables of `most` rows and columns at most, or of as many as a screen holds."""
    laws = found.meta["laws"]
    assert isinstance(laws, list)
    print(f"{found.title}\nlaws: {', '.join(laws)}")
    if "scenario" in found.meta:
        print(f"scenario: {found.meta['scenario']}")
    names = _LAYERS[found.kind]
    if found.y is None:
        print()
        print_table(_listed(found, names, _some(found.shape[0], most or _LINES)))
    else:
        rows, columns = _some(found.shape[0], most or _ROWS), _some(found.shape[1], most or _COLUMNS)
        for name in names:
            layer = found.layers[name]
            print(f"\n{layer.label}, {layer.unit}; {found.y.label} down, {found.x.label} across")
            heads = [number(""), *(number(_coordinate(found.x, j)) for j in columns)]
            cells = [[_cell(found, name, i, j) for j in columns] for i in rows[::-1]]
            places = [_count(found.y.values[i]) for i in rows[::-1]]
            print_table(Table(heads, [[place, *row] for place, row in zip(places, cells, strict=True)]))
    print()
    if most is not None and max(found.shape) > most:
        print(f"{most} cells along an axis are shown; --json has all")
    if not found.inside_range.all():
        print("* outside the range in which the laws were fitted")
    if found.beyond.any():
        print("** so far outside that plan decides nothing by them")


def _listed(found: "GridMap", names: Sequence[str], places: np.ndarray) -> Table:
    """A map of one axis: a row for each place, a column for each layer."""
    columns = [number(found.x.label), *(number(found.layers[name].label, _SHOWN[name], missing="-") for name in names)]
    rows = [[_coordinate(found.x, j) + _mark(found, j), *(float(found[name][j]) for name in names)] for j in places]
    return Table(columns, rows)


def _cell(found: "GridMap", name: str, *at: int) -> str:
    value = float(found[name][at])
    return _SHOWN[name](value) + _mark(found, *at) if np.isfinite(value) else "-"


def _mark(found: "GridMap", *at: int) -> str:
    """What is said of the range of one cell."""
    return "**" if found.beyond[at] else "" if found.inside_range[at] else "*"


def _coordinate(axis: "Quantity", j: int) -> str:
    value = float(axis.values[j])
    return f"{value:.1e}".replace("e+", "e") if axis.unit == "FLOP" else _count(value)


def _some(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
