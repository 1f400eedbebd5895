"""From a question as it was asked to the call: the one path that every answer takes, and every flip takes again.

With tokens for a budget every strategy has the same tokens, and nobody pays for a teacher's training. So a teacher
whose training is in the student's bill, because it does not exist or because the cost scenario says so, is not
compared like that: if no other is at hand, the question is put at equal FLOP instead,

    no teacher named   on what the student costs alone; the best teacher to train is searched within that
    teachers named     on what distilling from the best of them costs, its training included

and beside the answer stands what a teacher at hand would be worth, at equal tokens. It never carries the verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from distillaw.errors import ConfigError
from distillaw.planning.bills import bill, shares_of
from distillaw.planning.consult import Sources, consult, options_of
from distillaw.planning.decision import Call, call, choose
from distillaw.planning.evidence import Evidence, Strategy
from distillaw.planning.situation import Situation, Teacher, check_teacher_losses, student_text
from distillaw.quantities import format_count, format_flop
from distillaw.runs.record import StudyRecord

LADDER = (1, 2, 4, 8, 16)
"""Teacher sizes in units of the student's, supposed to be at hand where the user names none."""
LADDER_RATIO = 20.0
"""Tokens per parameter of such teachers: about compute-optimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A question with its evidence and its call."""

    asked: Situation
    situation: Situation
    """As it was judged: at equal FLOP where tokens are the budget and no teacher is at hand."""
    evidence: Sequence[Evidence]
    headline: Evidence
    call: Call
    supposed: "Judged | None" = None
    """The same question with the teachers at hand, where none is."""

    @property
    def best(self) -> Strategy:
        """The best distillation."""
        return self.headline.best


def judge(
    asked: Situation,
    sources: Sources,
    *,
    is_sketch: bool = False,
    with_runs: bool = True,
    with_supposed: bool = False,
) -> Judged:
    """The call on a question.

    Args:
        asked: the question as the user put it; without teachers, a study's own are taken.
        sources: who is asked.
        is_sketch: free sizes roughly, and no strategies that no law describes.
        with_runs: whether paired runs are read too.
        with_supposed: whether to say what a teacher would be worth where none is named.

    Raises:
        ConfigError: a question that cannot be answered.
    """

    def judged(situation: Situation) -> Judged:
        options = options_of(situation, sources, is_sketch=is_sketch)
        evidence = consult(situation, sources, options, with_runs=with_runs)
        headline = choose(evidence, level=sources.level)
        return Judged(
            asked=asked, situation=situation, evidence=evidence, headline=headline, call=call(headline)
        )

    situation = _of_study(asked, sources.record)
    check_teacher_losses(situation, sources.floor)
    if situation.student_tokens is None or any(is_at_hand(situation, t) for t in situation.teachers):
        return judged(situation)
    if not situation.teachers and not with_supposed:
        return judged(_on_the_bill(situation, None))
    supposed = judged(_supposed(situation))
    best = next(
        (
            t
            for t, s in zip(situation.teachers, supposed.situation.teachers, strict=False)
            if s == supposed.best.teacher
        ),
        None,
    )
    return replace(judged(_on_the_bill(situation, best)), supposed=supposed)


def is_at_hand(situation: Situation, teacher: Teacher) -> bool:
    """True where its training is no cost of this student."""
    return shares_of(situation, teacher).delta_pre == 0


def _supposed(situation: Situation) -> Situation:
    """The same with all teachers at hand, or with a ladder of them."""
    size = situation.student_params or situation.max_params
    assert size is not None
    shares = situation.cost_shares
    paid_by_others = replace(shares, delta_pre=0.0)
    teachers = situation.teachers or [
        Teacher(name=f"{format_count(k * size)} teacher", params=k * size, tokens=LADDER_RATIO * k * size)
        for k in LADDER
    ]
    return replace(situation, teachers=[replace(t, exists=True, estimate_error=t.law_error) for t in teachers],
                   shares=paid_by_others)  # fmt: skip


def _on_the_bill(situation: Situation, teacher: Teacher | None) -> Situation:
    """The question at equal FLOP: those of the student alone, or of training a teacher and distilling from it."""
    size = situation.student_params or situation.max_params
    tokens = situation.student_tokens
    assert size is not None and tokens is not None
    if teacher is not None and (teacher.params is None or teacher.tokens is None):
        raise ConfigError(
            f"{teacher.called} must be trained at this student's cost, and without its size and tokens nobody can "
            "price that: give --teacher-params and --teacher-tokens, or --scenario inference if somebody else has paid"
        )
    compute = bill(situation, size, tokens, teacher)["total"]
    assert compute is not None
    fixed = replace(situation, student_params=size)
    text = (
        f"what {student_text(fixed)} costs without a teacher, {format_flop(compute)}: no teacher is at hand"
    )
    if teacher is not None:
        text = (
            f"what {student_text(fixed)} costs with {teacher.called} and its training, {format_flop(compute)}"
        )
    return replace(fixed, student_tokens=None, compute=compute, budget_text=text)


def _of_study(asked: Situation, record: StudyRecord | None) -> Situation:
    """The exact size of the study's student that is meant (sizes come in steps); its teachers where none is named."""
    if record is None:
        return asked
    from distillaw.planning.paired import study_teachers
    from distillaw.runs.record import nearest_size

    situation = asked
    if asked.student_params is not None:
        exact, label = nearest_size(record, asked.student_params)
        situation = replace(asked, student_params=exact, label=label)
    size = situation.student_params or situation.max_params
    if situation.teachers or size is None:
        return situation
    return replace(situation, teachers=study_teachers(record, size))
