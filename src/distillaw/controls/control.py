"""One control: what it guards against, whether it holds, the numbers that decided it, and what to do."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["passed", "failed", "undecided", "not done", "not applicable"]
"""`undecided`: the runs exist, and their noise or their number does not allow an answer."""
STATUSES: tuple[Status, ...] = ("failed", "undecided", "not done", "passed", "not applicable")
"""Worst first."""
LEVEL = 0.9
"""Of every interval here: a control passes where the whole interval is on the right side of its limit."""

Concern: TypeAlias = Literal["laws", "gains"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One control of one study."""

    name: str
    guards: str
    """What goes wrong, unseen, without it."""
    status: Status
    found: str
    """The answer with its numbers, in words."""
    remedy: str
    """What to do; empty where it passed or does not apply."""
    concerns: tuple[Concern, ...]
    """What is in doubt where it fails: constants of laws, or what measured gains mean."""
    numbers: Mapping[str, object] = field(default_factory=dict)
    """The answer with its numbers, for programs; losses in nats/token."""

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is the same for a control in every study."""

    name: str
    guards: str
    remedy: str
    concerns: tuple[Concern, ...] = ("laws", "gains")

    def control(self, status: Status, found: str, **numbers: object) -> Control:
        """The control of one study, its remedy only where there is something to do."""
        remedy = "" if status in ("passed", "not applicable") else self.remedy
        return Control(
            name=self.name,
            guards=self.guards,
            status=status,
            found=found,
            remedy=remedy,
            concerns=self.concerns,
            numbers=numbers,
        )


def below(low: float, high: float, limit: float) -> Status:
    """Whether a quantity known to lie in [low, high] stays below a limit."""
    return "passed" if high <= limit else "failed" if low > limit else "undecided"


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of several answers; without any, `not done`."""
    return min(statuses, key=STATUSES.index, default="not done")
