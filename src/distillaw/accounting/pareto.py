"""The compute axis of "score against training compute" plots of released models.

    x = 6 N D                                 ordinary training
    x = 6 N_S D + 2 N_T D                     distillation: student training + teacher forward
    x = 6 N_active D                          mixture of experts
    x = x_base + x_added                      continued training, upcycling

N is all weights, there is no attention term, and teacher training, vocabulary adaptation, pruning,
evaluation and synthetic data are not counted unless asked for. Source: the code and figures of
arXiv 2311.07052. Never on one axis with model FLOP: the result is a `Compute` that
refuses the mix.
"""

from distillaw.accounting.conventions import Compute, ComputeAxis, ParamConvention, Params
from distillaw.errors import UnitError

PRINTED_UNIT = 1e21
"""FLOP in one unit of the published axis, "1e9 TFLOPs"."""


def training_axis(params: Params, tokens: float) -> Compute:
    """6 N D of ordinary training; pass active weights for a mixture of experts.

    Example:
        >>> from distillaw.accounting.conventions import ParamConvention as C
        >>> round(training_axis(Params(7e9, C.ALL_WEIGHTS), 2e12).flop / PRINTED_UNIT, 1)
        84.0
    """
    return _axis(6 * _all_weights(params) * tokens)


def distillation_axis(
    student: Params, teacher: Params, tokens: float, *, teacher_tokens: float = 0.0
) -> Compute:
    """6 N_S D + 2 N_T D, plus 6 N_T D_T if the teacher's training is to be shown (off by default)."""
    flop = (6 * _all_weights(student) + 2 * _all_weights(teacher)) * tokens
    return _axis(flop + 6 * _all_weights(teacher) * teacher_tokens)


def _axis(flop: float) -> Compute:
    return Compute(flop, ComputeAxis.ALL_WEIGHTS_6ND)


def _all_weights(params: Params) -> float:
    if not isinstance(params, Params):
        raise UnitError(
            f"got the bare number {params!r}; this axis counts all weights, plain numbers are non-embedding. "
            "Pass Params(value, ParamConvention.ALL_WEIGHTS)"
        )
    return params.require(ParamConvention.ALL_WEIGHTS, purpose="the 6 N D axis")
