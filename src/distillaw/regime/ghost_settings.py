"""The three settings that a ghost layer has beside those of `nn.BatchNorm`, checked. Torch-free."""

from dataclasses import dataclass
from typing import Literal, get_args

from distillaw.errors import ConfigError
from distillaw.regime.ghost_sizes import REMAINDERS, Remainder

StatsUpdate = Literal["sequential", "mean"]
STATS_UPDATES: tuple[str, ...] = get_args(StatsUpdate)


@dataclass(frozen=True, slots=True, kw_only=True)
class GhostSettings:
    """Settings of a ghost layer.

    Raises:
        ConfigError: one of them is impossible.
    """

    ghost_batch_size: int
    """Samples per ghost, >= 1."""
    stats_update: StatsUpdate = "sequential"
    """Each ghost one update, in order; or one update with their mean."""
    remainder: Remainder = "keep"
    """What becomes of a batch that is no multiple of the ghost."""

    def __post_init__(self) -> None:
        size = self.ghost_batch_size
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigError(f"ghost_batch_size is {size!r}; it is a number of samples, a whole number >= 1")
        _one_of("stats_update", self.stats_update, STATS_UPDATES)
        _one_of("remainder", self.remainder, REMAINDERS)

    def __str__(self) -> str:
        return f"ghost_batch_size={self.ghost_batch_size}, stats_update={self.stats_update}, remainder={self.remainder}"


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(known)}")
