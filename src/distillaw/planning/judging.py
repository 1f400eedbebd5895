"""From a question as it was asked to the call: the one path that every answer takes, and every flip takes again.

With tokens for a budget every strategy has the same tokens, and nobody pays for a teacher's training. So a teacher
whose training is in the student's bill, because it does not exist or because the cost scenario says so, is not
compared like that: if no other is at hand, the question is put at equal FLOP instead,

    no teacher named   on what the student costs alone; the best teacher to train is searched within that
    teachers named     on what distilling from the best of them costs, its training included

and beside the answer stands what a teacher at hand would be worth, at equal tokens. It never carries the verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from distillaw.errors import ConfigError
from distillaw.planning.arms import student_arms
from distillaw.planning.bills import bill, shares_of
from distillaw.planning.decision import Call, call, choose
from distillaw.planning.evidence import Evidence, Strategy
from distillaw.planning.law_evidence import law_evidence
from distillaw.planning.options import SIZE_PRIOR, Option, find_options
from distillaw.planning.paired import paired_evidence, study_teachers
from distillaw.planning.phrases import say
from distillaw.planning.situation import Situation, Teacher, check_losses, training_tokens
from distillaw.planning.text_scale import TextScale, lowest_floor, text_scale
from distillaw.planning.voices import Voice, efolds_outside
from distillaw.runs.record import StudyRecord, nearest_size

LEAD_MEMBERS = 24
"""Replicates that choose sizes and tokens: the mean loss needs fewer than an interval does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is consulted: the study, and every law."""

    record: StudyRecord | None
    voices: Sequence[Voice]
    level: float
    seed: int
    asked: Sequence[str] = ()
    """Names of the laws that the user asked for."""
    scales: Mapping[str, TextScale] = field(default_factory=dict)
    """Text scales by source that are known already; the others are worked out from the question."""

    def floor(self, situation: Situation) -> float:
        """Lowest irreducible loss of the laws, nats/token; 0 with a study, whose text may be easier than any law's."""
        return 0.0 if self.record is not None else lowest_floor(self.voices, situation)

    def lead(self, situation: Situation) -> Voice:
        """The law that chooses what is free, thinned: the first that reaches this student, else the nearest.

        Raises:
            ConfigError: no law with numbers at all.
        """
        speaking = [v for v in self.voices if v.ensemble is not None and not v.is_refused]
        speaking = speaking or [v for v in self.voices if v.ensemble is not None]
        if not speaking:
            said = "; ".join(f"{v.source}: {v.status}: {v.note}" for v in self.voices) or "none was given"
            raise ConfigError(say("no law", said=said))
        size, away = situation.student_params, [0.0] * len(speaking)  # nothing is known of a student of free size
        if size is not None:
            at = {"student_params": [size], "student_tokens": [training_tokens(situation, size)]}
            away = [max(efolds_outside(voice.range, at).values(), default=0.0) for voice in speaking]
        within = [v for v, e in zip(speaking, away, strict=True) if e <= v.discrepancy.reach and v.may_decide]
        voice = within[0] if within else speaking[int(np.argmin(away))]
        assert voice.ensemble is not None
        members = voice.ensemble.size
        kept = np.linspace(0, members - 1, min(members, LEAD_MEMBERS)).astype(int)
        return replace(voice, ensemble=voice.ensemble.take(kept))


def options_of(situation: Situation, sources: Sources, *, is_sketch: bool = False) -> list[Option]:
    """What could be done; the lead among the sources chooses what is free.

    Args:
        situation: the question.
        sources: who is asked.
        is_sketch: roughly and fast, without strategies that no law describes.

    Raises:
        ConfigError: nothing but pretraining can be paid for.
    """
    lead = sources.lead(situation)
    ensemble = lead.ensemble
    assert ensemble is not None
    is_small = lead.kind == "fitted" and not situation.inference_tokens
    own = (None, None) if is_sketch else _own_loss(situation, sources)
    scale = sources.scales.get(lead.source) or text_scale(lead, situation, *own)

    def found(scale: TextScale) -> tuple[Situation, list[Option]]:
        scaled, prior = scale.asked(situation), SIZE_PRIOR if is_small else 0.0
        return scaled, find_options(scaled, ensemble, is_sketch=is_sketch, size_prior=prior)

    scaled, options = found(scale)
    if scale.by_baseline and situation.student_params is None:  # known at the baselines only until a size is found
        scaled, options = found(text_scale(lead, situation, options[0]))
    given: dict[Teacher | None, Teacher] = dict(zip(scaled.teachers, situation.teachers, strict=True))
    options = [
        replace(o, teacher=given.get(o.teacher, o.teacher), cut_of=given.get(o.cut_of, o.cut_of)) for o in options
    ]
    if all(option.teacher is None for option in options):
        assert situation.compute is not None
        raise ConfigError(say("pays for none", compute=situation.compute))
    return options


def _own_loss(situation: Situation, sources: Sources) -> tuple[Option | None, float | None]:
    """Pretraining at the student's size and its loss, where the study ran that."""
    size = situation.student_params
    if sources.record is None or size is None:
        return None, None
    tokens = training_tokens(situation, size)
    arms = student_arms(sources.record, size)
    point = arms[0].at(tokens) if arms and arms[0].teacher is None else None
    if point is None:
        return None, None
    return Option(kind="pretrain", student_params=size, student_tokens=point.tokens), point.mean_loss


def consult(
    situation: Situation, sources: Sources, options: Sequence[Option], *, with_runs: bool = True
) -> list[Evidence]:
    """Every source in order of trust, silent ones included; paired runs of a study where they are asked for."""
    found: list[Evidence] = []
    if sources.record is not None and with_runs and situation.start == "random":
        rng = np.random.default_rng([sources.seed, 0])
        found.append(paired_evidence(situation, sources.record, situation.teachers, level=sources.level, rng=rng))
    for voice in sources.voices:
        knows_the_text = (e for e in found if e.kind in ("measured", "fitted") and e.is_decisive)
        own = next((e.pretrain.loss.mean for e in knows_the_text if e.pretrain is not None), None)
        scale = sources.scales.get(voice.source)
        found.append(law_evidence(situation, voice, options, level=sources.level, own_loss=own, scale=scale))
    return found


LADDER = (1, 2, 4, 8, 16)
"""Teacher sizes in units of the student's, supposed to be at hand where the user names none."""
LADDER_RATIO = 20.0
"""Tokens per parameter of such teachers: about compute-optimal (Hoffmann et al. 2022, arXiv:2203.15556)."""


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
    asked: Situation, sources: Sources, *, is_sketch: bool = False, with_runs: bool = True, with_supposed: bool = False
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
        return Judged(asked=asked, situation=situation, evidence=evidence, headline=headline, call=call(headline))

    situation = of_study(asked, sources.record)
    check_losses(situation, sources.floor(situation))
    # a teacher is at hand where its training is no cost of this student
    if situation.student_tokens is None or any(shares_of(situation, t).delta_pre == 0 for t in situation.teachers):
        return judged(situation)
    if not situation.teachers and not with_supposed:
        return judged(_on_the_bill(situation, None))
    supposed = judged(_supposed(situation))
    both = zip(situation.teachers, supposed.situation.teachers, strict=False)
    best = next((asked for asked, there in both if there == supposed.best.teacher), None)
    return replace(judged(_on_the_bill(situation, best)), supposed=supposed)


def _supposed(situation: Situation) -> Situation:
    """The same with all teachers at hand, or with a ladder of them."""
    size = situation.student_params or situation.max_params
    assert size is not None
    shares = situation.cost_shares
    paid_by_others = replace(shares, delta_pre=0.0)
    teachers = situation.teachers or [
        Teacher(name=say("sized teacher", params=k * size), params=k * size, tokens=LADDER_RATIO * k * size)
        for k in LADDER
    ]
    return replace(
        situation,
        teachers=[replace(t, exists=True, estimate_error=t.law_error) for t in teachers],
        shares=paid_by_others,
    )


def _on_the_bill(situation: Situation, teacher: Teacher | None) -> Situation:
    """The question at equal FLOP: those of the student alone, or of training a teacher and distilling from it."""
    size = situation.student_params or situation.max_params
    tokens = situation.student_tokens
    assert size is not None and tokens is not None
    if teacher is not None and (teacher.params is None or teacher.tokens is None):
        raise ConfigError(say("teacher unpriced", teacher=teacher.called))
    compute = bill(situation, size, tokens, teacher)["total"]
    assert compute is not None
    fixed = replace(situation, student_params=size)
    text = say("bill alone", student=fixed.student, compute=compute)
    if teacher is not None:
        text = say("bill with", student=fixed.student, compute=compute, teacher=teacher.called)
    return replace(fixed, student_tokens=None, compute=compute, budget_text=text)


def of_study(asked: Situation, record: StudyRecord | None) -> Situation:
    """The exact size of the study's student that is meant (sizes come in steps); its teachers where none is named."""
    if record is None:
        return asked
    situation = asked
    if asked.student_params is not None:
        exact, label = nearest_size(record, asked.student_params)
        situation = replace(asked, student_params=exact, label=label)
    size = situation.student_params or situation.max_params
    if situation.teachers or size is None:
        return situation
    return replace(situation, teachers=study_teachers(record, size))
