"""`distillaw predict`: the loss of one student under one law, with its interval and its doubts."""

import shlex
import textwrap
from typing import Annotated, Literal

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count, Number
from distillaw.cli.names import LawName, TeacherName
from distillaw.cli.output import Output
from distillaw.cli.typed import formerly, in_typed_words
from distillaw.errors import ConfigError
from distillaw.fitting.query import load_law, predict_student
from distillaw.quantities import format_count


def predict(
    *,
    law: LawName,
    student: Annotated[Count, formerly("--student-params")],
    tokens: Annotated[Count | None, formerly("--student-tokens")] = None,
    unique_tokens: Count | None = None,
    teacher: TeacherName | None = None,
    teacher_loss: Number | None = None,
    teacher_params: Count | None = None,
    teacher_tokens: Count | None = None,
    supervised_loss: Number | None = None,
    level: float = 0.9,
    params_convention: Literal["non-embedding", "total"] = "non-embedding",
    output: Output = Output(),
) -> None:
    """Predict the loss of one student, distilled or not.

    Args:
        law: a name from `distillaw laws`, or the JSON file that `distillaw fit --out` wrote.
        student: parameters of the student, e.g. 300M; non-embedding unless --params-convention says otherwise.
        tokens: tokens it is trained on, e.g. 6B; repeats included.
        unique_tokens: distinct tokens among them, where the data are repeated and the law corrects for it.
        teacher: name of a real model (`distillaw teachers` lists them), whose loss the law estimates from its size and
            tokens; or the next, or the two after it.
        teacher_loss: the teacher's loss in nats per token; or give its size and tokens.
        teacher_params: parameters of the teacher, counted like the student's.
        teacher_tokens: tokens the teacher was trained on.
        supervised_loss: the student's own loss without a teacher, where it was measured.
        level: coverage of the interval.
        params_convention: what the counts given here hold; must be that of the law.
    """
    of_teacher = {
        "teacher_loss": teacher_loss,
        "teacher_params": teacher_params,
        "teacher_tokens": teacher_tokens,
    }
    answer = predict_student(
        law,
        load_law(law),
        student_params=student,
        student_tokens=tokens,
        unique_tokens=unique_tokens,
        **(of_teacher if teacher is None else _named(teacher, of_teacher)),
        supervised_loss=supervised_loss,
        level=level,
        params_convention=params_convention,
    )
    if teacher is not None:
        answer["warnings"].append(
            f"the loss of {teacher} ({answer['teacher_loss']:.3f}) is what the law makes of its size and tokens alone: "
            "measure it on your text, distillaw scout"
        )
    answer["warnings"] = [in_typed_words(each) for each in answer["warnings"]]
    if output.json:
        print_json(answer)
        return
    _warn(law, answer["warnings"], output)
    _print(answer)
    output.suggest(f"distillaw laws show {shlex.quote(law)}")


def _named(name: str, given: dict[str, float | None]) -> dict[str, float | None]:
    """Size and tokens of a real model; what else says of the teacher would contradict them."""
    from distillaw.planning.question import named_teacher

    for argument, value in given.items():
        if value is not None:
            raise ConfigError(
                f"--teacher {name} says its size and tokens; leave {argument} out, or --teacher"
            )
    found = named_teacher(name)
    return {"teacher_params": found.params, "teacher_tokens": found.tokens}


def _warn(law: str, warnings: list[str], output: Output) -> None:
    where = f" ... (whole text: distillaw laws show {shlex.quote(law)})"
    for warning in warnings:
        output.say(f"WARNING: {textwrap.shorten(warning, 160 + len(where), placeholder=where)}")


def _print(answer: dict) -> None:
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
        print(f"  interval: {answer['interval_meaning']}")
    if answer["teacher_loss"] is not None and answer["supervised_loss"] is not None:
        gain = answer["supervised_loss"] - answer["student_loss"]
        print(f"{'gain of distilling':<20}{gain:+.4f} nats/token")
