"""`distillaw predict`: the loss of one student under one law, with its interval and its doubts."""

import textwrap
from typing import Annotated, Literal

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count, count, optional_count
from distillaw.errors import ConfigError, UnitError
from distillaw.fitting.query import load_law, predict_student
from distillaw.fitting.result import FitResult, convention_of
from distillaw.laws.bands import Band, published_band
from distillaw.laws.published import PublishedLaw
from distillaw.quantities import format_count, parse_count

_LOSSES = (1e-3, 20.0)
"""Nats per token; a uniform guess among a million tokens costs 13.8."""


def predict(
    *,
    law: str,
    student_params: Count,
    student_tokens: Count | None = None,
    unique_tokens: Count | None = None,
    teacher_loss: Count | None = None,
    teacher_params: Count | None = None,
    teacher_tokens: Count | None = None,
    supervised_loss: Count | None = None,
    level: float = 0.9,
    params_convention: Literal["non-embedding", "total"] = "non-embedding",
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Predict the loss of one student, distilled or not.

    Args:
        law: a name from `distillaw laws`, or the JSON file that `distillaw fit --out` wrote.
        student_params: parameters of the student, e.g. 300M; non-embedding unless --params-convention says otherwise.
        student_tokens: tokens it is trained on, e.g. 6B; repeats included.
        unique_tokens: distinct tokens among them, where the data are repeated and the law corrects for it.
        teacher_loss: the teacher's loss in nats per token; or give its size and tokens.
        teacher_params: parameters of the teacher, counted like the student's.
        teacher_tokens: tokens the teacher was trained on.
        supervised_loss: the student's own loss without a teacher, where it was measured.
        level: coverage of the interval.
        params_convention: what the counts given here hold; must be that of the law.
        json_: print one JSON object instead.
    """
    teacher = {
        "--teacher-loss": teacher_loss,
        "--teacher-params": teacher_params,
        "--teacher-tokens": teacher_tokens,
    }
    _check_teacher(**{name.removeprefix("--").replace("-", "_"): value for name, value in teacher.items()})
    if not 0 < level < 1:
        raise ConfigError(f"--level: got {level}; give the coverage as a share between 0 and 1, e.g. 0.9")
    known = load_law(law)
    _refuse_mixed(law, known, params_convention)
    asked = teacher | {"--student-tokens": student_tokens, "--supervised-loss": supervised_loss}
    _refuse_unused(law, known, asked | {"--unique-tokens": unique_tokens})
    answer = predict_student(
        law,
        known,
        student_params=count(student_params, name="--student-params"),
        student_tokens=optional_count(student_tokens, name="--student-tokens"),
        teacher_loss=_loss(teacher_loss, "--teacher-loss"),
        teacher_params=optional_count(teacher_params, name="--teacher-params"),
        teacher_tokens=optional_count(teacher_tokens, name="--teacher-tokens"),
        supervised_loss=_loss(supervised_loss, "--supervised-loss"),
        level=level,
        params_convention=params_convention,
    )
    if isinstance(known, PublishedLaw) and known.capacity_gap is not None:
        answer["interval_meaning"] = f"none: {known.record.interval}"
    elif isinstance(known, PublishedLaw):
        assert student_tokens is not None  # or predict_student has refused
        cell = {"params": parse_count(student_params), "tokens": parse_count(student_tokens)}
        _add_band(answer, known, cell, optional_count(unique_tokens, name="--unique-tokens"), level)
    if json_:
        print_json(answer)
        return
    _print(answer)
    print(f"\nnext: distillaw laws show {law}")


def _check_teacher(teacher_loss: str | None, teacher_params: str | None, teacher_tokens: str | None) -> None:
    if teacher_loss is not None and (teacher_params is not None or teacher_tokens is not None):
        raise ConfigError("give either --teacher-loss, or --teacher-params with --teacher-tokens, not both")
    if (teacher_params is None) != (teacher_tokens is None):
        raise ConfigError(
            "--teacher-params and --teacher-tokens belong together: they say what the teacher's loss is"
        )


def _loss(text: str | None, name: str) -> float | None:
    """Nats per token."""
    value = None if text is None else parse_count(text, name=name)
    if value is not None and not _LOSSES[0] <= value <= _LOSSES[1]:
        raise ConfigError(
            f"{name}: got {text!r}; a loss is in nats per token, and guessing among a million tokens costs 13.8. "
            "Take the logarithm of a perplexity; multiply bits by 0.693"
        )
    return value


def _refuse_mixed(name: str, law: PublishedLaw | FitResult, asked: str) -> None:
    """A published law that counts other parameters than the question; a fitted one refuses by itself."""
    own = convention_of(law)
    if isinstance(law, PublishedLaw) and own is not None and own != asked:
        raise UnitError(
            f"{name} counts {own} parameters, the question {asked} ones, and the two differ by 5-30 %; give {own} "
            f"counts and say --params-convention {own} (`distillaw cost` prints both for a shape or a config)"
        )


def _refuse_unused(name: str, law: PublishedLaw | FitResult, asked: dict[str, str | None]) -> None:
    """An option that would silently do nothing is an error."""
    given = [option for option, value in asked.items() if value is not None]
    if isinstance(law, PublishedLaw) and law.capacity_gap is not None:
        useless = [option for option in given if option != "--student-tokens"]
        if useless:
            raise ConfigError(
                f"{useless[0]}: {name} gives the best teacher's size for a student's size and takes nothing else"
            )
    if "--unique-tokens" in given and (isinstance(law, FitResult) or law.repeated is None):
        raise ConfigError(
            f"--unique-tokens: {name} does not correct for repeated data; muennighoff2023 does, on its own loss"
        )


def _add_band(
    answer: dict, law: PublishedLaw, cell: dict[str, float], unique: float | None, level: float
) -> None:
    """The interval of a published law's prediction, after the correction for repeated data where asked."""
    part = "supervised" if answer["teacher_loss"] is None else "distillation"
    coords = dict(cell)
    if part == "distillation":
        coords = {f"student_{name}": value for name, value in cell.items()}
        coords["teacher_loss"] = answer["teacher_loss"]
        if law.supervised is None or answer["supervised_loss"] != float(law.supervised(**cell)):
            coords["supervised_loss"] = answer["supervised_loss"]
    elif unique is not None and law.repeated is not None:
        part, coords = "repeated", cell | {"unique_tokens": unique}
        answer["supervised_loss"] = answer["student_loss"] = float(law.repeated(**coords))
        effective = law.repeated.correction.effective_tokens(tokens=cell["tokens"], unique_tokens=unique)
        answer["effective_tokens"] = float(effective)
    band = published_band(law, part=part, coords=coords, is_inside=bool(answer["inside_range"]), level=level)
    answer |= _band_keys(band)
    if band.interval is not None:
        answer["level"] = level


def _band_keys(band: Band) -> dict[str, object]:
    return {
        "interval": None if band.interval is None else list(band.interval),
        "interval_meaning": band.meaning,
    }


def _print(answer: dict) -> None:
    for warning in answer["warnings"]:
        print(
            f"WARNING: {textwrap.shorten(warning, 200, placeholder=' ... (whole text: distillaw laws show)')}"
        )
    if "best_teacher_params" in answer:
        interval = answer["best_teacher_interval"]
        band = f"   [{format_count(interval[0])}, {format_count(interval[1])}]" if interval else ""
        if not answer["inside_range"]:
            print("EXTRAPOLATED: outside the range of the runs behind this law")
        print(f"best teacher size   {format_count(answer['best_teacher_params'])} parameters{band}")
        return
    if not answer["inside_range"]:
        print("EXTRAPOLATED: outside the range of the runs behind this law")
    if "effective_tokens" in answer:
        print(f"{'effective tokens':<20}{format_count(answer['effective_tokens'], digits=4)}")
    for label, key in (("teacher loss", "teacher_loss"), ("supervised loss", "supervised_loss")):
        if answer[key] is not None:
            print(f"{label:<20}{answer[key]:.4f} nats/token")
    interval = answer["interval"]
    band = f"   [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "   (no interval)"
    print(f"{'student loss':<20}{answer['student_loss']:.4f} nats/token{band}")
    if "interval_meaning" in answer:
        print(
            textwrap.fill(
                f"interval: {answer['interval_meaning']}", 100, initial_indent="  ", subsequent_indent="    "
            )
        )
    if answer["teacher_loss"] is not None and answer["supervised_loss"] is not None:
        gain = answer["supervised_loss"] - answer["student_loss"]
        print(f"{'gain of distilling':<20}{gain:+.4f} nats/token")
