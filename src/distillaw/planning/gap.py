"""The capacity gap: the best teacher for one student under every law known, how flat that is, and who disagrees.

A distillation law gives the best teacher through its loss, for students from random weights; the line of capacity
gap gives its size, for students pruned from the very teacher they learn from (docs/gap.md). Each row says
which of the two it is about, whether it lies in the range of its runs, and what following it costs if another law is
right. Why a stronger teacher can hurt: `planning/learning_capacity.py`. No cost of a teacher is counted here.

    distillaw gap --student 1B --tokens 20B --explain
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distillaw.errors import ConfigError, UnitError
from distillaw.fitting.query import load_law
from distillaw.fitting.result import FitResult
from distillaw.laws.base import log_positive
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import published
from distillaw.planning.gap_opinion import GapQuestion, Opinion, speak, speak_of_sizes
from distillaw.planning.voices import SURROGATES, LawLike, Voice, find_voices, fitted_voice, published_voice
from distillaw.quantities import format_count


@dataclass(frozen=True, slots=True, kw_only=True)
class GapAnswer:
    """Every opinion, the one that leads, and their disagreement."""

    question: GapQuestion
    opinions: tuple[Opinion, ...]
    voices: tuple[Voice, ...]
    lead: Opinion | None
    """The first usable opinion about losses: the user's fits, else the laws named, else the surrogates."""
    disagreement: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The answer of `distillaw gap --json`."""
        q = self.question
        return {
            "student_params": q.student_params, "student_tokens": q.student_tokens, **q.schedule,
            "teacher": q.teacher_name, "teacher_loss": q.teacher_loss, "margin": q.margin,
            "recommended": None if self.lead is None else self.lead.law,
            "opinions": [o.to_json(q.student_params) for o in self.opinions],
            "disagreement": list(self.disagreement),
        }  # fmt: skip


def capacity_gap(question: GapQuestion, *, laws: Sequence[LawLike] = ()) -> GapAnswer:
    """The best teacher for a student under each law.

    Args:
        question: the student and its possible teachers.
        laws: published laws or fitted ones (distillation families, capacity-gap), as names, files or objects; they
            come before the surrogates, Table 6 verbatim and the published lines, which are always heard.

    Raises:
        ConfigError: an impossible question, a law without a word on teachers, a named line below its smallest student,
            or a teacher at hand below the leading law's irreducible loss.
        UnitError: a fit that counts other parameters.
    """
    _check(question)
    named = [_named(law) for law in laws]
    asked = {voice.source for voice, _ in named}
    heard = named + [(v, None) for v in _always_heard() if v.source not in asked]
    voices = tuple(voice for voice, _ in heard if voice.ensemble is not None)
    opinions = [
        speak(question, v) if v.line is None else speak_of_sizes(question, v, fit, is_named=v.source in asked)
        for v, fit in heard
    ]
    opinions = tuple(_set_against(question, o, voices, opinions) for o in opinions)
    lead = next((o for o in opinions if o.is_usable and o.curve is not None), None)
    if question.teacher_loss is not None:
        _check_loss(
            question.teacher_loss, next((v for v in voices if lead and v.source == lead.law), voices[0])
        )
    return GapAnswer(question=question, opinions=opinions, voices=voices, lead=lead,
                     disagreement=tuple(_disagreement(opinions, lead)))  # fmt: skip


def _always_heard() -> list[Voice]:
    """The surrogates together and one by one, Table 6 verbatim, the lines."""
    together, *others = find_voices(None, (), published_too=True)
    return [together, *(published_voice(name, [published(name)]) for name in SURROGATES), *others]


def _named(law: LawLike) -> tuple[Voice, FitResult | None]:
    """A law that was asked for, which must have something to say; with the fit, where it is one."""
    name = (
        str(law)
        if isinstance(law, str | Path)
        else f"fitted {law.family} law"
        if isinstance(law, FitResult)
        else ""
    )
    found = load_law(name) if isinstance(law, str | Path) else law
    if not isinstance(found, FitResult):
        return find_voices(None, [found], published_too=False)[0], None
    voice = fitted_voice(found, name)
    if voice.ensemble is None and voice.line is None:
        error = UnitError if voice.status == "OTHER_CONVENTION" else ConfigError
        raise error(f"{name}: {voice.status}: {voice.note}")
    return voice, found


def _check(q: GapQuestion) -> None:
    log_positive("student_params", q.student_params), log_positive("student_tokens", q.student_tokens)
    if (q.teacher_tokens is None) == (q.teacher_tokens_per_param is None):
        raise ConfigError(
            "give either the teachers' tokens or their tokens per parameter, not both and not none"
        )


def _check_loss(teacher_loss: float, voice: Voice) -> None:
    assert voice.ensemble is not None
    floor = float(np.median(np.exp(voice.ensemble.plain["log_E"])))
    if teacher_loss <= floor:
        raise ConfigError(
            f"teacher_loss: got {teacher_loss:.4g}, at or below {floor:.4g}, the irreducible loss of {voice.source}: "
            "no teacher gets there. Give nats per token on the student's text and tokenizer, or a law fitted on them"
        )


def _set_against(
    q: GapQuestion, opinion: Opinion, voices: Sequence[Voice], opinions: Sequence[Opinion]
) -> Opinion:
    """The opinion with what its teacher costs, in per cent above each other voice's own best."""
    if opinion.best_params is None:
        return opinion
    others = {o.law: o for o in opinions if o.best_loss is not None and o.law != opinion.law}
    costs = {}
    for voice in voices:
        if voice.source in others:
            loss = _loss_with(q, voice.ensemble, opinion.best_params)
            costs[voice.source] = 100 * (loss / (others[voice.source].best_loss or loss) - 1)
    worst = max((cost for law, cost in costs.items() if others[law].is_usable), default=None)
    return replace(opinion, elsewhere=costs, if_wrong=worst)


def _loss_with(q: GapQuestion, ensemble: LawEnsemble | None, size: float) -> float:
    """Mean student loss from a teacher of this size."""
    assert ensemble is not None
    x, tokens, n, d = (
        np.full((1, 1), math.log(v)) for v in (size, q.tokens_of(size), q.student_params, q.student_tokens)
    )
    return float(np.exp(ensemble.log_distilled(n, d, ensemble.log_supervised(x, tokens))).mean())


def _disagreement(opinions: Sequence[Opinion], lead: Opinion | None) -> list[str]:
    """How far the laws are apart, in size and in what it costs."""
    single = {o.law: o for o in opinions if o.is_usable and o.curve is not None and not o.is_a_group}
    sizes = {law: o.best_params or 0.0 for law, o in single.items()}
    found = []
    if len(sizes) > 1:
        low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        worst = max(o.if_wrong or 0.0 for o in single.values())
        found.append(
            f"The laws of losses put the best teacher between {format_count(sizes[low])} ({low}) and "
            f"{format_count(sizes[high])} ({high}), a factor {sizes[high] / sizes[low]:.2g}. Following one of them "
            f"when another is right costs at most {worst:.2g} % of the loss."
        )
    for o in opinions:
        if o.kind == "line" and o.best_params is not None and lead is not None:
            found.append(
                f"{o.law} says {format_count(o.best_params)}, for students {_START[o.start]}. Under {lead.law} "
                f"that teacher costs {(o.elsewhere or {})[lead.law]:.2g} % of the loss."
            )
    return found


_START = {"pruned-same": "pruned from the teacher they learn from",
          "as in the runs fitted": "that start as in the runs fitted"}  # fmt: skip
