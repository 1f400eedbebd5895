"""The nearest changes of the question that change the answer, searched one input at a time.

Each input is moved away from its value, both ways and in growing steps, until the verdict changes; then the step is
halved three times (3 to 16 % of the value). Runs are not asked again: they speak for the cell that was run, and where
they decided against the laws, nothing is searched.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from distillaw.errors import DistillawError
from distillaw.planning.consult import Sources, consult, options_of
from distillaw.planning.decision import call, choose
from distillaw.planning.evidence import Evidence
from distillaw.planning.situation import SCENARIOS, Situation
from distillaw.planning.text_scale import TextScale
from distillaw.quantities import format_count, format_flop

_DRAWS = 2000
_STEPS = (1.25, 2.0, 4.0, 10.0, 30.0, 100.0)
"""Factors tried, both ways."""
_NATS = (0.03, 0.1, 0.2, 0.4)
"""Changes of a teacher's loss tried."""
_HALVINGS = 3

Asked = Callable[[float], Situation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One change of input that changes the verdict."""

    input: str
    """As in the interface: tokens, compute, teacher_loss, student_params, students_served, scenario."""
    now: float | str
    then: float | str
    """The nearest value at which the verdict is another one."""
    verdict: str
    distance: float
    """Factor between them, at least 1; for losses exp(10 |difference|), so that a tenth of a nat counts as e."""
    sentence: str

    def to_json(self) -> dict[str, object]:
        """All fields."""
        return {"input": self.input, "now": self.now, "then": self.then, "verdict": self.verdict,
                "distance": self.distance, "sentence": self.sentence}  # fmt: skip


def find_flips(situation: Situation, sources: Sources, verdict: str, *, trains_teacher: bool) -> list[Flip]:
    """Flips in order of distance, one per input and direction at most; empty where nothing in reach changes it.

    Args:
        situation: the question as it was asked.
        sources: who is asked.
        verdict: the answer.
        trains_teacher: whether the best distillation trains its teacher. If not, that is searched again only where
            more students or another scenario make it cheaper: it takes most of the time.
    """

    def answer(asked: Situation) -> str | None:
        return _verdict(asked, sources)

    def answer_on_this_text(asked: Situation) -> str | None:
        return _verdict(asked, frozen)

    if answer(situation) != verdict:
        return []  # runs decided against the laws that are asked here, or it is a hair's breadth: every step would flip
    frozen = replace(sources, scales=_scales(situation, sources))
    fast = replace(situation, may_train_teacher=trains_teacher or not situation.teachers)
    found = [
        *_budget(fast, answer, verdict),
        *_teacher_losses(fast, answer_on_this_text, verdict),
        *_size(fast, answer, verdict),
        *_served(situation, answer, verdict),
        *_scenarios(situation, answer, verdict),
    ]
    return sorted(found, key=lambda flip: flip.distance)


def _verdict(asked: Situation, sources: Sources) -> str | None:
    """What the laws say of a changed question; None where nobody may decide it."""
    try:
        evidence = _ask(asked, sources)
    except DistillawError:
        return None  # no question any more: a budget too small, a loss below the floor
    if not any(e.is_decisive for e in evidence):
        return None
    return call(choose(evidence, level=sources.level)).verdict


def _ask(asked: Situation, sources: Sources) -> list[Evidence]:
    options = options_of(asked, sources, is_sketch=True)
    return consult(asked, sources, options, draws=_DRAWS, with_runs=False)


def _scales(situation: Situation, sources: Sources) -> dict[str, TextScale]:
    """The text as the question has it: a teacher that turns out better does not make the text an easier one."""
    found = {e.source: TextScale.of(e) for e in _ask(situation, sources)}
    return {source: scale for source, scale in found.items() if scale.ratio != 1}


def _budget(situation: Situation, answer: Callable, verdict: str) -> list[Flip]:
    tokens = situation.student_tokens
    if tokens is not None:
        hits = _both_ways(tokens, lambda value: replace(situation, student_tokens=value), answer, verdict)
        words, now, shown = "tokens", tokens, format_count
    else:
        assert situation.compute is not None
        now = situation.compute
        hits = _both_ways(now, lambda value: replace(situation, compute=value), answer, verdict)
        words, shown = "compute", format_flop
    return [
        _flip(words, now, then, verdict_then, f"{words} were {shown(then)} instead of {shown(now)}")
        for then, verdict_then in hits
    ]


def _size(situation: Situation, answer: Callable, verdict: str) -> list[Flip]:
    now = situation.student_params
    if now is None:
        return []

    def asked(value: float) -> Situation:
        limit = None if situation.max_params is None else max(situation.max_params, value)
        return replace(situation, student_params=value, label="", max_params=limit)

    return [
        _flip("student_params", now, then, verdict_then, f"the student had {format_count(then)} parameters")
        for then, verdict_then in _both_ways(now, asked, answer, verdict)
    ]


def _teacher_losses(situation: Situation, answer: Callable, verdict: str) -> list[Flip]:
    """All teachers of known loss better or worse together: what a wrong measurement would do."""
    if not situation.teachers or any(t.loss is None for t in situation.teachers):
        return []
    best = min(t.loss for t in situation.teachers if t.loss is not None)
    found = []
    for sign in (-1.0, 1.0):

        def asked(change: float, sign: float = sign) -> Situation:
            moved = [replace(t, loss=(t.loss or 0.0) + sign * change) for t in situation.teachers]
            return replace(situation, teachers=moved)

        hit = _first(_NATS, 0.0, asked, answer, verdict)
        if hit is not None:
            then, verdict_then = best + sign * hit[0], hit[1]
            which = (
                "the teacher's loss was"
                if len(situation.teachers) == 1
                else "the teachers' losses moved together, the best to"
            )
            text = f"{which} {then:.3f} instead of {best:.3f} nats/token"
            found.append(Flip(input="teacher_loss", now=best, then=then, verdict=verdict_then,
                              distance=math.exp(10 * hit[0]), sentence=_then(text, verdict_then)))  # fmt: skip
    return found


def _served(situation: Situation, answer: Callable, verdict: str) -> list[Flip]:
    """More students, or fewer, that share what the teacher costs."""
    now = situation.students_served

    def asked(value: float) -> Situation:
        return replace(situation, students_served=max(1, round(value)))

    found = []
    for sign in (-1, 1) if now > 1 else (1,):
        logs = [sign * math.log(step) for step in _STEPS]
        hit = _first(logs, 0.0, lambda x: asked(now * math.exp(x)), answer, verdict)
        count = now if hit is None else max(1, round(now * math.exp(hit[0])))
        if hit is not None and count != now:
            text = f"{count} student{'s' * (count != 1)} shared the teacher instead of {now}"
            found.append(_flip("students_served", now, count, hit[1], text))
    return found


def _scenarios(situation: Situation, answer: Callable, verdict: str) -> list[Flip]:
    if situation.shares is not None or situation.compute is None:
        return []
    found = []
    for name in SCENARIOS:
        verdict_then = answer(replace(situation, scenario=name)) if name != situation.scenario else None
        if verdict_then is not None and verdict_then != verdict:
            text = f"the cost scenario was {name} instead of {situation.scenario}"
            found.append(Flip(input="scenario", now=situation.scenario, then=name, verdict=verdict_then,
                              distance=math.e, sentence=_then(text, verdict_then)))  # fmt: skip
    return found


def _both_ways(now: float, asked: Asked, answer: Callable, verdict: str) -> list[tuple[float, str]]:
    """The nearest value below and the nearest above at which the verdict is another one."""
    found = []
    for sign in (-1, 1):
        logs = [sign * math.log(step) for step in _STEPS]
        hit = _first(logs, 0.0, lambda x: asked(now * math.exp(x)), answer, verdict)
        if hit is not None:
            found.append((now * math.exp(hit[0]), hit[1]))
    return found


def _first(
    steps: Sequence[float], start: float, asked: Asked, answer: Callable, verdict: str
) -> tuple[float, str] | None:
    """The first step with another verdict, narrowed down towards the last one with the same."""
    same = start
    for step in steps:
        then = _answered(asked, step, answer)
        if then is None:
            return None
        if then != verdict:
            return _narrowed(same, step, then, asked, answer, verdict)
        same = step
    return None


def _narrowed(
    same: float, other: float, then: str, asked: Asked, answer: Callable, verdict: str
) -> tuple[float, str]:
    for _ in range(_HALVINGS):
        middle = (same + other) / 2
        found = _answered(asked, middle, answer)
        if found is None or found == verdict:
            same = middle
        else:
            other, then = middle, found
    return other, then


def _answered(asked: Asked, value: float, answer: Callable) -> str | None:
    try:
        return answer(asked(value))
    except DistillawError:
        return None


def _flip(name: str, now: float, then: float, verdict: str, text: str) -> Flip:
    return Flip(input=name, now=now, then=then, verdict=verdict, distance=max(then / now, now / then),
                sentence=_then(text, verdict))  # fmt: skip


def _then(text: str, verdict: str) -> str:
    words = {"distil": "distil", "pretrain": "pretrain", "too-close": "too close to call"}
    return f"{text}: then {words[verdict]}"
