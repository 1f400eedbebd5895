"""Numbers that know their convention, so that counts of different kinds are never added or compared.

A plain float named `params` is N, non-embedding, everywhere in this package (interface contract). A number
that is something else travels as a `Params`, and a compute that is not model FLOP as a `Compute`; mixing
two kinds raises `UnitError` with the conversion to use.

The compute axis of "score against training compute" plots of released models is one of these kinds:

    x = 6 N D                                 ordinary training
    x = 6 N_S D + 2 N_T D                     distillation: student training + teacher forward
    x = 6 N_active D                          mixture of experts
    x = x_base + x_added                      continued training, upcycling

N is all weights, there is no attention term, and teacher training, vocabulary adaptation, pruning, evaluation and
synthetic data are not counted unless asked for. Source: the code and figures of arXiv:2311.07052.
"""

from collections.abc import Callable
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

    def __add__(self, other: "Params") -> "Params":
        return Params(self.value + other.require(self.convention, purpose="a sum"), self.convention)


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


class ComputeAxis(StrEnum):
    """What a FLOP count includes."""

    MODEL = "model FLOP, 3 F D"
    """Matrix products with causal attention and the head."""
    ALL_WEIGHTS_6ND = "6 N D over all weights"
    """The Pareto plots of released models: no attention term (docs/recipe.md)."""


@dataclass(frozen=True, slots=True)
class Compute:
    """A FLOP count and what it includes; only counts of one axis add up or compare."""

    flop: float
    axis: ComputeAxis

    def __add__(self, other: "Compute") -> "Compute":
        return Compute(self._with(other, lambda a, b: a + b, "be added"), self.axis)

    def __lt__(self, other: "Compute") -> bool:
        return self._with(other, lambda a, b: a - b, "be compared") < 0

    def _with(self, other: "Compute", combine: Callable[[float, float], float], verb: str) -> float:
        if other.axis is not self.axis:
            raise UnitError(
                f"{self.flop:g} FLOP ({self.axis}) and {other.flop:g} FLOP ({other.axis}) cannot {verb}: one "
                "counts attention and non-embedding weights, the other all weights without attention. Compute "
                "both on one axis"
            )
        return combine(self.flop, other.flop)


PRINTED_UNIT = 1e21
"""FLOP in one unit of the published axis, "1e9 TFLOPs"."""


def training_axis(params: Params, tokens: float) -> Compute:
    """6 N D of ordinary training; pass active weights for a mixture of experts.

    Example:
        >>> round(training_axis(Params(7e9, ParamConvention.ALL_WEIGHTS), 2e12).flop / PRINTED_UNIT, 1)
        84.0
    """
    return _axis(6 * _all_weights(params) * tokens)


def distillation_axis(student: Params, teacher: Params, tokens: float, *, teacher_tokens: float = 0.0) -> Compute:
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
