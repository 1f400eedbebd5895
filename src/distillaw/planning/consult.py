"""All sources of evidence on one situation, in order of trust: paired runs, fitted laws, published laws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from distillaw.errors import ConfigError
from distillaw.planning.bills import training_tokens
from distillaw.planning.evidence import Evidence
from distillaw.planning.law_evidence import law_evidence
from distillaw.planning.options import SIZE_PRIOR, Option, find_options
from distillaw.planning.situation import Situation
from distillaw.planning.text_scale import TextScale, text_scale
from distillaw.planning.voices import Voice, efolds_outside
from distillaw.runs.record import StudyRecord

_LEAD_MEMBERS = 24
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

    @property
    def floor(self) -> float:
        """Lowest irreducible loss of the laws, nats/token; 0 with a study, whose text may be easier than any law's."""
        if self.record is not None:
            return 0.0
        return min(
            (float(v.ensemble.irreducible.min()) for v in self.voices if v.ensemble is not None), default=0.0
        )

    def lead(self, situation: Situation) -> Voice:
        """The law that chooses what is free, thinned: the first that reaches this student, else the nearest.

        Raises:
            ConfigError: no law with numbers at all.
        """
        speaking = [v for v in self.voices if v.ensemble is not None and not v.is_refused]
        speaking = speaking or [v for v in self.voices if v.ensemble is not None]
        if not speaking:
            said = "; ".join(f"{v.source}: {v.status}: {v.note}" for v in self.voices) or "none was given"
            raise ConfigError(
                f"no law to plan with ({said}). Name one with --law, or allow the published ones"
            )
        away = [_distance(situation, voice) for voice in speaking]
        within = [v for v, e in zip(speaking, away, strict=True) if e <= v.doubt.reach and v.may_decide]
        voice = within[0] if within else speaking[int(np.argmin(away))]
        assert voice.ensemble is not None
        size = voice.ensemble.size
        kept = np.linspace(0, size - 1, min(size, _LEAD_MEMBERS)).astype(int)
        return replace(voice, ensemble=voice.ensemble.take(kept))


def _distance(situation: Situation, voice: Voice) -> float:
    """E-folds of the student outside a law's range; nothing is known of one of free size."""
    size = situation.student_params
    if size is None:
        return 0.0
    at = {"student_params": [size], "student_tokens": [training_tokens(situation, size)]}
    return max(efolds_outside(voice.range, at).values(), default=0.0)


def options_of(situation: Situation, sources: Sources, *, is_sketch: bool = False) -> list[Option]:
    """What could be done.

    Args:
        situation: the question.
        sources: the lead among them chooses what is free.
        is_sketch: roughly and fast, without strategies that no law describes.

    Raises:
        ConfigError: nothing but pretraining can be paid for.
    """
    lead = sources.lead(situation)
    assert lead.ensemble is not None
    is_small = lead.kind == "fitted" and not situation.inference_tokens
    own = None if is_sketch else _own_loss(situation, sources)
    scale = sources.scales.get(lead.source) or text_scale(lead, situation, own)
    scaled = scale.asked(situation)
    options = find_options(scaled, lead.ensemble, is_sketch=is_sketch,
                           size_prior=SIZE_PRIOR if is_small else 0.0)  # fmt: skip
    given = dict(zip(scaled.teachers, situation.teachers, strict=True))
    options = [
        o if o.teacher is None else replace(o, teacher=given.get(o.teacher, o.teacher)) for o in options
    ]
    if all(option.teacher is None for option in options):
        from distillaw.quantities import format_flop

        assert situation.compute is not None
        raise ConfigError(
            f"compute {format_flop(situation.compute)} pays for no teacher considered. Raise it, name a teacher of "
            "known size that exists, share its bill (--students-served), or choose --scenario best-case"
        )
    return options


def _own_loss(situation: Situation, sources: Sources) -> tuple[Option, float] | None:
    """Pretraining at the student's size and its loss, where the study ran that."""
    size = situation.student_params
    if sources.record is None or size is None:
        return None
    from distillaw.planning.measured import student_arms

    tokens = training_tokens(situation, size)
    arms = student_arms(sources.record, size)
    point = arms[0].at(tokens) if arms and arms[0].teacher is None else None
    if point is None:
        return None
    return Option(kind="pretrain", student_params=size, student_tokens=point.tokens), point.mean_loss


def consult(
    situation: Situation,
    sources: Sources,
    options: Sequence[Option],
    *,
    with_runs: bool = True,
) -> list[Evidence]:
    """Every source in order of trust, silent ones included.

    Args:
        situation: the question.
        sources: who is asked.
        options: what could be done.
        with_runs: whether paired runs are read too.
    """
    found: list[Evidence] = []
    if sources.record is not None and with_runs:
        from distillaw.planning.paired import paired_evidence

        rng = np.random.default_rng([sources.seed, 0])
        found.append(
            paired_evidence(situation, sources.record, situation.teachers, level=sources.level, rng=rng)
        )
    for voice in sources.voices:
        known = next(
            (e.pretrain.loss.mean for e in found if _knows_the_text(e) and e.pretrain is not None), None
        )
        scale = sources.scales.get(voice.source)
        found.append(
            law_evidence(situation, voice, options, level=sources.level, own_loss=known, scale=scale)
        )
    return found


def _knows_the_text(evidence: Evidence) -> bool:
    """Runs and fits on the user's own text, as far as they may decide."""
    return evidence.kind in ("measured", "fitted") and evidence.is_decisive
