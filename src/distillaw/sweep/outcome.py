"""What a scheduler tells: as it goes, the person who watches; at the end, its caller."""

from dataclasses import dataclass, field
from typing import Protocol

from distillaw.sweep.jobs import Job


class Display(Protocol):
    """What the scheduler tells the person who watches."""

    def started(self, job: Job, worker: int) -> None:
        """A worker has taken a job."""

    def progressed(self, job: Job, tokens: int, loss: float | None) -> None:
        """A job has trained on further tokens; the loss is its training loss just now."""

    def finished(self, job: Job) -> None:
        """All runs of a job are on disk."""

    def failed(self, job: Job, error: str) -> None:
        """A job is given up."""

    def note(self, message: str) -> None:
        """Something the person who watches should know."""


class GrowingDisplay(Display, Protocol):
    """A display for work whose extent shows as it goes."""

    def expect(self, tokens: float) -> None:
        """So many tokens more than was known."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one call of the scheduler did."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    """What the study still lacks because something it needs has failed, in words."""
    busy_seconds: float = 0.0
    """CPU seconds of scheduler and workers, tokenising included; a killed worker's last job is not in it."""
    wall_seconds: float = 0.0
    workers: int = 0

    def then(self, later: "Outcome") -> "Outcome":
        """Both calls as one; what failed or waits is what still does."""
        return Outcome(
            done=[*self.done, *later.done], failed=later.failed, waiting=later.waiting,
            busy_seconds=self.busy_seconds + later.busy_seconds, wall_seconds=self.wall_seconds + later.wall_seconds,
            workers=max(self.workers, later.workers),
        )  # fmt: skip
