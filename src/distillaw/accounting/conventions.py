"""Numbers that know their convention, so that counts of different kinds are never added or compared.

A plain float named `params` is N, non-embedding, everywhere in this package (interface contract). A number that is
something else travels as a `Params`; mixing two kinds raises `UnitError` with the conversion to use.

The compute axis of "score against training compute" plots of released models is not model FLOP:

    x = 6 N D                                 ordinary training
    x = 6 N_S D + 2 N_T D                     distillation: student training + teacher forward
    x = 6 N_active D                          mixture of experts
    x = x_base + x_added                      continued training, upcycling

N is all weights, there is no attention term, and teacher training, vocabulary adaptation, pruning, evaluation and
synthetic data are not counted unless asked for. Source: the code and figures of arXiv:2311.07052.
"""

from dataclasses import dataclass
from enum import StrEnum

from distillaw.accounting.architecture import ParamCount
from distillaw.errors import UnitError


class ParamConvention(StrEnum):
    """What a parameter count includes (docs/accounting.md)."""

    NON_EMBEDDING = "non-embedding"
    """N: neither look-up tables nor output head. The laws of arXiv 2502.08606."""
    ONE_MATRIX = "one-matrix"
    """N plus one vocabulary x width matrix: N_total in that paper's table."""
    ALL_WEIGHTS = "all-weights"
    """N plus look-up tables plus output head: the axis of arXiv 2311.07052."""


@dataclass(frozen=True, slots=True)
class Params:
    """A parameter count and what it includes."""

    value: float
    convention: ParamConvention

    def require(self, convention: ParamConvention, *, purpose: str) -> float:
        """The value, if it is of the convention that `purpose` needs.

        Raises:
            UnitError: it is of another one.
        """
        if self.convention is not convention:
            raise UnitError(
                f"{purpose} needs {convention} parameters, got {self.value:g} {self.convention}. Counts of the "
                "two kinds differ by 5-30 %; convert with `FixedAspect.convert`, or count from the shape with "
                "`count_params`"
            )
        return self.value


def params_of(count: ParamCount, convention: ParamConvention, *, active: bool = False) -> Params:
    """One of the conventions of an exact count; `active` leaves out experts that a token does not visit."""
    value = {
        ParamConvention.NON_EMBEDDING: count.active_non_embedding if active else count.non_embedding,
        ParamConvention.ALL_WEIGHTS: count.active_total if active else count.total,
        ParamConvention.ONE_MATRIX: count.one_matrix - (count.total - count.active_total if active else 0),
    }[convention]
    return Params(float(value), convention)


def as_non_embedding(params: float | Params, *, purpose: str) -> float:
    """N of a plain number (which is N by contract) or of a `Params` that says so.

    Raises:
        UnitError: a `Params` of another convention.
    """
    if isinstance(params, Params):
        return params.require(ParamConvention.NON_EMBEDDING, purpose=purpose)
    return params


PRINTED_UNIT = 1e21
"""FLOP in one unit of the published axis, "1e9 TFLOPs"."""


def training_axis(params: Params, tokens: float) -> float:
    """FLOP of ordinary training on that axis, 6 N D; pass active weights for a mixture of experts.

    Raises:
        UnitError: a plain number, which is non-embedding, or a `Params` of another convention.

    Example:
        >>> round(training_axis(Params(7e9, ParamConvention.ALL_WEIGHTS), 2e12) / PRINTED_UNIT, 1)
        84.0
    """
    return 6 * _all_weights(params) * tokens


def distillation_axis(student: Params, teacher: Params, tokens: float, *, teacher_tokens: float = 0.0) -> float:
    """6 N_S D + 2 N_T D, plus 6 N_T D_T if the teacher's training is to be shown (off by default); as above."""
    flop = (6 * _all_weights(student) + 2 * _all_weights(teacher)) * tokens
    return flop + 6 * _all_weights(teacher) * teacher_tokens


def _all_weights(params: Params) -> float:
    if not isinstance(params, Params):
        raise UnitError(
            f"got the bare number {params!r}; this axis counts all weights, plain numbers are non-embedding. "
            "Pass Params(value, ParamConvention.ALL_WEIGHTS)"
        )
    return params.require(ParamConvention.ALL_WEIGHTS, purpose="the 6 N D axis")
