"""The search for learning rate and batch that precedes every study.

An untuned rate fakes a capacity gap: students that train badly prefer easy teachers. So both are searched at
the smallest and the largest size, in the supervised and the distilled arm, until the best value is interior
among its halves and doubles. The batch is one for the whole study (runs are paired batch by batch): it is
chosen on the supervised arm over both sizes, and checked, not moved, on the distilled one.

The lattice: point (i, j) has batch B 2^j and rate r 2^i sqrt(2^j) (the square-root rule for Adam), so that
moving along j alone keeps the rate near its optimum. Pure functions of the losses known so far: no clock, no
disk, so a killed search goes on where it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

Lookup = Callable[[str, str, int, int], float | None]
"""(arm, size, i, j) -> loss; None if not yet measured, inf if the run diverged."""

MOVE = 5e-3
"""The batch moves only for a relative gain above this. It is tuned at the smallest budget, where the best batch is
smallest; the study's longer runs and its speed both favour the larger of two nearly equal ones."""


@dataclass(slots=True)
class Search:
    """What a search has found, and which points it still needs."""

    needed: list[tuple[str, str, int, int]] = field(default_factory=list)
    """Points to measure before the search can go on: (arm, size, i, j)."""
    rate: dict[tuple[str, str], int] = field(default_factory=dict)
    """Best i of each (arm, size)."""
    batch: int = 0
    """Best j."""
    interior: dict[tuple[str, str, str], bool] = field(default_factory=dict)
    """(arm, size, `rate` or `batch`) -> whether the best value was interior."""
    points: dict[tuple[str, str, int, int], float] = field(default_factory=dict)
    """Every loss the search has looked at."""
    rates_known: bool = False
    """Whether the rates are decided (on the distilled arm the batch check may still run)."""

    @property
    def is_done(self) -> bool:
        """Whether nothing more is needed."""
        return not self.needed


def search_supervised(
    lookup: Lookup, sizes: Sequence[str], *, rounds: int, lowest_batch: int, batches: bool = True
) -> Search:
    """Rate per size and one batch for all, on the supervised arm.

    Args:
        lookup: losses known so far.
        sizes: smallest and largest student size.
        rounds: how often rate and batch searches may each move outwards.
        lowest_batch: smallest j (one sequence per step).
        batches: whether the batch is searched too.
    """
    search = Search()
    if not batches:
        _search_rates(search, lookup, "supervised", sizes, rounds)
        search.rates_known = search.is_done
        return search
    for _ in range(rounds + 1):
        _search_rates(search, lookup, "supervised", sizes, rounds)
        if search.needed:
            _ask_batch_early(search, lookup, "supervised", sizes, lowest_batch)
            return search
        best = _search_batch(search, lookup, "supervised", sizes, rounds, lowest_batch)
        search.rates_known = search.is_done and best == search.batch
        if search.needed or search.rates_known:
            return search
        search.batch = best
    search.rates_known = True
    return search


def search_distilled(
    lookup: Lookup, sizes: Sequence[str], *, batch: int, rounds: int, lowest_batch: int, batches: bool = True
) -> Search:
    """Rate per size on the distilled arm at the study's batch; the batch's neighbours are only checked."""
    search = Search(batch=batch)
    _search_rates(search, lookup, "distilled", sizes, rounds)
    search.rates_known = search.is_done
    if search.rates_known and batches:
        _search_batch(search, lookup, "distilled", sizes, 0, lowest_batch)
    return search


def _search_rates(search: Search, lookup: Lookup, arm: str, sizes: Sequence[str], rounds: int) -> None:
    for size in sizes:
        low, high = -1, 1
        for _ in range(rounds + 1):
            losses = _measured(search, lookup, [(arm, size, i, search.batch) for i in range(low, high + 1)])
            if losses is None:
                break
            best = low + int(np.argmin(losses))
            search.rate[arm, size] = best
            search.interior[arm, size, "rate"] = low < best < high
            if low < best < high:
                break
            low, high = (low - 1, high) if best == low else (low, high + 1)


def _ask_batch_early(
    search: Search, lookup: Lookup, arm: str, sizes: Sequence[str], lowest_batch: int
) -> None:
    """Ask for the batch neighbours of sizes whose rate is decided while others still search: no core waits."""
    for size in sizes:
        if search.interior.get((arm, size, "rate"), False):
            near = [j for j in (search.batch - 1, search.batch + 1) if j >= lowest_batch]
            _measured(search, lookup, [(arm, size, search.rate[arm, size], j) for j in near])


def _search_batch(
    search: Search, lookup: Lookup, arm: str, sizes: Sequence[str], rounds: int, lowest_batch: int
) -> int:
    """The best j by the mean relative loss over sizes, each at its own best rate."""
    centre = search.batch
    low, high = max(centre - 1, lowest_batch), centre + 1
    best = centre
    for _ in range(rounds + 1):
        columns = [
            _measured(search, lookup, [(arm, size, search.rate[arm, size], j) for size in sizes])
            for j in range(low, high + 1)
        ]
        if any(column is None for column in columns):
            return best
        values = np.array([np.mean(np.log(column)) for column in columns if column is not None])
        best = low + int(np.argmin(values))
        if not np.isfinite(values.min()) or values[centre - low] - values.min() < MOVE:
            best = centre
        for size in sizes:
            search.interior[arm, size, "batch"] = low < best < high
        if low < best < high or (best == low == lowest_batch):
            return best
        low, high = (max(low - 1, lowest_batch), high) if best == low else (low, high + 1)
    return best


def _measured(search: Search, lookup: Lookup, points: list[tuple[str, str, int, int]]) -> list[float] | None:
    """Losses of all points, or None after noting the missing ones as needed."""
    losses = [lookup(*point) for point in points]
    search.points.update({p: loss for p, loss in zip(points, losses, strict=True) if loss is not None})
    missing = [point for point, loss in zip(points, losses, strict=True) if loss is None]
    search.needed.extend(point for point in missing if point not in search.needed)
    return None if missing else [loss for loss in losses if loss is not None]


def transfer_rate(tuned: dict[float, float], params: float) -> float:
    """The rate at a size, from rates tuned at other sizes: linear in ln N between them, constant outside.

    Rates are at width 64 ("simple" muP), so a constant is the prior; the tuned ends correct what is left.
    """
    sizes = np.array(sorted(tuned))
    rates = np.log([tuned[size] for size in sizes])
    return float(f"{np.exp(np.interp(np.log(params), np.log(sizes), rates)):.4g}")
