"""Levels that looks share."""

import numpy as np
import pytest

from distillaw.settling.standing import look_alpha, quantile


def test_looks_never_use_more_than_there_is():
    shares = [look_alpha(0.1, look) for look in range(1, 60)]
    assert sum(shares) == pytest.approx(0.1, rel=1e-9) and sum(shares) <= 0.1 + 1e-12
    assert all(share > 0 for share in shares)


def test_bounds_of_a_growing_mean_hold_at_all_looks():
    """A thousand sequences of six looks at a mean that is 0: some bound fails in at most one tenth."""
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((20_000, 6, 4)).mean(axis=2)
    means = np.cumsum(steps, axis=1) / np.arange(1, 7)
    sds = 0.5 / np.sqrt(np.arange(1, 7))
    reach = np.array([quantile(look_alpha(0.1, i + 1)) for i in range(6)])
    failed = (means + reach * sds < 0).any(axis=1).mean()
    assert 0.04 < failed <= 0.1
