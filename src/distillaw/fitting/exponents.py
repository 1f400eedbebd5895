"""What exponents language models have: the weak prior of supervised fits, learnt from public runs.

`exponents.json` holds the slopes p = gamma alpha and q = gamma beta and ln gamma of every set of runs, by collection
(`benchmarks.fits.learn` writes it and says how they are pooled; docs/fitting.md names the collections). Fits of
runs of a collection that was learnt from are judged with the prior of the others.
"""

import json
from functools import cache
from importlib.resources import files

import numpy as np

from distillaw.laws.base import Array

SMALLEST = (5e6, 3e7)
"""Parameters and tokens (geometric means) from which the prior holds: the smallest runs that were learnt from. Models
of some 0.1M parameters on some 1M tokens gain far more from tokens (q = 0.87 in the pocket study)."""


@cache
def learnt_exponents(without: str | None = None) -> dict[str, tuple[float, float]]:
    """Centre and standard deviation of p, q and gamma (of whose logarithm), as `fit(priors=...)` takes them.

    Args:
        without: a collection that is left out, since its runs are to be judged.
    """
    text = (files("distillaw.fitting") / "exponents.json").read_text(encoding="utf-8")
    collections = [
        sets
        for name, sets in json.loads(text)["collections"].items()
        if name.lower() != (without or "").lower()
    ]
    found = {}
    for name in ("p", "q", "log_gamma"):
        by_collection = [np.array([one[name] for one in sets]) for sets in collections]
        centre = float(np.mean([values.mean() for values in by_collection]))
        square = np.mean([((values - centre) ** 2).mean() for values in by_collection])
        found[name] = (centre, float(np.sqrt(square * len(collections) / (len(collections) - 1))))
    centre, sd = found.pop("log_gamma")
    return found | {"gamma": (float(np.exp(centre)), sd)}


def holds_for(params: Array, tokens: Array) -> bool:
    """True where runs are as large as those that were learnt from."""
    middle = np.exp(np.log(params).mean()), np.exp(np.log(tokens).mean())
    return bool(middle[0] >= SMALLEST[0] and middle[1] >= SMALLEST[1])
