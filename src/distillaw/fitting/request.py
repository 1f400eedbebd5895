"""What was asked of a fit, apart from the data, and the checks of its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distillaw.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked, apart from the data."""

    family: str
    delta: float | str
    bootstrap: int
    level: float
    seed: int
    priors: str | Mapping[str, tuple[float, float]] | None
    check: bool
    calibrate: bool
    tie: bool
    provenance: Mapping[str, object]


def check_numbers(delta: float | str, replicates: int, level: float) -> None:
    """Refuse a threshold, a count of replicates or a level that means nothing."""
    if delta != "auto" and (isinstance(delta, str) or not np.isfinite(delta) or delta <= 0):
        raise ConfigError(f"delta: got {delta!r}; give a positive number (1e-3 is usual) or 'auto'")
    if replicates < 0 or int(replicates) != replicates:
        raise ConfigError(f"bootstrap: got {replicates!r}; give a whole number of replicates, 0 for none")
    if not 0 < level < 1:
        raise ConfigError(f"level: got {level}; give the coverage as a share between 0 and 1, e.g. 0.9")
