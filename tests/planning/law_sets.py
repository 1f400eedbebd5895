"""Ensembles for the tests of optima and maps."""

from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import published

SURROGATES = ("surrogate-s1", "surrogate-s2", "surrogate-s3")


def laws(*names):
    found = [published(name) for name in names]
    return LawEnsemble.of([(law.supervised, law.distillation) for law in found])


def disagreeing(rng, *, size, spread):
    """Members of the published sets with every coefficient moved by its own relative error."""
    chosen = laws("busbridge2025", *SURROGATES).take(rng.integers(0, 4, size))

    def moved(half):
        return {name: values * (1 + spread * rng.normal(size=size)) for name, values in half.items()}

    return LawEnsemble(plain=moved(chosen.plain), student=moved(chosen.student))
