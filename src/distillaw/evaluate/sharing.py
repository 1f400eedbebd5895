"""Measurements shared among processes: each does its part of the items, and all have the whole.

Who the processes are is not known here: `train.parallel.Ranks` is what the command line passes.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from distillaw.errors import DataError

T = TypeVar("T")


class Group(Protocol):
    """This process among those that work together."""

    @property
    def rank(self) -> int:
        """Which one it is, from 0."""

    @property
    def world(self) -> int:
        """How many there are."""

    def sum(self, *values: float) -> list[float]:
        """Each value summed over processes, in float64."""

    def wait(self) -> None:
        """Return when every process has come here."""

    def first(self, act: Callable[[], T]) -> T | None:
        """Let the first process do something while the others wait; what it raises is raised in all."""


def part(items: Sequence[T], group: Group | None) -> Sequence[T]:
    """Every so many-th of the items, beginning with this process's; all of them for one process alone."""
    return items if group is None else items[group.rank :: group.world]


def summed(array: np.ndarray, group: Group | None) -> np.ndarray:
    """An array summed over processes, float64; every process gets the same bits."""
    if group is None:
        return array
    return np.array(group.sum(*array.ravel().tolist())).reshape(array.shape)


def together(act: Callable[[], T], group: Group | None) -> T:
    """What every process does for itself; if it fails in one it fails in all, so that none waits for another.

    Raises:
        DataError: what was raised here, or that another process could not do its part.
    """
    if group is None:
        return act()
    made, error = None, None
    try:
        made = act()
    except DataError as caught:
        error = caught
    (failed,) = group.sum(float(error is not None))
    if error is not None:
        raise error
    if failed:
        raise DataError(
            f"{failed:.0f} of {group.world} processes could not do their part; their messages say why"
        )
    assert made is not None
    return made
