"""What is believed before any run: the exponents of language models, and laws to design a study with.

The weak prior of supervised fits is learnt from public runs. `exponents.json` holds the slopes p = gamma alpha and
q = gamma beta and ln gamma of every set of runs, by collection (`benchmarks.fits.learn` writes it and says how they are
pooled; docs/fitting.md names the collections). Fits of runs of a collection that was learnt from are judged with the
prior of the others.

Laws for a study of which nothing has run are the surrogates, moved to its scale. The shape of the distillation law is
known only from models of 143M parameters on. Small studies on few tokens still follow it: with every size taken 635
times and every token count 396 times as large, the published supervised law meets the 20 supervised losses of the
shipped pocket study (0.1M to 0.8M parameters, 0.2M to 4M tokens, vocabulary 512) within 0.6 % rms, and the surrogates
its 51 distilled ones within 1.5 to 1.9 %, the student's term moved by the factors below. On four cells of the open
study, which it had not seen, it was off by 0.1 to 1.3 %. It stays a guess: good for the spread of ratios L_T / L_S and
for the errors of a design, not for a loss that anybody should quote.
"""

import json
from dataclasses import replace
from functools import cache
from importlib.resources import files

import numpy as np

from distillaw.laws.base import Array
from distillaw.laws.distillation import DistillationLaw, KappaDistillationLaw
from distillaw.laws.published import PublishedLaw, published

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
        sets for name, sets in json.loads(text)["collections"].items() if name.lower() != (without or "").lower()
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


PAPER_SIZE = 143e6
"""Smallest size the laws were made for, arXiv:2502.08606v2: taken as they are from here on."""
SMALL_SIZE = 0.2e6
"""Middle size of the pocket study: moved in full up to here, in between by a share in ln N."""
SIZE_FACTOR, TOKEN_FACTOR = 635.0, 396.0
"""Least squares on ln L of the pocket study's supervised runs and teachers (studies/pocket_runs.parquet)."""
TERM_FACTOR = {"surrogate-s1": 0.076, "surrogate-s2": 0.158, "surrogate-s3": 0.230}
"""ln of the factor on the student's term, from the pocket study's distilled runs."""
POCKET = {
    "A": 1408223.1,
    "B": 118592629400987.64,
    "alpha": 0.5985982,
    "beta": 2.0416703,
    "gamma": 0.4280068,
    "c0": 3.0776261,
    "kappa": 2.7648189,
    "f1": 0.1775516,
}
"""`distillaw fit` of that table with --law distillation-kappa: CONVERGED, 71 rows in 26 trunks, c0 within -0.6 to 4.0.
The one guess from small models: its best teachers are weaker (a break at 0.83, against 0.93)."""


def prior_laws(params: Array) -> dict[str, PublishedLaw]:
    """The surrogates S1 to S3 (not published values) and the pocket study's law, at the scale of a study.

    At the papers' own scale the pocket study has no say.

    Args:
        params: N of the study's students, non-embedding, (m,); their middle in ln N sets the scale.
    """
    middle = float(np.log(params).mean())
    share = (np.log(PAPER_SIZE) - middle) / (np.log(PAPER_SIZE) - np.log(SMALL_SIZE))
    share = float(np.clip(share, 0.0, 1.0))
    laws = {name: _moved(published(name), share, term) for name, term in TERM_FACTOR.items()}
    return laws | ({"pocket": _pocket(laws["surrogate-s1"], 1 - share)} if share > 0 else {})


def _moved(law: PublishedLaw, share: float, term: float) -> PublishedLaw:
    """The law with N and D multiplied, and ln of its student's term raised, by a share of the factors."""
    own, taught = law.supervised, law.distillation
    assert own is not None and isinstance(taught, DistillationLaw)
    size, tokens = SIZE_FACTOR**share, TOKEN_FACTOR**share
    raised = float(np.exp(share * term / taught.gamma))
    own = replace(own, A=own.A * size**-own.alpha, B=own.B * tokens**-own.beta)
    A, B = taught.A * size**-taught.alpha, taught.B * tokens**-taught.beta
    taught = replace(taught, supervised=own, A=raised * A, B=raised * B)
    return replace(law, supervised=own, distillation=taught)


def _pocket(beside: PublishedLaw, share: float) -> PublishedLaw:
    """The pocket study's law, N and D divided by a share of the factors, with the supervised half of another guess."""
    taught = KappaDistillationLaw(**POCKET, supervised=beside.supervised)
    size, tokens = SIZE_FACTOR**share, TOKEN_FACTOR**share
    taught = replace(taught, A=taught.A * size**taught.alpha, B=taught.B * tokens**taught.beta)
    return replace(beside, name="pocket", distillation=taught)
