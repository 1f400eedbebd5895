"""The points behind a law's intervals: even in every coordinate and in pairs of them, with the tails of a t."""

import numpy as np
import pytest
from scipy.stats import chi2, norm

from distillaw.planning import draws
from distillaw.planning.gains import LAW_DOF, LAW_SCALE


def test_every_law_of_an_ensemble_is_drawn_as_often_as_any_other():
    for count in (1, 3, 16, 500):
        times = np.bincount(draws.members(count), minlength=count)
        assert len(times) == count and times.max() - times.min() <= 1


@pytest.mark.parametrize("coordinate", [draws.SHARED, draws.PRETRAIN, draws.OPTIONS, draws.OPTIONS + 41])
def test_variates_are_standard_normal(coordinate):
    z = draws.normals(coordinate)
    assert z.shape == (draws.POINTS,)
    assert (z.mean(), z.std()) == pytest.approx((0, 1), abs=2e-3)
    assert np.percentile(z, [5, 50, 95]) == pytest.approx(norm.ppf([0.05, 0.5, 0.95]), abs=5e-3)


def test_tails_are_those_of_the_laws_t():
    rank = (np.arange(draws.LEVELS) + 0.5) / draws.LEVELS
    expected = LAW_SCALE * np.sqrt(LAW_DOF / chi2.ppf(rank, LAW_DOF))
    assert draws.tail_levels() == pytest.approx(expected, rel=1e-5)


def test_coordinates_go_together_by_chance_alone():
    """Of the first fifty no two are alike, and their product means nothing: no doubt is counted twice."""
    z = np.stack([draws.normals(d) for d in range(draws.SHARED, 50)])
    together = np.abs(np.corrcoef(z) - np.eye(len(z)))
    assert together.max() < 0.12 and np.median(together) < 0.01


@pytest.mark.parametrize("dimensions, bound, reach", [(2, 1.1547, 70), (3, 1.2599, 20), (4, 1.4142, 9), (5, 1.5157, 6)])
def test_no_few_planes_hold_all_points(dimensions, bound, reach):
    """Spectral test: the dual lattice's shortest vector over the longest there can be (bound: Hermite's constant)."""
    steps = np.array([pow(draws.MULTIPLIER, d, draws.POINTS) for d in range(dimensions)])
    axes = [np.arange(-reach, reach + 1)] * dimensions
    planes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dimensions)
    dual = planes[(planes @ steps % draws.POINTS == 0) & planes.any(axis=1)]
    shortest = np.sqrt((dual**2).sum(axis=1).min() / bound) / draws.POINTS ** (1 / dimensions)
    assert 0.64 < shortest < 0.8
