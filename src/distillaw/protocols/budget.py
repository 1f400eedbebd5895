"""The largest study of a kind within a budget of FLOP or hours: its scale is searched, its shape stays."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from distillaw.errors import ConfigError
from distillaw.protocols.catalogue import Kind
from distillaw.protocols.scale import EMBEDDING_SHARE, Asked, embedding_share
from distillaw.protocols.sheet import Sheet
from distillaw.sweep.cost import StudyCost, study_cost

SMALLEST, LARGEST = 1 / 64, 2.0**40
"""Compute relative to a kind's defaults."""
_ROUNDS = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What may be spent."""

    amount: float
    price: Callable[[StudyCost], float]
    """What a study costs in the unit of the amount."""
    show: Callable[[float], str]
    """An amount in words."""


def within(kind: Kind, asked: Asked, limit: Limit) -> Sheet:
    """The study of this kind that spends most of a budget.

    Args:
        kind: the template.
        asked: what the user fixed; sizes or tokens must be left open.
        limit: the budget.

    Raises:
        ConfigError: nothing left to choose, or the smallest study costs more (its cost is named).
    """
    if asked.tokens and (asked.students or asked.teachers):
        raise ConfigError("--tokens with sizes and a budget leave nothing to choose: drop one of them")
    low = _smallest_factor(kind, asked)
    least = _price(kind, asked, low, limit)
    if least > limit.amount:
        raise ConfigError(
            f"--kind {kind.name} within {limit.show(limit.amount)}: the smallest that works costs {limit.show(least)} "
            "(800 steps at the smallest budget, a vocabulary of at most 30 % of the smallest student). Give at least "
            "that, smaller --students and --teachers, or another kind; `distillaw study new` lists them with costs"
        )
    high = low
    while high < LARGEST and _fits(kind, asked, 2 * high, limit):
        high *= 2
    low, high = high, 2 * high
    for _ in range(_ROUNDS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _fits(kind, asked, middle, limit) else (low, middle)
        if high / low < 1.01:
            break
    return kind.sheet(asked, low)


def _smallest_factor(kind: Kind, asked: Asked) -> float:
    """The smallest scale that the rules of a study allow."""
    factor = 1.0
    while factor / 2 >= SMALLEST and _is_allowed(kind, asked, factor / 2):
        factor /= 2
    return factor


def _is_allowed(kind: Kind, asked: Asked, factor: float) -> bool:
    try:
        scale = kind.sheet(asked, factor).scale
    except ConfigError:
        return False
    share = embedding_share(scale.students[0], scale.vocab, scale.recipe)
    return bool(asked.students) or share <= EMBEDDING_SHARE


def _fits(kind: Kind, asked: Asked, factor: float, limit: Limit) -> bool:
    try:
        return _price(kind, asked, factor, limit) <= limit.amount
    except ConfigError:  # more than the text holds
        return False


def _price(kind: Kind, asked: Asked, factor: float, limit: Limit) -> float:
    spec = kind.sheet(asked, factor).spec(kind.name)
    return limit.price(study_cost(spec, spec.data.vocab_size))
