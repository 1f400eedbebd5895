"""`distillaw gap`: the best teacher for one student under each law, how flat the bottom is, and why it is there."""

import math
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from distillaw.accounting.families import model
from distillaw.cli.console import print_table
from distillaw.cli.options import Count, LawNames, Number, Several, TeacherName
from distillaw.cli.output import Output, same_command
from distillaw.errors import ConfigError
from distillaw.laws.published import laws_available
from distillaw.planning.gap import GapAnswer, GapOpinion, GapQuestion, capacity_gap
from distillaw.planning.question import named_teacher
from distillaw.quantities import format_count, times
from distillaw.table import Table, number, text

if TYPE_CHECKING:
    from distillaw.planning.teacher_curve import FlatRange

_TOKENS_PER_PARAM = 20.0
"""About compute-optimal (Hoffmann et al. 2022, arXiv:2203.15556)."""


def gap(
    *,
    student: Count,
    tokens: Count | None = None,
    tokens_per_param: Number | None = None,
    teacher_tokens: Count | None = None,
    teacher_tokens_per_param: Number | None = None,
    teacher: TeacherName | None = None,
    teacher_loss: Number | None = None,
    law: Annotated[LawNames | None, Several] = None,
    arm: Literal["fresh", "pruned", "fixed"] | None = None,
    margin: float = 0.5,
    explain: bool = False,
    output: Output = Output(),
) -> None:
    """Find the best teacher for a student under each law: size, loss, flat range, disagreement.

    Args:
        student: non-embedding parameters of the student, e.g. 1B.
        tokens: tokens the student is distilled on, e.g. 20B; by default 20 per parameter.
        tokens_per_param: the same per parameter, e.g. 80.
        teacher_tokens: tokens every teacher was trained on, e.g. 2T.
        teacher_tokens_per_param: the same per parameter of the teacher; by default 20, about compute-optimal.
        teacher: name of a real model at hand (`distillaw teachers` lists them), to see what it costs against the best
            teacher; its loss is estimated unless --teacher-loss says it.
        teacher_loss: loss in nats/token of a teacher at hand, for the same.
        law: laws to hear first: names from `distillaw laws`, or files of `distillaw fit --out`.
        arm: how the student starts: fresh (random weights), pruned (cut out of the teacher it learns from), fixed (cut
            out of one reference); a law of such students then leads, one of teacher sizes too.
        margin: teachers whose student is within this many per cent of the best loss count as equally good.
        explain: derive why a stronger teacher can hurt, with this student's numbers.
    """
    if not 0 < margin < 100:
        raise ConfigError(f"--margin {margin:g}: per cent of the best loss, between 0 and 100, e.g. 0.5")
    teachers, teachers_ratio = _tokens("--teacher-tokens", teacher_tokens, teacher_tokens_per_param)
    own, ratio = _tokens("--tokens", tokens, tokens_per_param)
    question = GapQuestion(
        student_params=student,
        student_tokens=own or (ratio or 0.0) * student,
        teacher_tokens=teachers,
        teacher_tokens_per_param=teachers_ratio,
        teacher_loss=teacher_loss,
        **({} if teacher is None else _named(teacher, is_measured=teacher_loss is not None)),
        arm=arm,
        margin=margin / 100,
    )
    answer = capacity_gap(question, laws=law or ())
    why = _derivation(answer) if explain else ""
    output.answer(answer.to_json() | ({"derivation": why} if explain else {}), _print, answer, why, output)
    output.suggest(_next(answer, explained=explain))


def _named(name: str, *, is_measured: bool) -> dict[str, object]:
    """What the question holds of a real model."""
    found = model(name)
    if is_measured:
        return {"teacher_name": found.name}
    known = named_teacher(name)
    return {"teacher_name": found.name, "teacher_at_hand": (known.params, known.tokens)}


def _tokens(option: str, tokens: float | None, per_param: float | None) -> tuple[float | None, float | None]:
    """Tokens as such, or as so many per parameter."""
    if tokens is not None and per_param is not None:
        raise ConfigError(f"{option} and {option}-per-param say the same thing twice; give one of them")
    return tokens, None if tokens is not None else per_param or _TOKENS_PER_PARAM


def _derivation(answer: "GapAnswer") -> str:
    lead = answer.lead
    source = answer.voices[0].source if lead is None or lead.curve is None else lead.law
    ensemble = next(v.ensemble for v in answer.voices if v.source == source)
    assert ensemble is not None
    from distillaw.planning.explain import derivation

    q = answer.question
    return derivation(ensemble, name=source, student_params=q.student_params, student_tokens=q.student_tokens)


def _print(answer: "GapAnswer", why: str, output: Output) -> None:
    q = answer.question
    trained = f"{q.teacher_tokens_per_param or 0.0:.3g} tokens per parameter"
    if q.teacher_tokens is not None:
        trained = f"{format_count(q.teacher_tokens)} tokens each"
    print(
        f"Best teacher for a {format_count(q.student_params)} student on {format_count(q.student_tokens)} tokens; "
        f"teachers trained on {trained}; their cost not counted"
    )
    print("\n".join(_summary(answer)))
    counted = ("best teacher", "ratio", "L_T", "L_S", "gain", f"within {100 * q.margin:g} %", "if wrong")
    columns = [text("law"), text("student"), *map(number, counted), text("range")]
    print()
    print_table(Table(columns, [_row(opinion, q.student_params) for opinion in answer.opinions]))
    print(
        "(in brackets): a guess, or not to be planned with. gain: over no teacher, nats/token. if wrong: what this "
        "teacher costs if another law of losses that may be used here is right."
    )
    for line in answer.disagreement:
        print(line)
    for law, note in _notes(answer):
        is_one = law in laws_available() or Path(law).is_file()
        where = f" ... (whole: {f'distillaw laws show {shlex.quote(law)}' if is_one else '--json'})"
        output.say(textwrap.shorten(f"WARNING {law}: {note}", 200 + len(where), placeholder=where))
    if why:
        print(f"\n{why}")


def _summary(answer: "GapAnswer") -> list[str]:
    lead, q = answer.lead, answer.question
    guessed = _at_hand(answer.opinions[0], q, f", a guess of {answer.opinions[0].law}")
    if lead is not None and lead.curve is None:
        span = "no interval is published"
        if lead.best_teacher_interval is not None:
            span = f"{' to '.join(map(format_count, lead.best_teacher_interval))}, 90 %"
        return [
            f"{_size(lead)} ({span}) for a {q.arm} student, says {lead.law}, which knows sizes and no losses.",
            *guessed,
        ]
    if lead is None or lead.curve is None or lead.by_loss is None:
        of = "losses" if q.arm is None else f"{q.arm} students"
        return [
            f"NO RECOMMENDATION: no law of {of} that may be planned with reaches this student and its "
            "best teacher. The numbers below are guesses; run a small study of your own.",
            *guessed,
        ]
    best = lead.curve.best
    ends = lead.best_teacher_interval
    span = "" if ends is None else f" ({' to '.join(map(format_count, ends))} by member)"
    costs = "; ".join(
        f"{c.name} ({format_count(c.params)}) costs {c.nats:.4f} nats, {c.per_cent:.2f} %" for c in lead.curve.costs
    )
    lines = [
        f"{_size(lead)}{span}, of loss {lead.curve.best_teacher_loss:.3f}, {lead.by_loss.ratio:.2f} of the student's "
        f"own: the student reaches {best.student_loss:.4f}, {lead.curve.gain:+.4f} against no teacher, says "
        f"{lead.law}.",
        f"Flat: {costs}. Within {100 * q.margin:g} %: {_flat(best.within_margin)}.",
    ]
    if lead.status == "FAR_RANGE":
        lines.append(
            f"Up to {times(math.exp(lead.outside))} times outside what that law was fitted on; `distillaw plan` says "
            "how much of the gain to count there, and how sure it is."
        )
    return lines + _at_hand(lead, q, "")


def _at_hand(opinion: "GapOpinion", q: "GapQuestion", of: str) -> list[str]:
    """What the teacher at hand costs against the best one."""
    if opinion.teacher_at_hand_cost is None or opinion.by_loss is None:
        return []
    loss = f"loss {opinion.teacher_at_hand_loss:.4g}"
    estimated = "" if q.teacher_loss is not None else ", what the law makes of its size and tokens alone"
    who = f"A teacher of {loss}" if q.teacher_name is None else f"{q.teacher_name} ({loss}{estimated})"
    return [
        f"{who} costs {opinion.teacher_at_hand_cost:.4f} nats against the best one "
        f"(loss {opinion.by_loss.best.at:.4f}){of}."
    ]


def _row(o: "GapOpinion", student_params: float) -> tuple[str, ...]:
    start = {"as in the runs fitted": "as fitted"}.get(o.start, o.start)
    if o.best_teacher_params is None:
        return o.law, start, *7 * ("-",), o.status
    losses = ("-", "-", "-")
    if o.curve is not None:
        losses = f"{o.curve.best_teacher_loss:.3f}", f"{o.student_loss:.4f}", f"{o.curve.gain:+.4f}"
    flat = _flat(o.curve.best.within_margin) if o.curve is not None else "-"
    wrong = "-" if o.per_cent_if_wrong is None else f"{o.per_cent_if_wrong:.2f} %"
    ratio = f"{o.best_teacher_params / student_params:.3g}"
    return o.law, start, _size(o), ratio, *losses, flat, wrong, o.status


def _size(o: "GapOpinion") -> str:
    """The best size; `>` at the end of the search, brackets where it is a guess."""
    text = format_count(o.best_teacher_params or 0.0)
    if o.curve is not None and o.curve.best.at_edge:
        text = (">" if o.curve.best.at > o.curve.student_params else "<") + text
    return text if o.is_usable else f"({text})"


def _flat(found: "FlatRange") -> str:
    low = ("<" if found.is_open_below else "") + format_count(found.lower)
    high = (">" if found.is_open_above else "") + format_count(found.upper)
    return f"{low} to {high}" + ("" if found.is_connected else " and more")


def _notes(answer: "GapAnswer") -> list[tuple[str, str]]:
    """(law, note): everything to be said with the leading law, the first word on each other; the rest is in --json."""
    first = answer.lead or answer.opinions[0]
    notes = {note: first.law for note in first.notes}
    for opinion in answer.opinions:
        if opinion.kind != "surrogate" and opinion.notes:
            notes.setdefault(opinion.notes[0], opinion.law)
    said = {note.removeprefix(f"{law}: "): law for note, law in reversed(notes.items())}
    return [(law, note) for note, law in reversed(said.items())]


def _next(answer: "GapAnswer", *, explained: bool) -> str:
    """The same question explained, then a plan of the best teacher, or a study of students that start so."""
    q, best = answer.question, answer.lead
    if not explained:
        return f"{same_command()} --explain"
    if best is None or best.best_teacher_params is None:
        return "distillaw study --help"
    if best.curve is None:  # `plan` needs a law of losses, and none of those knows students that start so
        return f"distillaw study new --kind capacity-gap --starts {q.arm}"
    tokens = format_count(q.tokens_of(best.best_teacher_params))
    size = format_count(best.best_teacher_params)
    student = f"--student {format_count(q.student_params)} --tokens {format_count(q.student_tokens)}"
    return f"distillaw plan {student} --teacher-params {size} --teacher-tokens {tokens}"
