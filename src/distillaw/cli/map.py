"""`distillaw map`: where distilling pays, the best teachers, what the compute goes into; text, arrays, figures."""

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count, whole_count
from distillaw.cli.names import LawNames
from distillaw.cli.output import Output, check_place
from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean, format_count, format_flop, parse_count

if TYPE_CHECKING:
    from distillaw.planning.map_grid import Flops, Laws, Terms
    from distillaw.planning.maps import GridMap

Kind = Literal["gain", "teacher", "allocation", "teacher-size"]

_STUDENTS, _TOKENS, _COMPUTE, _TEACHERS = "100M..100B", "1B..10T", "1e19..1e25", "100M..1T"
_DRAWN, _PRINTED = (200, 200), (25, 25)
_MOST_CELLS = 4_000_000
"""32 MB for each layer."""
_OPTIONS = {
    "gain": {"student", "tokens", "teacher_loss", "teacher_params", "teacher_tokens"},
    "teacher": {"student", "compute", "scenario", "max_teacher_tokens", "vocab", "context"},
    "allocation": {"student", "compute", "scenario", "max_teacher_tokens", "vocab", "context"},
    "teacher-size": {"student", "tokens", "teacher_params", "teacher_tokens", "teacher_tokens_per_param"},
}
"""Options that mean something to a kind; others are refused, lest someone believes that they did."""


def draw_map(
    kind: Kind,
    /,
    *,
    law: LawNames | None = None,
    scenario: str | None = None,
    student: Count | None = None,
    tokens: Count | None = None,
    compute: Count | None = None,
    teacher_loss: float | None = None,
    teacher_params: Count | None = None,
    teacher_tokens: Count | None = None,
    teacher_tokens_per_param: float | None = None,
    max_teacher_tokens: Count | None = None,
    vocab: Count | None = None,
    context: Count | None = None,
    size: Count | None = None,
    out: Path | None = None,
    output: Output = Output(),
) -> None:
    """Draw a map by one or several laws: as text, or as CSV, arrays and figures.

    Args:
        kind: gain (distilling against training alone, over student size and tokens); teacher (the best teacher over
            student size and compute); allocation (shares of the compute, for one student); teacher-size (loss of one
            student over the size of its teacher).
        law: a published law (repeatable), or the file of one fitted law; by default surrogate-s1 to -s3 together.
        scenario: who pays for the teacher: best-case, inference, pretraining or pretraining-inference (default).
        student: non-embedding parameters: a range such as 100M..100B; one size for allocation and teacher-size.
        tokens: tokens of the student: a range such as 1B..10T; one number for teacher-size.
        compute: a range of FLOP, e.g. 1e19..1e25.
        teacher_loss: gain: loss of a given teacher in nats/token; without it, the best teacher of each cell.
        teacher_params: gain: size of a given teacher (with --teacher-tokens); teacher-size: a range of sizes.
        teacher_tokens: tokens of the given teacher; teacher-size: of every teacher.
        teacher_tokens_per_param: teacher-size: tokens per parameter of every teacher; 20 by default.
        max_teacher_tokens: the most tokens a teacher may be trained on; by default 1e17, as in the paper.
        vocab: vocabulary, for counting FLOP; 32768 by default.
        context: training context in tokens, for counting FLOP; 4096 by default.
        size: rows x columns, e.g. 200x200, or one number for both, and for the one axis of allocation and
            teacher-size; by default 25x25 as text, 200x200 with --out.
        out: folder for CSV, arrays (npz), meta data (json) and figures (SVG and PNG).
    """
    from distillaw.cli.map_view import text_map
    from distillaw.planning.map_grid import laws_for_map

    given = {
        "scenario": scenario,
        "student": student,
        "tokens": tokens,
        "compute": compute,
        "teacher_loss": teacher_loss,
        "teacher_params": teacher_params,
        "teacher_tokens": teacher_tokens,
        "teacher_tokens_per_param": teacher_tokens_per_param,
        "max_teacher_tokens": max_teacher_tokens,
        "vocab": vocab,
        "context": context,
    }
    asked = {name: str(value) for name, value in given.items() if value is not None}
    _refuse_unused(kind, asked)
    if size is not None and "x" in size.lower() and kind in ("allocation", "teacher-size"):
        raise ConfigError(
            f"--size {size}: a map of kind {kind} has one axis; give one number, e.g. --size 25"
        )
    check_place("--out", out, is_folder=True)
    laws = laws_for_map(law or ())
    with output.working("mapping"):
        found = _MAKERS[kind](laws, asked, _size(size, _PRINTED if out is None else _DRAWN))
        files = [] if out is None else _save(found, out)
    for warning in laws.warnings:
        output.say(f"WARNING: {warning}")
    if output.json:
        cells = {} if out is not None else {"cells": _cells(found)}
        print_json({**found.to_json(), "files": [str(path) for path in files], **cells})
        return
    print(text_map(found, whole=size is not None))
    for path in files:
        print(f"wrote {path}")
    again = [word for name in law or () for word in ("--law", name)]
    again += [word for name, text in asked.items() for word in (f"--{_option(name)}", text)]
    output.suggest(
        f"distillaw map {shlex.join([kind, *again])} --out maps" if out is None else "distillaw plan --help"
    )


def _gain(laws: "Laws", asked: dict[str, str], size: tuple[int, int]) -> "GridMap":
    from distillaw.planning.maps import gain_map
    from distillaw.planning.situation import check_trained

    text = asked.get("teacher_loss")
    loss = None if text is None else _plausible(parse_count(text, name="--teacher-loss"), "--teacher-loss")
    sizes = [asked.get("teacher_params"), asked.get("teacher_tokens")]
    if (sizes[0] is None) != (sizes[1] is None):
        raise ConfigError(
            "a given teacher needs both --teacher-params and --teacher-tokens, or --teacher-loss alone"
        )
    teacher = None
    if sizes[0] is not None and sizes[1] is not None:
        teacher = (
            _plausible(parse_count(sizes[0], name="--teacher-params"), "--teacher-params"),
            _plausible(parse_count(sizes[1], name="--teacher-tokens"), "--teacher-tokens"),
        )
    students = _span(asked.get("student", _STUDENTS), "--student", size[0])
    tokens = _span(asked.get("tokens", _TOKENS), "--tokens", size[1])
    check_trained(students[0], tokens[-1])
    if teacher is not None:
        check_trained(*teacher, who="teacher")
    return gain_map(laws, student_params=students, student_tokens=tokens, teacher=teacher, teacher_loss=loss)


def _teacher(laws: "Laws", asked: dict[str, str], size: tuple[int, int]) -> "GridMap":
    from distillaw.planning.maps import teacher_map

    students = _span(asked.get("student", _STUDENTS), "--student", size[0])
    return teacher_map(
        laws, student_params=students, compute=_compute(asked, students[0], size[1]), terms=_terms(asked)
    )


def _allocation(laws: "Laws", asked: dict[str, str], size: tuple[int, int]) -> "GridMap":
    from distillaw.planning.maps import allocation_map

    student = _one(asked, "student", "the student whose compute is divided", "1B")
    return allocation_map(
        laws, student_params=student, compute=_compute(asked, student, size[1]), terms=_terms(asked)
    )


def _compute(asked: dict[str, str], params: float, count: int) -> np.ndarray:
    """Budgets, the largest of which trains the (smallest) student at all: C = 6 N D."""
    from distillaw.planning.situation import SMALLEST_RATIO, check_trained

    values = _span(asked.get("compute", _COMPUTE), "--compute", count)
    check_trained(params, SMALLEST_RATIO * params)
    if values[-1] < 6 * params * SMALLEST_RATIO * params:
        raise ConfigError(
            f"--compute: {format_flop(values[-1])} gives a {format_count(params)} student less than {SMALLEST_RATIO} "
            "tokens per parameter, where nothing is learnt that a law describes; ask for more"
        )
    return values


def _teacher_size(laws: "Laws", asked: dict[str, str], size: tuple[int, int]) -> "GridMap":
    from distillaw.planning.maps import teacher_size_map
    from distillaw.planning.situation import check_trained

    tokens, ratio = asked.get("teacher_tokens"), asked.get("teacher_tokens_per_param")
    student = _one(asked, "student", "the student that learns", "1B")
    student_tokens = _one(asked, "tokens", "its tokens", "20B")
    teachers = _span(asked.get("teacher_params", _TEACHERS), "--teacher-params", size[1])
    check_trained(student, student_tokens)
    for teacher in teachers[[0, -1]] if tokens is None else teachers[:1]:
        check_trained(
            teacher, _ratio(ratio or "20") * teacher if tokens is None else parse_count(tokens), who="teacher"
        )
    return teacher_size_map(
        laws,
        student_params=student,
        student_tokens=student_tokens,
        teacher_params=teachers,
        teacher_tokens=None
        if tokens is None
        else _plausible(parse_count(tokens, name="--teacher-tokens"), "--teacher-tokens"),
        teacher_tokens_per_param=_ratio(ratio) if ratio else (20.0 if tokens is None else None),
    )


def _ratio(text: str) -> float:
    return parse_count(text, name="--teacher-tokens-per-param")


_MAKERS: dict[str, Callable[["Laws", dict[str, str], tuple[int, int]], "GridMap"]] = {
    "gain": _gain,
    "teacher": _teacher,
    "allocation": _allocation,
    "teacher-size": _teacher_size,
}


def _refuse_unused(kind: str, asked: dict[str, str]) -> None:
    unused = [f"--{_option(name)}" for name in asked if name not in _OPTIONS[kind]]
    if unused:
        known = ", ".join(f"--{_option(name)}" for name in sorted(_OPTIONS[kind]))
        raise ConfigError(f"{', '.join(unused)}: does nothing in a map of kind {kind}; it takes {known}")


def _option(name: str) -> str:
    return name.replace("_", "-")


def _span(text: str, name: str, count: int) -> np.ndarray:
    """Values in equal ratios over a range such as 100M..100B."""
    ends = text.split("..")
    if len(ends) != 2:
        raise ConfigError(f"{name}: got {text!r}; write a range of two numbers, e.g. {name} 100M..100B")
    low, high = (_plausible(parse_count(end, name=name), name) for end in ends)
    if low >= high:
        raise ConfigError(f"{name}: got {text!r}; the first number must be the smaller one")
    return np.geomspace(low, high, count)


def _one(asked: dict[str, str], option: str, what: str, example: str) -> float:
    """A single number that this kind needs."""
    text = asked.get(option)
    if text is None or ".." in text:
        got = "" if text is None else f", not the range {text!r}"
        raise ConfigError(f"--{option}: name {what} as one number{got}, e.g. --{option} {example}")
    return _plausible(parse_count(text, name=f"--{option}"), f"--{option}")


def _plausible(value: float, option: str) -> float:
    """The value, unless no model, corpus or machine can be so large."""
    from distillaw.planning.situation import check_plausible

    unit = {
        "--tokens": "tokens",
        "--teacher-tokens": "tokens",
        "--compute": "FLOP",
        "--teacher-loss": "nats/token",
    }
    check_plausible(option, value, unit.get(option, "parameters"))
    return value


def _size(text: str | None, default: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns from 200x100, or one number for both."""
    if text is None:
        return default
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise ConfigError(
            f"--size: got {text!r}; write rows x columns such as 200x100, or one number for both"
        )
    rows, columns = int(parts[0]), int(parts[-1])
    if min(rows, columns) < 3 or rows * columns > _MOST_CELLS:
        raise ConfigError(
            f"--size: got {text!r}; at least 3 along each axis and at most {_MOST_CELLS:g} cells"
        )
    return rows, columns


def _terms(asked: dict[str, str]) -> "Terms":
    from distillaw.accounting.scenarios import Scenario
    from distillaw.planning.map_grid import Terms
    from distillaw.planning.optimum import PAPER_BOUNDS

    known = {s.name.lower().replace("_", "-"): s for s in Scenario}
    name = asked.get("scenario", "pretraining-inference")
    if name not in known:
        raise ConfigError(
            f"unknown cost scenario {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}"
        )
    most = asked.get("max_teacher_tokens")
    tokens = PAPER_BOUNDS[1] if most is None else parse_count(most, name="--max-teacher-tokens")
    if tokens <= PAPER_BOUNDS[0]:
        raise ConfigError(
            f"--max-teacher-tokens: got {most!r}; teachers of {PAPER_BOUNDS[0]:g} tokens and more are searched, so "
            "allow more than that, e.g. 30T"
        )
    return Terms(scenario=known[name], forward=_forward(asked), teacher_tokens=(None, tokens))


def _forward(asked: dict[str, str]) -> "Flops":
    """F(N) at the context and vocabulary asked for."""
    from distillaw.accounting.family import PAPER_CONTEXT, PAPER_VOCAB, FixedAspect

    sizes = {
        name: whole_count(asked.get(name), name=f"--{name}", default=default)
        for name, default in (("context", PAPER_CONTEXT), ("vocab", PAPER_VOCAB))
    }
    return partial(FixedAspect().forward_flops, **sizes)


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
    layers = {
        name: np.where(np.isfinite(v.values), v.values, None).tolist() for name, v in found.layers.items()
    }
    axes = {axis.name: axis.values.tolist() for axis in (found.y, found.x) if axis is not None}
    return {**axes, **layers, "inside_range": found.inside_range.tolist()}
