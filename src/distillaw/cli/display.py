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
            yield StudyDisplay(LiveMeter(progress, "study", total_tokens, "tokens", left), progress)
    else:
        yield StudyDisplay(Telling("training", total_tokens, "tokens", say_indented, left))


class StudyDisplay(Display):
    """One meter for all tokens; beside it a bar for each running trunk with its loss, or a line when one ends."""

    def __init__(self, meter: Meter, progress: "Progress | None" = None) -> None:
        self._all, self._progress = meter, progress
        self._bars: dict[str, TaskID] = {}

    def started(self, job: TrunkJob, worker: int) -> None:
        """A bar appears, unless it is there: its worker died, and another goes on from the checkpoint."""
        if self._progress is not None and job.trunk.trunk_id not in self._bars:
            what = f"{job.trunk.purpose:7s} {job.trunk.trunk_id.rsplit('-', 1)[0]}"
            bar = self._progress.add_task(what, total=job.tokens, note="", left="")
            self._bars[job.trunk.trunk_id] = bar

    def progressed(self, job: TrunkJob, tokens: int, loss: float | None) -> None:
        """So much more is done."""
        self._all.advance(tokens)
        if self._progress is not None:
            note = {} if loss is None else {"note": f"loss {loss:.3f}"}
            self._progress.update(self._bars[job.trunk.trunk_id], advance=tokens, **note)

    def finished(self, job: TrunkJob) -> None:
        """The bar goes, or a line says what is done."""
        if self._progress is not None:
            self._progress.remove_task(self._bars.pop(job.trunk.trunk_id))
        else:
            budgets = ", ".join(format_count(tokens) for tokens in job.budgets)
            self.note(f"done: {job.trunk.purpose} {job.trunk.trunk_id} at {budgets} tokens")

    def failed(self, job: TrunkJob, error: str) -> None:
        """The bar goes, the error stays."""
        if self._progress is not None:
            self._progress.remove_task(self._bars.pop(job.trunk.trunk_id))
        self.note(f"failed: {job.trunk.trunk_id}: {error}")

    def expect(self, tokens: float) -> None:
        """There is more to do than was known."""
        self._all.expect(tokens)

    def note(self, message: str) -> None:
        """A line of its own."""
        self._all.note(message)
