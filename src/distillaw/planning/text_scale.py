"""A published law asked about the user's text: losses of two texts are brought to one scale.

What a law made for other text and another tokenizer still knows is the relative gain at a ratio L_T / L_S. So where
the user's own losses are known, its losses are scaled to them; asked at face value it errs by as much as the texts
differ (20 % of the loss in simulated truths, against 1.5 %; benchmarks/planner.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distillaw.planning.evidence import TEXT_SCALE, Evidence
from distillaw.planning.options import Option
from distillaw.planning.predictions import OptionLoss, option_loss, teacher_losses
from distillaw.planning.situation import Situation, Teacher
from distillaw.planning.voices import Voice

LARGEST_GAIN = 0.15
"""Share of the loss; inside the laws' ranges no teacher of any use changes a student's loss by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScale:
    """The user's losses over the law's, for the same models."""

    ratio: float = 1.0
    is_guess: bool = False
    """True where a teacher was measured on the user's text and nothing says how that text compares: 1 is assumed."""

    def asked(self, situation: Situation) -> Situation:
        """The question as the law is asked it: every teacher's loss on the law's text."""
        return replace(situation, teachers=[self.teacher_on_law_text(t) for t in situation.teachers])

    @classmethod
    def of(cls, evidence: Evidence) -> "TextScale":
        """The scale at which a law was asked; 1 where it needed none."""
        return cls(ratio=float(evidence.details.get(TEXT_SCALE, 1.0)))  # type: ignore[arg-type]

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
        return OptionLoss(
            loss=predicted.loss * self.ratio, teacher_loss=teacher, doubt=predicted.doubt * self.ratio
        )

    def is_implausible(self, options: Sequence[Option], predicted: Sequence[OptionLoss]) -> bool:
        """True where a guessed scale makes a measured teacher change the loss by more than any teacher does."""
        if not self.is_guess:
            return False
        own = float(predicted[0].loss.mean())
        both = zip(options, predicted, strict=True)
        measured = [p for o, p in both if o.teacher is not None and o.teacher.loss is not None]
        return any(abs(own - float(p.loss.mean())) > LARGEST_GAIN * own for p in measured)


def text_scale(
    voice: Voice, situation: Situation, teachers: Sequence[Teacher], own: tuple[Option, float] | None
) -> TextScale:
    """How the user's losses compare with a law's.

    A law fitted on the user's text, or one that estimates the teachers' losses itself, needs no scale. Else the
    student's own loss tells, or teachers whose size, tokens and loss are all known.

    Args:
        voice: the law, with an ensemble.
        situation: the question.
        teachers: those considered.
        own: pretraining and its loss on the user's text, where something better than this law knows that.
    """
    ensemble = voice.ensemble
    assert ensemble is not None
    measured = [t for t in teachers if t.loss is not None]
    if voice.kind == "fitted" or not (measured or own is not None):
        return TextScale()
    if own is not None:
        alone, loss = own
        return TextScale(ratio=loss / float(option_loss(ensemble, situation, alone).loss.mean()))
    whole = [t for t in measured if t.params is not None and t.tokens is not None]
    if not whole:
        return TextScale(is_guess=True)
    logs = [
        math.log(t.loss or 1.0) - teacher_losses(ensemble, situation, replace(t, loss=None)).mean()
        for t in whole
    ]
    return TextScale(ratio=float(np.exp(np.mean(logs))))
