"""A published law asked about the user's text: losses of two texts are brought to one scale.

What a law made for other text and another tokenizer still knows is the relative gain at a ratio L_T / L_S. So where
the user's own losses are known, its losses are scaled to them; asked at face value it errs by as much as the texts
differ (20 % of the loss in simulated truths, against 1.5 %; benchmarks/verdict/run.py).

A teacher whose size, tokens and loss are all known deviates from a law by d = ln(loss / the law's estimate). Part of
that is the text s, which all models share, and part the teacher q: how well its own training serves this text.

    d_j = s + q_j,   s ~ N(0, k^2 TEXT_SPREAD^2),   q_j ~ N(0, k^2 (law_error_j^2 + loss_se_j^2))
    E[s | d] = sum(d_j / v_j) / (1 / TEXT_SPREAD^2 + sum(1 / v_j)),   v_j = law_error_j^2 + loss_se_j^2

k is common and unknown (texts that are further from the web are further in both): with a chi-squared prior of DOF
degrees of freedom the means stay what they are, and the uncertainty of s grows with the deviation seen. The student's
own loss, where a study or a baseline of the user's tells it (baseline.py), is the text's scale by itself, and the
teacher's loss then counts whole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.baseline import scale_at
from distillaw.planning.bills import effective_tokens
from distillaw.planning.evidence import TEXT_SCALE, Evidence
from distillaw.planning.options import Option, OptionLoss, option_loss, teacher_losses
from distillaw.planning.situation import Situation, Teacher, training_tokens
from distillaw.planning.voices import Voice, efolds_outside

LARGEST_GAIN = 0.15
"""Share of the loss; inside the laws' ranges no teacher of any use changes a student's loss by more."""
TEXT_SPREAD = 0.05
"""Standard deviation of s where k = 1. Over 8 texts and 3 training sets (Gadre et al. 2024, 80 models) texts differ by
1.3 times as much as training sets do on one text, in the mean of logarithms, through one tokenizer; other tokenizers
add to that. With `FOREIGN_TEXT_ERROR` a quarter of a deviation is then the teacher's."""
LEAST = 1e-9
"""A teacher that follows the law exactly, and still no division by zero."""
DOF = 3.0
"""Of k: the same deviations, from 0.004 to 0.64, have the tails of a t with two or three degrees of freedom."""

_KEYS = {
    "ratio": TEXT_SCALE,
    "sd": f"{TEXT_SCALE}_sd",
    "is_guess": f"{TEXT_SCALE}_is_guess",
    "by_baseline": f"{TEXT_SCALE}_by_baseline",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScale:
    """The user's losses over the law's, for the same models."""

    ratio: float = 1.0
    sd: float = 0.0
    """Standard deviation of ln ratio."""
    is_guess: bool = False
    """True where a teacher was measured on the user's text and nothing says how that text compares: 1 is assumed."""
    by_baseline: bool = False
    """True where the user's own baselines tell it."""

    def asked(self, situation: Situation) -> Situation:
        """The question as the law is asked it: every teacher's loss on the law's text."""
        return replace(situation, teachers=[self.teacher_on_law_text(t) for t in situation.teachers])

    @classmethod
    def of(cls, evidence: Evidence) -> "TextScale":
        """The scale at which a law was asked; 1 where it needed none."""
        found = {name: evidence.details[key] for name, key in _KEYS.items() if key in evidence.details}
        return cls(**found)  # type: ignore[arg-type]

    @property
    def details(self) -> dict[str, object]:
        """For `Evidence.details`; what a baseline tells is there where one was given."""
        known = {key: getattr(self, name) for name, key in _KEYS.items()}
        return known if self.by_baseline else {k: v for k, v in known.items() if k != _KEYS["by_baseline"]}

    def moved(self, deviations: float) -> "TextScale":
        """The same, so many standard deviations off."""
        return replace(self, ratio=self.ratio * math.exp(deviations * self.sd))

    def teacher_on_law_text(self, teacher: Teacher) -> Teacher:
        """The teacher with its measured loss as it would be on the law's text."""
        if teacher.loss is None or self.ratio == 1:
            return teacher
        return replace(teacher, loss=teacher.loss / self.ratio, loss_se=teacher.loss_se / self.ratio)

    def on_law_text(self, option: Option) -> Option:
        """The option with such a teacher."""
        if option.teacher is None:
            return option
        return replace(option, teacher=self.teacher_on_law_text(option.teacher))

    def on_user_text(self, predicted: OptionLoss) -> OptionLoss:
        """A prediction of the law on the user's scale."""
        teacher = None if predicted.teacher_loss is None else predicted.teacher_loss * self.ratio
        return OptionLoss(loss=predicted.loss * self.ratio, teacher_loss=teacher, sd=predicted.sd * self.ratio)

    def is_implausible(self, options: Sequence[Option], predicted: Sequence[OptionLoss]) -> bool:
        """True where a guessed scale makes a measured teacher change the loss by more than any teacher does."""
        if not self.is_guess:
            return False
        own = float(predicted[0].loss.mean())
        both = zip(options, predicted, strict=True)
        measured = [p for o, p in both if o.teacher is not None and o.teacher.loss is not None]
        return any(abs(own - float(p.loss.mean())) > LARGEST_GAIN * own for p in measured)


def text_scale(
    voice: Voice, situation: Situation, alone: Option | None = None, own_loss: float | None = None
) -> TextScale:
    """How the user's losses compare with a law's.

    A law fitted on the user's text, or one that estimates the teachers' losses itself, needs no scale. Else the
    student's own loss tells, or teachers whose size, tokens and loss are all known.

    Args:
        voice: the law, with an ensemble.
        situation: the question, with every teacher at hand.
        alone: pretraining: a baseline tells the scale at its size and tokens. None where they are not found yet.
        own_loss: its loss on the user's text, where something better than this law knows that.
    """
    ensemble = voice.ensemble
    assert ensemble is not None
    measured = [t for t in situation.teachers if t.loss is not None]
    if voice.kind != "fitted" and situation.baselines:
        return _of_baselines(voice, situation, alone)
    if voice.kind == "fitted" or not (measured or own_loss is not None):
        return TextScale()
    if own_loss is not None:
        assert alone is not None
        return TextScale(ratio=own_loss / float(option_loss(ensemble, situation, alone).loss.mean()))
    whole = [t for t in measured if t.params is not None and t.tokens is not None]
    if not whole:
        return TextScale(is_guess=True)
    return _shared([deviation(ensemble, situation, t) for t in whole], whole)


def _of_baselines(voice: Voice, situation: Situation, alone: Option | None) -> TextScale:
    """The scale at pretraining; where its size is free and not found yet, at the largest baseline."""
    assert voice.ensemble is not None
    read = [replace(b, tokens=float(effective_tokens(situation, b.tokens))) for b in situation.baselines]
    size = situation.student_params
    if alone is not None:
        params, tokens = alone.student_params, alone.student_tokens
    elif size is not None:
        params, tokens = size, training_tokens(situation, size)
    else:
        params, tokens = max((b.params, b.tokens) for b in situation.baselines)
    tokens = float(effective_tokens(situation, tokens))
    models = {
        "student_params": [params, *(b.params for b in read)],
        "student_tokens": [tokens, *(b.tokens for b in read)],
    }
    outside = max(efolds_outside(voice.range, models).values(), default=0.0)
    log_ratio, sd = scale_at(voice.ensemble, read, params=params, tokens=tokens, outside=outside)
    return TextScale(ratio=math.exp(log_ratio), sd=sd, by_baseline=True)


def lowest_floor(voices: Sequence[Voice], situation: Situation) -> float:
    """Lowest irreducible loss of laws on the user's text, as far as baselines say how that compares, nats/token."""
    lowest = math.inf
    for voice in voices:
        if voice.ensemble is not None:
            scale = text_scale(voice, situation).ratio if situation.baselines else 1.0
            lowest = min(lowest, scale * float(voice.ensemble.irreducible.min()))
    return lowest if lowest < math.inf else 0.0


def deviation(ensemble: LawEnsemble, situation: Situation, teacher: Teacher) -> float:
    """D = ln(measured loss / what the laws make of the teacher's size and tokens)."""
    estimated = teacher_losses(ensemble, situation, replace(teacher, loss=None))
    return math.log(teacher.loss or 1.0) - float(estimated.mean())


def _shared(deviations: Sequence[float], teachers: Sequence[Teacher]) -> TextScale:
    """The part of the deviations that the text explains, as in the head of this file."""
    d = np.array(deviations)
    v = np.array([t.law_error**2 + (t.loss_se / (t.loss or 1.0)) ** 2 for t in teachers])
    v = np.maximum(v, LEAST**2)
    precision = 1 / TEXT_SPREAD**2 + float((1 / v).sum())
    middle = float((d / v).sum()) / precision
    chi2 = float((d**2 / v).sum()) - middle**2 * precision
    k2 = (DOF + chi2) / (DOF + len(d))
    return TextScale(ratio=math.exp(middle), sd=math.sqrt(k2 / precision))
