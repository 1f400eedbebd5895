"""Sensitivity of the verdict: the nearest values of its inputs at which the answer is another one.

Each input is moved away from its value, both ways and in growing steps, until a sketch of the verdict changes; then the
step is halved three times (3 to 16 % of the value). What is found is written with the digits that are printed, and the
question is asked with that: the whole way of judging.py, as the user's own command goes. It is a switching value if the
answer is another one there, else further steps are tried, else nothing is said.

Where runs decided against the laws, nothing is searched: the sketch asks laws only.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from distillaw.errors import DistillawError
from distillaw.planning.decision import WORDS
from distillaw.planning.judging import Sources, judge
from distillaw.planning.phrases import say
from distillaw.planning.situation import SCENARIOS, Situation
from distillaw.quantities import bare_flop, format_count, parse_count

_STEPS = (1.25, 2.0, 4.0, 10.0, 30.0, 100.0)
"""Factors tried, both ways."""
_NATS = (0.03, 0.1, 0.2, 0.4)
"""Changes of a teacher's loss tried."""
_HALVINGS = 3
"""Of the step at whose end the sketch has another answer: to an eighth of it."""
_ONWARDS = (0.0, 0.25, 0.5, 1.0)
"""Where the question is asked in full: shares of the way from the edge that the sketch found to the step beyond it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchingValue:
    """One change of input that changes the verdict: asked with `then` instead of `now`, the answer is `verdict`."""

    input: str
    """As in the JSON: tokens, compute, teacher_loss, student_params, students_served, scenario, teacher."""
    now: float | str
    then: float | str
    """The nearest value at which the verdict is another one, with the digits that are printed."""
    verdict: str
    distance: float
    """Factor between them, at least 1; for losses exp(10 |difference|), so that a tenth of a nat counts as e."""
    sentence: str
    teacher: str | None = None
    """Whose loss, where that is the input."""

    def to_json(self) -> dict[str, object]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Input:
    """One number of the question that can be moved, one way: sizes by factors, the loss of a teacher by nats."""

    sign: int
    name: str
    now: float
    asked: Callable[[float], Situation]
    """The question with another value."""
    text: Callable[[float], str]
    """That value in words: `tokens were 67.3B instead of 20B`."""
    printed: Callable[[float], float]
    """The value with the digits that are printed."""
    teacher: str | None = None
    """Whose loss."""

    @property
    def steps(self) -> list[float]:
        """Away from now, nats or e-folds."""
        sizes = _NATS if self.teacher is not None else map(math.log, _STEPS)
        return [self.sign * size for size in sizes]

    def at(self, step: float) -> float:
        """The value so many steps away."""
        return self.now + step if self.teacher is not None else self.now * math.exp(step)

    def distance(self, then: float) -> float:
        """As `SwitchingValue.distance`."""
        if self.teacher is not None:
            return math.exp(10 * abs(then - self.now))
        return max(then / self.now, self.now / then)


def switching_values(
    situation: Situation, sources: Sources, verdict: str, *, trains_teacher: bool
) -> list[SwitchingValue]:
    """Flips in order of distance, one per input and direction at most; empty where nothing in reach changes it.

    Args:
        situation: the question as it was asked.
        sources: who is asked.
        verdict: the answer.
        trains_teacher: whether the best distillation trains its teacher. If not, that is searched again only where
            more students or another scenario make it cheaper: it takes most of the time.
    """
    if not all(v.ensemble is None or v.is_refused for v in sources.voices):
        # without the laws that never decide and never choose what is free: they only take time
        heard = [replace(v, ensemble=None) if v.is_refused else v for v in sources.voices]
        sources = replace(sources, voices=heard)
    search = _SwitchSearch(sources=sources, verdict=verdict)
    if search.sketch(situation) != verdict:
        return []  # runs decided against the laws that are asked here, or it is a hair's breadth: every step would flip
    with_training = situation.may_train_teacher and (trains_teacher or not situation.teachers)
    bound = {name for baseline in situation.baselines for name in baseline.of_question}
    moved = (one for one in _inputs(situation) if one.name not in bound)
    found = [flip for one in moved if (flip := search.nearest(one, with_training))]
    found += search.scenarios(situation)
    found += search.single_teachers(situation)
    return sorted(found, key=lambda flip: flip.distance)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SwitchSearch:
    """Who is asked, and what the answer was."""

    sources: Sources
    verdict: str

    def sketch(self, asked: Situation) -> str | None:
        """Roughly and fast; None where nobody may decide it or it is no question any more."""
        return self._answer(asked, is_sketch=True, with_runs=False)

    def other(self, asked: Situation, *, is_sketched: bool = False) -> str | None:
        """Another verdict than the one that was given: of the sketch, and then as the user's own command gives it."""
        if not is_sketched and self.sketch(asked) in (None, self.verdict):
            return None
        then = self._answer(asked)
        return None if then == self.verdict else then

    def _answer(self, asked: Situation, **how) -> str | None:
        try:
            judged = judge(asked, self.sources, **how)
        except DistillawError:
            return None  # a budget too small, a loss below the floor
        return judged.call.verdict if judged.headline.is_decisive else None

    def nearest(self, moved: _Input, with_training: bool) -> SwitchingValue | None:
        """The nearest value, in one direction, at which the whole answer is another one."""

        def sketched(step: float) -> str | None:
            asked = _asked(moved, moved.at(step))
            if asked is None:
                return None
            may_train = asked.may_train_teacher if moved.name == "students_served" else with_training
            return self.sketch(replace(asked, may_train_teacher=may_train))

        for step in self._candidates(sketched, moved.steps):
            then = moved.printed(moved.at(step))
            asked = _asked(moved, then)
            verdict = None if asked is None or then == moved.now else self.other(asked, is_sketched=True)
            if verdict is not None:
                far, text = moved.distance(then), moved.text(then)
                return _switch(moved.name, moved.now, then, verdict, text, distance=far, teacher=moved.teacher)
        return None

    def _candidates(self, sketched: Callable[[float], str | None], steps: Sequence[float]) -> Iterator[float]:
        """Steps at which the sketch has another answer: its edge first, then on to the step tried beyond it."""
        same = 0.0
        for step in steps:
            found = sketched(step)
            if found is None:
                return
            if found == self.verdict:
                same = step
                continue
            edge = step
            for _ in range(_HALVINGS):
                middle = (same + edge) / 2
                same, edge = (middle, edge) if sketched(middle) in (None, self.verdict) else (same, middle)
            yield from (edge + share * (step - edge) for share in _ONWARDS)
            return

    def scenarios(self, situation: Situation) -> list[SwitchingValue]:
        """The other cost scenarios; none where shares of costs were given."""
        if situation.shares is not None:
            return []
        found = []
        for name in SCENARIOS:
            then = self.other(replace(situation, scenario=name)) if name != situation.scenario else None
            if then is not None:
                text = say("scenario was", then=name, now=situation.scenario)
                found.append(_switch("scenario", situation.scenario, name, then, text))
        return found

    def single_teachers(self, situation: Situation) -> list[SwitchingValue]:
        """Each teacher alone, where several were named."""
        names = [t.name for t in situation.teachers]
        if len(names) < 2 or len(set(names)) < len(names):
            return []
        found = []
        for teacher in situation.teachers:
            then = self.other(replace(situation, teachers=[teacher]))
            if then is not None:
                text = say("only", teacher=teacher.called)
                found.append(_switch("teacher", ", ".join(names), teacher.name, then, text))
        return found


def _inputs(q: Situation) -> Iterator[_Input]:
    """Everything that is moved, both ways: budget, student, students served, and each teacher's loss that was given."""
    for sign in (-1, 1):
        moved = partial(_Input, sign)
        if (tokens := q.student_tokens) is not None:
            yield moved(
                "tokens",
                tokens,
                lambda x: replace(q, student_tokens=x),
                lambda x, now=tokens: say("tokens were", then=x, now=now),
                _as_count,
            )
        elif (compute := q.compute) is not None:
            yield moved(
                "compute",
                compute,
                lambda x: replace(q, compute=x, budget_text=""),
                lambda x, now=compute: say("compute were", then=x, now=now),
                lambda x: parse_count(bare_flop(x)),
            )
        if (params := q.student_params) is not None:
            yield moved(
                "student_params",
                params,
                lambda x: replace(q, student_params=x, label=""),
                lambda x: say("student had", then=x),
                _as_count,
            )
        if sign > 0 or q.students_served > 1:
            yield moved(
                "students_served",
                q.students_served,
                lambda x: replace(q, students_served=max(1, round(x))),
                lambda x: say("students shared", then=x, now=q.students_served),
                lambda x: float(max(1, round(x))),
            )
        for j, teacher in enumerate(q.teachers):
            if teacher.loss is not None:
                whose = say("the teacher's") if len(q.teachers) == 1 else f"{teacher.called}'s"
                said = partial(say, "teacher's loss was", whose=whose, now=teacher.loss)
                yield moved(
                    "teacher_loss",
                    teacher.loss,
                    partial(_with_loss, q, j),
                    lambda x, said=said: said(then=x),
                    lambda x: round(x, 3),
                    teacher.name,
                )


def _as_count(value: float) -> float:
    return parse_count(format_count(value))


def _with_loss(situation: Situation, which: int, loss: float) -> Situation:
    teachers = list(situation.teachers)
    teachers[which] = replace(teachers[which], loss=loss)
    return replace(situation, teachers=teachers)


def _asked(moved: _Input, value: float) -> Situation | None:
    """The question with this value; None where it is none."""
    try:
        return moved.asked(value)
    except DistillawError:
        return None


def _switch(
    moved: str,
    now: float | str,
    then: float | str,
    verdict: str,
    text: str,
    *,
    distance: float = math.e,
    teacher: str | None = None,
) -> SwitchingValue:
    """A change with its sentence; one that is no number is as far away as a factor e."""
    said = say("then", text=text, words=WORDS[verdict].then)
    return SwitchingValue(
        input=moved, now=now, then=then, verdict=verdict, distance=distance, sentence=said, teacher=teacher
    )
