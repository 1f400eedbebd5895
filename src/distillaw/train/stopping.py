"""Ctrl-C and SIGTERM during training: the step is finished, checkpoints are saved, then the process ends.

So it does when torchrun is killed, which cannot tell its ranks: they would train on, unseen, and hold the folder.
"""

import os
import signal
from types import FrameType

from distillaw.train.loop import Report, StopTraining
from distillaw.train.parallel import launched


class StopRequest:
    """A `Report` that passes progress on and stops training when the process is asked to end."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._previous: dict[int, object] = {}
        self.received: int | None = None
        """The signal that asked, if one did."""

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # the second Ctrl-C means now; a launcher may pass on one that its ranks have had from the terminal already
        if self.received == number == signal.SIGINT and not launched():
            raise KeyboardInterrupt
        self.received = number

    def __call__(self, tokens: int, loss: float) -> None:
        """Progress after a step."""
        self._report(tokens, loss)
        orphaned = self._launcher is not None and os.getppid() != self._launcher
        if self.received is not None or orphaned:
            raise StopTraining
