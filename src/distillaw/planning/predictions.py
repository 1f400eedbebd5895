"""The loss of one option under every member of an ensemble of laws.

Plain and distilled students are the two laws themselves. Two strategies that no law describes are estimated:

    distil-then-pretrain  after the taught part the student stands where pretraining would have brought it after
                          D_eq tokens, L(N, D_eq) = L_S, and goes on from there. Nobody has measured this hand-over.
    prune-and-distil      a pruned start is worth 1 to PRUNED_WORTH times the tokens, the middle on a log scale.

The doubt that belongs to an option alone is returned beside its loss.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distillaw.laws.base import Array
from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.bills import effective_tokens
from distillaw.planning.situation import Situation, Teacher

if TYPE_CHECKING:
    from distillaw.planning.options import Option

PRUNED_WORTH = 20.0
"""Sheared-LLaMA: 5e10 tokens after pruning against 1e12 of an open model of its size trained from scratch; Minitron
claims up to 40 (docs/prune.md). Both are about skill, not about loss: in loss, starts of 0.08M students cut
from the open runs' teachers were worth 1.3 (a thirteenth kept) to 4 times the tokens (docs/open-runs.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionLoss:
    """What an ensemble makes of one option."""

    loss: Array
    """(m,), nats/token."""
    teacher_loss: Array | None = None
    """(m,), as used."""
    doubt: float = 0.0
    """Standard deviation, nats/token, of what is uncertain about this option alone."""


def option_loss(ensemble: LawEnsemble, situation: Situation, option: "Option") -> OptionLoss:
    """Loss by member, with the teacher's loss that was used and the option's own doubt."""
    n = np.log(np.full(1, option.student_params))
    d = np.log(np.atleast_1d(effective_tokens(situation, option.student_tokens)))
    if option.teacher is None:
        return OptionLoss(loss=np.exp(ensemble.log_supervised(n, d)))
    t = teacher_losses(ensemble, situation, option.teacher)
    known = option.teacher.loss is not None
    spread = option.teacher.loss_se if known else option.teacher.law_error * float(np.exp(t).mean())
    if option.kind == "distil-then-pretrain":
        after, pure = handed_over(
            ensemble, situation, option, np.array([option.student_tokens]), np.array([option.taught])
        )
        claim = float(np.abs(after - pure).mean())
        return OptionLoss(loss=after[:, 0], teacher_loss=np.exp(t), doubt=claim)
    if option.kind == "prune-and-distil":
        ends = [np.exp(ensemble.log_distilled(n, d + np.log(w), t)) for w in (1.0, PRUNED_WORTH)]
        middle = np.exp(ensemble.log_distilled(n, d + np.log(PRUNED_WORTH) / 2, t))
        return OptionLoss(loss=middle, teacher_loss=np.exp(t), doubt=float(np.mean(ends[0] - ends[1])) / 2)
    low, middle, high = (
        np.exp(ensemble.log_distilled(n, d, np.log(np.exp(t) + s))) for s in (-spread, 0.0, spread)
    )
    return OptionLoss(loss=middle, teacher_loss=np.exp(t), doubt=float(np.abs(high - low).mean()) / 2)


def teacher_losses(ensemble: LawEnsemble, situation: Situation, teacher: Teacher) -> Array:
    """Ln L_T by member, shape (m,): as given, or as each law estimates it from size and tokens."""
    if teacher.loss is not None:
        return np.log(np.full(ensemble.size, teacher.loss))
    assert teacher.params is not None and teacher.tokens is not None, "a Teacher has one or the other"
    tokens = teacher.tokens if teacher.exists else float(effective_tokens(situation, teacher.tokens))
    return ensemble.log_supervised(np.log(np.full(1, teacher.params)), np.log(np.full(1, tokens)))


def handed_over(
    ensemble: LawEnsemble, situation: Situation, option: "Option", tokens: Array, taught: Array
) -> tuple[Array, Array]:
    """Losses (m, k) after distilling on a share of the tokens and going on alone, and of the better pure strategy.

    Args:
        ensemble: m laws.
        situation: says how repeats count.
        option: names the student and the teacher.
        tokens: (k,), in all.
        taught: (k,), share that comes with the teacher's targets.
    """
    assert option.teacher is not None
    n = np.full((1, 1), np.log(option.student_params))
    t = teacher_losses(ensemble, situation, option.teacher)[:, None]
    whole = effective_tokens(situation, tokens)
    first = ensemble.log_distilled(n, np.log(effective_tokens(situation, taught * tokens))[None], t)
    stands = ensemble.log_tokens_for(n, first)
    onwards = ensemble.log_supervised(n, np.logaddexp(stands, np.log(whole * (1 - taught))[None]))
    after = np.where(np.isfinite(stands), onwards, first)
    d = np.log(whole)[None]
    pure = np.minimum(ensemble.log_distilled(n, d, t), ensemble.log_supervised(n, d))
    return np.exp(after), np.exp(pure)
