"""How far work is: what counts it, and rate and time left as lines for a log, the same words wherever they are from."""

import time
from collections.abc import Callable

from distillaw.quantities import format_count, format_seconds

LOG_SECONDS = 20.0
"""Between two lines."""


class Pace:
    """Units per second since work was first heard of: starting workers and loading teachers is no part of it."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._amount = 0.0

    def add(self, amount: float) -> None:
        """So much was done since the last call; what came with the first came before the clock."""
        if self._began is None:
            self._began = time.monotonic()
        else:
            self._amount += amount

    @property
    def rate(self) -> float | None:
        """Units per second; None until there is something to count, and a second to count it in."""
        if self._began is None or not self._amount:
            return None
        elapsed = time.monotonic() - self._began
        return self._amount / elapsed if elapsed > 1 else None


class Meter:
    """What counts the work; this one says nothing of it."""

    def advance(self, amount: float = 1) -> None:
        """So much more is done."""

    def expect(self, amount: float) -> None:
        """So much more is to be done than was known."""

    def note(self, message: str) -> None:
        """A line of its own."""


class Telling(Meter):
    """Tells how far work is, every LOG_SECONDS once there is a rate."""

    def __init__(
        self,
        what: str,
        total: float,
        unit: str,
        say: Callable[[str], None],
        left: Callable[[], float | None] | None = None,
    ) -> None:
        """`left`: seconds left by who knows better than the rate so far; None where even that does not know."""
        self._what, self._total, self._unit, self._say, self._left = what, total, unit, say, left
        self.done, self._pace = 0.0, Pace()
        self._began = self._said = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        """A line now and then."""
        self.done += amount
        self._pace.add(amount)
        now, rate = time.monotonic(), self._pace.rate
        if rate is None or now - self._said < LOG_SECONDS:
            return
        self._said = now
        self._say(f"{self._what}, {format_seconds(now - self._began)}: {self._far(rate)}")

    def _far(self, rate: float) -> str:
        """Amounts and rate, and the time left while the guess of the whole still stands."""
        done, total, unit = format_count(self.done), format_count(self._total), self._unit
        pace = f"{format_count(rate)} {unit}/s"
        if self.done > self._total:
            far, seconds = f"{done} {unit}, more than the estimated {total}, {pace}", None
        else:
            far, seconds = f"{done} of about {total} {unit}, {pace}", (self._total - self.done) / rate
        if self._left is not None:
            seconds = self._left()
        return far if seconds is None else f"{far}, about {format_seconds(seconds)} left"

    def expect(self, amount: float) -> None:
        """More to do; the clock starts with the first of it."""
        self._total += amount
        if not self.done:
            self._began = self._said = time.monotonic()

    def note(self, message: str) -> None:
        """One line."""
        self._say(message)
