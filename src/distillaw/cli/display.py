"""Progress of a study: one meter for all its tokens (progress.py), in a terminal also a bar per running trunk.

Apart from progress.py, which every verb imports: this one needs the engine of studies, and with it numpy.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from distillaw.cli.progress import Left, LiveMeter, is_live, live_progress, say_indented
from distillaw.quantities import format_count
from distillaw.runs.pace import Meter, Telling
from distillaw.sweep.ready import TrunkJob
from distillaw.sweep.scheduler import Display

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextlib.contextmanager
def make_display(total_tokens: float, *, quiet: bool, left: Left | None = None) -> Iterator[Display]:
    """The display for a study: live in a terminal, plain lines elsewhere; `left` knows the time, else the rate does."""
    if quiet:
        yield Display()
    elif is_live():
        with live_progress() as progress:
            yield LiveDisplay(progress, total_tokens, left)
    else:
        yield LogDisplay(total_tokens, left)


class MeteredDisplay(Display):
    """One meter for all tokens."""

    def __init__(self, meter: Meter) -> None:
        self._all = meter

    def progressed(self, job: TrunkJob, tokens: int, loss: float | None) -> None:
        """So much more is done."""
        self._all.advance(tokens)

    def failed(self, job: TrunkJob, error: str) -> None:
        """The error stays."""
        self.note(f"failed: {job.trunk.trunk_id}: {error}")

    def expect(self, tokens: float) -> None:
        """There is more to do than was known."""
        self._all.expect(tokens)

    def note(self, message: str) -> None:
        """A line of its own."""
        self._all.note(message)


class LogDisplay(MeteredDisplay):
    """A line when a trunk ends and one every twenty seconds between."""

    def __init__(self, total_tokens: float, left: Left | None = None) -> None:
        super().__init__(Telling("training", total_tokens, "tokens", say_indented, left))

    def finished(self, job: TrunkJob) -> None:
        """One line."""
        budgets = ", ".join(format_count(tokens) for tokens in job.budgets)
        self.note(f"done: {job.trunk.purpose} {job.trunk.trunk_id} at {budgets} tokens")


class LiveDisplay(MeteredDisplay):
    """One bar for the study with tokens/s and the time left, one per running trunk with its loss."""

    def __init__(self, progress: "Progress", total_tokens: float, left: Left | None = None) -> None:
        super().__init__(LiveMeter(progress, "study", total_tokens, "tokens", left))
        self._progress = progress
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
        super().progressed(job, tokens, loss)
        note = {} if loss is None else {"note": f"loss {loss:.3f}"}
        self._progress.update(self._tasks[job.trunk.trunk_id], advance=tokens, **note)

    def finished(self, job: TrunkJob) -> None:
        """The bar goes."""
        self._progress.remove_task(self._tasks.pop(job.trunk.trunk_id))

    def failed(self, job: TrunkJob, error: str) -> None:
        """The bar goes, the error stays."""
        self.finished(job)
        super().failed(job, error)
