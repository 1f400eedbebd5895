import math
from statistics import NormalDist

import numpy as np
import pytest

from distillaw.verifying.scorecard import interval_score, surprise


def test_the_interval_score_is_least_at_the_true_quantiles():
    values = np.random.default_rng(0).normal(size=4000)
    scores = {z: np.mean([interval_score(-z, z, v, level=0.9) for v in values]) for z in (1.0, 1.3, 1.645, 2.0, 2.5)}
    assert min(scores, key=scores.get) == 1.645


def test_surprise_uses_the_side_that_the_value_lies_on():
    z90 = NormalDist().inv_cdf(0.95)
    assert surprise(3.0, 2.9, 3.3, 3.3, level=0.9) == pytest.approx(z90)
    assert surprise(3.0, 2.9, 3.3, 2.9, level=0.9) == pytest.approx(-z90)
    assert surprise(3.0, 3.0, 3.0, 3.1, level=0.9) == math.inf
