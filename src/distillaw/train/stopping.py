"""Ctrl-C and SIGTERM during training: the step is finished, checkpoints are saved, then the process ends."""

import signal
from types import FrameType

from distillaw.train.loop import Report, StopTraining
from distillaw.train.parallel import launched


class StopRequest:
    """A `Report` that passes progress on and stops training when the process is asked to end."""

    def __init__(self, report: Report) -> None:
        self._report = report
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
        # the second Ctrl-C means now; under torchrun every Ctrl-C comes twice, from the terminal and from torchrun
        if self.received == number == signal.SIGINT and not launched():
            raise KeyboardInterrupt
        self.received = number

    def __call__(self, tokens: int, loss: float) -> None:
        """Progress after a step."""
        self._report(tokens, loss)
        if self.received is not None:
            raise StopTraining
