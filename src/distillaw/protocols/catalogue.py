"""The kinds of study: the question each answers, its scale and template; the largest within a budget."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from distillaw.controls.control import EMBEDDING_SHARE
from distillaw.errors import ConfigError
from distillaw.protocols import templates
from distillaw.protocols.scale import (
    Defaults,
    DesignWishes,
    Scale,
    embedding_share,
    scale_for,
)
from distillaw.protocols.sheet import Sheet
from distillaw.quantities import did_you_mean
from distillaw.sweep.cost import StudyCost, study_cost

_STEP = 204_800.0
"""800 steps of 256 tokens."""
_SIZES = (0.1e6, 0.2e6, 0.4e6)
_TEACHERS = (0.2e6, 0.4e6, 0.8e6, 1.6e6)
_TWO = {"students": (0.1e6, 0.3e6), "teachers": (0.2e6, 1e6), "least": (1, 2, 1)}
"""Sizes of ablations: enough to see whether their answer depends on size."""


def _tokens(count: int, factor: float = 2.0) -> tuple[float, ...]:
    return tuple(_STEP * factor**i for i in range(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of study."""

    name: str
    question: str
    """What it answers, in one line."""
    defaults: Defaults
    build: Callable[[Scale], Sheet]

    def sheet(self, asked: DesignWishes, factor: float = 1.0) -> Sheet:
        """The study at the user's scale."""
        return self.build(scale_for(asked, self.defaults, factor))


KINDS: tuple[Kind, ...] = (
    Kind(
        name="isoflop-students",
        build=templates.isoflop_students,
        question="how does a student's loss depend on its size and tokens? fixed-ratio teachers x IsoFLOP students",
        defaults=Defaults(students=_SIZES, teachers=_TEACHERS, tokens=_tokens(3), least=(3, 3, 2)),
    ),
    Kind(
        name="isoflop-teachers",
        build=templates.isoflop_teachers,
        question="does a teacher act through its loss alone? IsoFLOP teachers x fixed-ratio students",
        defaults=Defaults(students=_SIZES, teachers=_TEACHERS, tokens=_tokens(1), least=(2, 3, 1), reach=24),
    ),
    Kind(
        name="fixed-ratio",
        build=templates.fixed_ratio,
        question="how deep is the capacity gap, at how many tokens? fixed-ratio teachers x fixed-ratio students",
        defaults=Defaults(
            students=_SIZES, teachers=(0.1e6, *_TEACHERS), tokens=_tokens(4), least=(2, 4, 3), reach=4
        ),
    ),
    Kind(
        name="supervised",
        build=templates.supervised,
        question="what does a model reach alone? sizes x budgets without teachers",
        defaults=Defaults(
            students=(0.1e6, 0.2e6, 0.4e6, 0.8e6), teachers=(), tokens=_tokens(5), least=(3, 0, 3)
        ),
    ),
    Kind(
        name="l-shaped",
        build=templates.l_shaped,
        question="a first distillation law, cheap: one arm each of sizes, tokens and teachers instead of a grid",
        defaults=Defaults(students=_SIZES, teachers=_TEACHERS, tokens=_tokens(5), least=(3, 2, 4), reach=2),
    ),
    Kind(
        name="capacity-gap",
        build=templates.capacity_gap,
        question="what is the best teacher's size over the student's? students fresh, and pruned from their teachers",
        defaults=Defaults(
            students=(0.08e6, 0.12e6, 0.2e6, 0.3e6),
            teachers=(0.1e6, *_TEACHERS),
            tokens=_tokens(3),
            least=(2, 4, 2),
            reach=6,
        ),
    ),
    Kind(
        name="teacher-choice",
        build=templates.teacher_choice,
        question="which teacher for one student? teachers from weaker than the student to much stronger, in pairs",
        defaults=Defaults(students=(0.2e6,), teachers=_TEACHERS, tokens=_tokens(2, 4), least=(1, 2, 1)),
    ),
    Kind(
        name="lambda-temperature",
        build=templates.weights_and_temperature,
        question="how much teacher and how much data, at which temperature?",
        defaults=Defaults(**_TWO, tokens=_tokens(2, 4)),
    ),
    Kind(
        name="divergence",
        build=templates.divergence,
        question="forward or reverse KL, or something between?",
        defaults=Defaults(**_TWO, tokens=_tokens(2, 4)),
    ),
    Kind(
        name="truncation",
        build=templates.truncation,
        question="how many of the teacher's tokens must be stored? top-k and top-p, alone and mixed with the data",
        defaults=Defaults(**_TWO, tokens=_tokens(2, 4)),
    ),
    Kind(
        name="long-run",
        build=templates.long_run,
        question="after how many tokens has training alone caught up?",
        defaults=Defaults(
            students=(0.1e6,), teachers=(0.2e6, 0.4e6, 0.8e6), tokens=_tokens(6), least=(1, 2, 3), reach=1
        ),
    ),
    Kind(
        name="weak-to-strong",
        build=templates.weak_to_strong,
        question="when does a student beat a teacher that is smaller than itself?",
        defaults=Defaults(
            students=(0.2e6, 0.4e6, 0.8e6), teachers=(0.1e6, 0.2e6), tokens=_tokens(4), least=(1, 1, 3)
        ),
    ),
)


def kind_named(name: str) -> Kind:
    """The kind of that name.

    Raises:
        ConfigError: unknown (with the nearest known one).
    """
    known = {kind.name: kind for kind in KINDS}
    if name not in known:
        raise ConfigError(f"--kind {name!r}{did_you_mean(name, known)} is none of {', '.join(known)}")
    return known[name]


# --- within a budget of FLOP or hours: the scale is searched, the shape stays -------------------------------


SMALLEST, LARGEST = 1 / 64, 2.0**40
"""Compute relative to a kind's defaults."""
_ROUNDS = 18
"""Halvings of a doubling: the scale is then known to four parts in a million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What may be spent."""

    amount: float
    price: Callable[[StudyCost], float]
    """What a study costs in the unit of the amount."""
    show: Callable[[float], str]
    """An amount in words."""


def within(kind: Kind, asked: DesignWishes, limit: Limit) -> Sheet:
    """The study of this kind that spends most of a budget; sizes or tokens must be left open.

    Raises:
        ConfigError: nothing left to choose, or the smallest study costs more (its cost is named).
    """
    if asked.tokens and (asked.students or asked.teachers):
        raise ConfigError("--tokens with sizes and a budget leave nothing to choose: drop one of them")
    low = 1.0  # the smallest scale that the rules of a study allow
    while low / 2 >= SMALLEST and _is_allowed(kind, asked, low / 2):
        low /= 2
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


def _is_allowed(kind: Kind, asked: DesignWishes, factor: float) -> bool:
    try:
        scale = kind.sheet(asked, factor).scale
    except ConfigError:
        return False
    share = embedding_share(scale.students[0], scale.vocab, scale.recipe)
    return bool(asked.students) or share <= EMBEDDING_SHARE


def _fits(kind: Kind, asked: DesignWishes, factor: float, limit: Limit) -> bool:
    try:
        return _price(kind, asked, factor, limit) <= limit.amount
    except ConfigError:  # more than the text holds
        return False


def _price(kind: Kind, asked: DesignWishes, factor: float, limit: Limit) -> float:
    spec = kind.sheet(asked, factor).spec(kind.name)
    return limit.price(study_cost(spec, spec.data.vocab_size))
