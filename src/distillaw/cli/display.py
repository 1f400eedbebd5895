"""Progress of a study: one meter for all its tokens (progress.py), in a terminal also a bar per running trunk."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from distillaw.cli.console import say
from distillaw.cli.progress import Left, LiveMeter, LogMeter, is_live, live_progress
from distillaw.quantities import format_count
from distillaw.sweep.ready import TrunkJob
from distillaw.sweep.scheduler import GrowingDisplay

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextlib.contextmanager
def make_display(total_tokens: float, *, quiet: bool, left: Left | None = None) -> Iterator[GrowingDisplay]:
    """The display for a study: live in a terminal, plain lines elsewhere; `left` knows the time, else the rate does."""
    if quiet:
        yield QuietDisplay()
    elif is_live():
        with live_progress() as progress:
            yield LiveDisplay(progress, total_tokens, left)
    else:
        yield LogDisplay(total_tokens, left)


class QuietDisplay:
    """Says nothing but failures, which are printed at the end anyway."""

    def started(self, job: TrunkJob, worker: int) -> None:
        """Ignored."""

    def progressed(self, job: TrunkJob, tokens: int, loss: float | None) -> None:
        """Ignored."""

    def finished(self, job: TrunkJob) -> None:
        """Ignored."""

    def failed(self, job: TrunkJob, error: str) -> None:
        """Ignored."""

    def note(self, message: str) -> None:
        """Ignored."""

    def expect(self, tokens: float) -> None:
        """Ignored."""


class LiveDisplay:
    """One bar for the study with tokens/s and the time left, one per running trunk with its loss."""

    def __init__(self, progress: "Progress", total_tokens: float, left: Left | None = None) -> None:
        self._progress = progress
        self._all = LiveMeter(progress, "study", total_tokens, "tokens", left)
        self._tasks: dict[str, TaskID] = {}

    def started(self, job: TrunkJob, worker: int) -> None:
        """A bar appears."""
        name = job.trunk.trunk_id.rsplit("-", 1)[0]
        if job.trunk.trunk_id in self._tasks:  # its worker died; another goes on from the checkpoint
            return
        self._tasks[job.trunk.trunk_id] = self._progress.add_task(
            f"{job.trunk.purpose:7s} {name}", total=job.tokens, note="", left=""
        )

    def progressed(self, job: TrunkJob, tokens: int, loss: float | None) -> None:
        """Bars advance."""
        self._all.advance(tokens)
        note = {} if loss is None else {"note": f"loss {loss:.3f}"}
        self._progress.update(self._tasks[job.trunk.trunk_id], advance=tokens, **note)

    def finished(self, job: TrunkJob) -> None:
        """The bar goes."""
        self._progress.remove_task(self._tasks.pop(job.trunk.trunk_id))

    def failed(self, job: TrunkJob, error: str) -> None:
        """The bar goes, the error stays."""
        self.finished(job)
        self.note(f"failed: {job.trunk.trunk_id}: {error}")

    def expect(self, tokens: float) -> None:
        """There is more to do than was known."""
        self._all.expect(tokens)

    def note(self, message: str) -> None:
        """A line above the bars."""
        self._all.note(message)


class LogDisplay:
    """A line when a trunk ends and one every twenty seconds between."""

    def __init__(self, total_tokens: float, left: Left | None = None) -> None:
        self._all = LogMeter("training", total_tokens, "tokens", left)

    def started(self, job: TrunkJob, worker: int) -> None:
        """Nothing: the end says enough."""

    def progressed(self, job: TrunkJob, tokens: int, loss: float | None) -> None:
        """A line now and then."""
        self._all.advance(tokens)

    def finished(self, job: TrunkJob) -> None:
        """One line."""
        budgets = ", ".join(format_count(tokens) for tokens in job.budgets)
        say(f"  done: {job.trunk.purpose} {job.trunk.trunk_id} at {budgets} tokens")

    def failed(self, job: TrunkJob, error: str) -> None:
        """One line."""
        say(f"  failed: {job.trunk.trunk_id}: {error}")

    def expect(self, tokens: float) -> None:
        """There is more to do than was known."""
        self._all.expect(tokens)

    def note(self, message: str) -> None:
        """One line."""
        self._all.note(message)
