"""Published laws of batch and rate side by side, and the trade-off between steps and tokens.

    (S/S_min - 1)(E/E_min - 1) = 1        S = S_min (1 + B_crit/B),  E = E_min (1 + B/B_crit)

S steps, E tokens to one loss (McCandlish et al. 2018, arXiv 1812.06162). At B_crit twice the tokens are used, at 0.2
B_crit 1.2 times. Every constant is a record in data/*.toml with its source, range and doubt. All were fitted on
next-token cross-entropy: no such law is known for a distillation loss. The laws disagree by factors; none is *the* law.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from distillaw.errors import ConfigError
from distillaw.laws.base import Box


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLaw:
    """One published power law: coefficient times the product of coordinates to their exponents."""

    name: str
    gives: str
    """`best` or `critical` batch, `measured` level (tokens); `rate` (peak rate); `window` (share of the run)."""
    formula: str
    coefficient: float
    exponents: Mapping[str, float]
    """By coordinate: params, tokens, compute, loss."""
    units: Mapping[str, float] = field(default_factory=dict)
    """What a coordinate is counted in, where that is not 1."""
    tokens_per_unit: float
    """Tokens in the law's own unit, e.g. 2048 for sequences of 2048."""
    overhead: float | None = None
    """Of a critical batch: extra tokens at it as a share of the fewest; 1 is the hyperbola's B_crit, 0.2 a fifth."""
    range: Box
    """Where it was fitted, as far as known; an empty box says that it is not known."""
    only_if: str = ""
    """A condition that its own range states; outside that range the law is not asked at all."""
    golden: Mapping[str, object]
    title: str
    source: str
    certainty: str
    fitted_on: str
    known_problems: tuple[str, ...]

    def __call__(self, **coords: float) -> float:
        """The value: tokens for a batch, else the quantity itself.

        Raises:
            ConfigError: a coordinate that the law needs is missing, or not positive and finite.
        """
        value = self.coefficient * self.tokens_per_unit
        for name, exponent in self.exponents.items():
            if name not in coords or not 0 < coords[name] < math.inf:
                raise ConfigError(f"{self.name} needs {name}, positive and finite; got {coords.get(name)}")
            value *= (coords[name] / self.units.get(name, 1.0)) ** exponent
        return value

    def applies(self, **coords: float) -> bool:
        """Whether its inputs are known and its own condition, if it has one, holds."""
        known = self.exponents.keys() <= coords.keys()
        return known and (not self.only_if or bool(self.range.inside(dict(coords))))

    def complaints(self, **coords: float) -> list[str]:
        """What to say of the range at these coordinates; empty inside it."""
        if not self.range.bounds:
            return ["fitted range not known"]
        return self.range.complaints(dict(coords))

    def hyperbola(self, **coords: float) -> float:
        """B_crit of the hyperbola, tokens: the law's batch over its overhead."""
        assert self.overhead is not None, f"{self.name} gives no critical batch"
        return self(**coords) / self.overhead


def batch_laws(gives: str | None = None) -> list[BatchLaw]:
    """The published laws, all or those of one kind, by name."""
    return [law for law in _all_laws() if gives in (None, law.gives)]


def tokens_over_fewest(batch: float, critical: float) -> float:
    """E/E_min = 1 + B/B_crit."""
    return 1 + batch / critical


def steps_over_fewest(batch: float, critical: float) -> float:
    """S/S_min = 1 + B_crit/B."""
    return 1 + critical / batch


@cache
def _all_laws() -> tuple[BatchLaw, ...]:
    folder = files("distillaw.large_batch") / "data"
    laws = []
    for entry in folder.iterdir():
        record = tomllib.loads(entry.read_text(encoding="utf-8")) if entry.name.endswith(".toml") else {}
        for law in record.get("law", ()):
            own = {key: record[key] for key in ("title", "source", "certainty", "fitted_on")} | law
            own["range"] = Box.of({name: tuple(ends) for name, ends in law.get("range", {}).items()})
            own["known_problems"] = (*record["known_problems"], *law.get("known_problems", ()))
            laws.append(BatchLaw(**own))
    return tuple(sorted(laws, key=lambda law: law.name))
