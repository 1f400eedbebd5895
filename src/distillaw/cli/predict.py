"""`distillaw predict`: the loss of one student under one law, with its interval and its doubts."""

import textwrap
from typing import Annotated, Literal

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.errors import ConfigError
from distillaw.fitting.query import load_law, predict_student
from distillaw.quantities import format_count, parse_count


def predict(
    *,
    law: str,
    student_params: str,
    student_tokens: str | None = None,
    teacher_loss: str | None = None,
    teacher_params: str | None = None,
    teacher_tokens: str | None = None,
    supervised_loss: str | None = None,
    level: float = 0.9,
    params_convention: Literal["non-embedding", "total"] = "non-embedding",
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Predict the loss of one student, distilled or not.

    Args:
        law: a name from `distillaw laws`, or the JSON file that `distillaw fit --out` wrote.
        student_params: non-embedding parameters of the student, e.g. 300M.
        student_tokens: tokens it is trained on, e.g. 6B.
        teacher_loss: the teacher's loss in nats per token; or give its size and tokens.
        teacher_params: non-embedding parameters of the teacher.
        teacher_tokens: tokens the teacher was trained on.
        supervised_loss: the student's own loss without a teacher, where it was measured.
        level: coverage of the interval (fitted laws only).
        params_convention: what the counts given here hold; must be that of a fitted law.
        json_: print one JSON object instead.
    """
    if teacher_loss is not None and (teacher_params or teacher_tokens):
        raise ConfigError("give either --teacher-loss, or --teacher-params with --teacher-tokens, not both")
    if bool(teacher_params) != bool(teacher_tokens):
        raise ConfigError(
            "--teacher-params and --teacher-tokens belong together: they say what the teacher's loss is"
        )
    if not 0 < level < 1:
        raise ConfigError(f"--level: got {level}; give the coverage as a share between 0 and 1, e.g. 0.9")
    answer = predict_student(
        law,
        load_law(law),
        student_params=parse_count(student_params, name="--student-params"),
        student_tokens=_count(student_tokens, "--student-tokens"),
        teacher_loss=_count(teacher_loss, "--teacher-loss"),
        teacher_params=_count(teacher_params, "--teacher-params"),
        teacher_tokens=_count(teacher_tokens, "--teacher-tokens"),
        supervised_loss=_count(supervised_loss, "--supervised-loss"),
        level=level,
        params_convention=params_convention,
    )
    if json_:
        print_json(answer)
        return
    _print(answer)
    print(f"\nnext: distillaw laws show {law}")


def _count(text: str | None, name: str) -> float | None:
    return None if text is None else parse_count(text, name=name)


def _print(answer: dict) -> None:
    for warning in answer["warnings"]:
        print(
            f"WARNING: {textwrap.shorten(warning, 200, placeholder=' ... (whole text: distillaw laws show)')}"
        )
    if "best_teacher_params" in answer:
        interval = answer["best_teacher_interval"]
        band = f"   [{format_count(interval[0])}, {format_count(interval[1])}]" if interval else ""
        print(f"best teacher size   {format_count(answer['best_teacher_params'])} parameters{band}")
        return
    if not answer["inside_range"]:
        print("EXTRAPOLATED: outside the range of the runs behind this law")
    for label, key in (("teacher loss", "teacher_loss"), ("supervised loss", "supervised_loss")):
        if answer[key] is not None:
            print(f"{label:<20}{answer[key]:.4f} nats/token")
    interval = answer["interval"]
    band = (
        f"   [{interval[0]:.4f}, {interval[1]:.4f}]"
        if interval
        else "   (no interval: published point values)"
    )
    print(f"{'student loss':<20}{answer['student_loss']:.4f} nats/token{band}")
    if answer["teacher_loss"] is not None and answer["supervised_loss"] is not None:
        print(
            f"{'gain of distilling':<20}{answer['supervised_loss'] - answer['student_loss']:+.4f} nats/token"
        )
