"""The kinds of study: the question each answers, its own scale, and the template that writes it."""

from collections.abc import Callable
from dataclasses import dataclass

from distillaw.errors import ConfigError
from distillaw.protocols import law_kinds, question_kinds
from distillaw.protocols.scale import Asked, Defaults, Scale, scale_for
from distillaw.protocols.sheet import Sheet
from distillaw.quantities import did_you_mean

_STEP = 204_800.0
"""800 steps of 256 tokens."""
_SIZES = (0.1e6, 0.2e6, 0.4e6)
_TEACHERS = (0.2e6, 0.4e6, 0.8e6, 1.6e6)


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

    def sheet(self, asked: Asked, factor: float = 1.0) -> Sheet:
        """The study at the user's scale."""
        return self.build(scale_for(asked, self.defaults, factor))


KINDS: tuple[Kind, ...] = (
    Kind(
        name="isoflop-students",
        build=law_kinds.isoflop_students,
        question="how does a student's loss depend on its size and tokens? fixed-ratio teachers x IsoFLOP students",
        defaults=Defaults(students=_SIZES, teachers=_TEACHERS, tokens=_tokens(3), least=(3, 3, 2)),
    ),
    Kind(
        name="isoflop-teachers",
        build=law_kinds.isoflop_teachers,
        question="does a teacher act through its loss alone? IsoFLOP teachers x fixed-ratio students",
        defaults=Defaults(students=_SIZES, teachers=_TEACHERS, tokens=_tokens(1), least=(2, 3, 1), reach=24),
    ),
    Kind(
        name="fixed-ratio",
        build=law_kinds.fixed_ratio,
        question="how deep is the capacity gap, at how many tokens? fixed-ratio teachers x fixed-ratio students",
        defaults=Defaults(
            students=_SIZES, teachers=(0.1e6, *_TEACHERS), tokens=_tokens(4), least=(2, 4, 3), reach=4
        ),
    ),
    Kind(
        name="supervised",
        build=law_kinds.supervised,
        question="what does a model reach alone? sizes x budgets without teachers",
        defaults=Defaults(
            students=(0.1e6, 0.2e6, 0.4e6, 0.8e6), teachers=(), tokens=_tokens(5), least=(3, 0, 3)
        ),
    ),
    Kind(
        name="l-shaped",
        build=law_kinds.l_shaped,
        question="a first distillation law, cheap: one arm each of sizes, tokens and teachers instead of a grid",
        defaults=Defaults(students=_SIZES, teachers=_TEACHERS, tokens=_tokens(5), least=(3, 2, 4), reach=2),
    ),
    Kind(
        name="capacity-gap",
        build=question_kinds.capacity_gap,
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
        build=question_kinds.teacher_choice,
        question="which teacher for one student? teachers from weaker than the student to much stronger, in pairs",
        defaults=Defaults(students=(0.2e6,), teachers=_TEACHERS, tokens=_tokens(2, 4), least=(1, 2, 1)),
    ),
    Kind(
        name="lambda-temperature",
        build=question_kinds.weights_and_temperature,
        question="how much teacher and how much data, at which temperature?",
        defaults=Defaults(
            students=(0.1e6, 0.3e6), teachers=(0.2e6, 1e6), tokens=_tokens(2, 4), least=(1, 2, 1)
        ),
    ),
    Kind(
        name="divergence",
        build=question_kinds.divergence,
        question="forward or reverse KL, or something between?",
        defaults=Defaults(
            students=(0.1e6, 0.3e6), teachers=(0.2e6, 1e6), tokens=_tokens(2, 4), least=(1, 2, 1)
        ),
    ),
    Kind(
        name="truncation",
        build=question_kinds.truncation,
        question="how many of the teacher's tokens must be stored? top-k and top-p, alone and mixed with the data",
        defaults=Defaults(
            students=(0.1e6, 0.3e6), teachers=(0.2e6, 1e6), tokens=_tokens(2, 4), least=(1, 2, 1)
        ),
    ),
    Kind(
        name="long-run",
        build=question_kinds.long_run,
        question="after how many tokens has training alone caught up?",
        defaults=Defaults(
            students=(0.1e6,), teachers=(0.2e6, 0.4e6, 0.8e6), tokens=_tokens(6), least=(1, 2, 3), reach=1
        ),
    ),
    Kind(
        name="weak-to-strong",
        build=question_kinds.weak_to_strong,
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
