import numpy as np
import pytest

from distillaw.planning.gains import RunNoise, document_part, gain_posterior, seed_covariance
from distillaw.runs.paired import seed_noise


def test_seed_noise_is_recovered_and_ignores_what_a_seed_does_to_all_arms():
    rng = np.random.default_rng(0)
    cells = []
    for _ in range(300):
        shared = {seed: rng.normal(0, 0.05) for seed in range(3)}
        cells.append({(arm, seed): 4.0 + shared[seed] + rng.normal(0, 0.01) for arm in "abc" for seed in range(3)})
    variance, dof = seed_noise(cells)
    assert dof == 300 * 4  # (3 - 1) x (3 - 1) per cell
    assert np.sqrt(variance) == pytest.approx(0.01, rel=0.1)


def test_seed_noise_of_an_incomplete_cell_counts_only_what_is_repeated():
    cell = {("", 0): 4.0, ("", 1): 4.1, ("t", 0): 3.9, ("t", 1): 4.0, ("u", 0): 3.8}
    variance, dof = seed_noise([cell])
    assert dof == 1
    assert variance == pytest.approx(0.0, abs=1e-20)
    assert seed_noise([{("", 0): 4.0, ("t", 0): 3.9}]) == (0.0, 0.0)


def test_seed_noise_of_a_cell_with_holes_is_the_least_squares_of_arms_and_seeds():
    rng = np.random.default_rng(1)
    names = [(arm, seed) for arm in "abcd" for seed in range(30) if rng.random() < 0.5] + [("lonely", 99)]
    cell = {name: rng.normal() for name in names}
    design = np.array(
        [
            [name[0] == arm for arm in {a for a, _ in names}] + [name[1] == s for s in {s for _, s in names}]
            for name in names
        ],
        dtype=float,
    )
    solved = np.linalg.lstsq(design, np.array([*cell.values()]), rcond=None)
    left = np.array([*cell.values()]) - design @ solved[0]
    variance, dof = seed_noise([cell])
    assert dof == len(names) - solved[2]
    assert variance == pytest.approx(left @ left / dof)


def test_repeats_of_one_arm_alone_bound_the_seed_noise_from_above():
    cell = {("", 0): 4.0, ("", 1): 4.1, ("t", 0): 3.9}
    assert seed_noise([cell]) == (0.0, 0.0)
    variance, dof = seed_noise([cell], paired=False)
    assert (variance, dof) == (pytest.approx(0.005), 1)


def test_what_documents_do_to_the_difference_between_seeds_is_told_apart():
    rng = np.random.default_rng(7)
    tokens = np.maximum(20, rng.lognormal(6, 0.6, 64)).astype(np.int64)
    names = [(arm, seed) for arm in "ab" for seed in range(3)]
    cells, losses = [], []
    for _ in range(200):
        sums = (4 + rng.normal(0, 0.03, (6, 64))) * tokens  # no seed noise at all, only run x document
        cells.append((names, sums))
        losses.append(dict(zip(names, sums.sum(1) / tokens.sum(), strict=True)))
    # both estimate the same variance: 200 cells know each to about 7 %
    assert document_part(cells, tokens) == pytest.approx(seed_noise(losses)[0], rel=0.2)


def test_gains_share_the_noise_of_the_run_without_a_teacher():
    noise = RunNoise(sd=0.1, seen=0.1, dof=4, source="cell")
    halves = {0: 0.5, 1: 0.5}
    cov = seed_covariance(halves, [halves, {0: 1.0}], noise)
    # two seeds against two, and against one: var = s^2 (1/2 + 1/2) and s^2 (1/2 + 1), cov = s^2 / 2
    assert cov == pytest.approx(0.01 * np.array([[1.0, 0.5], [0.5, 1.5]]))


def test_what_a_seed_does_to_all_arms_cancels_only_where_all_have_it():
    rng = np.random.default_rng(3)
    noise = RunNoise(sd=0.01, seen=0.01, dof=4, source="cell", shared=0.03)
    u, e0, e1, e2 = (sd * rng.normal(size=(200_000, 2)) for sd in (0.03, 0.01, 0.01, 0.01))
    alone, both, one = (u + e0).mean(1), (u + e1).mean(1), (u + e2)[:, 0]
    cov = seed_covariance({0: 0.5, 1: 0.5}, [{0: 0.5, 1: 0.5}, {0: 1.0}], noise)
    assert cov == pytest.approx(np.cov(np.stack([alone - both, alone - one])), rel=0.03)


def test_one_teacher_is_not_shrunk():
    rng = np.random.default_rng(1)
    posterior = gain_posterior(np.array([0.1]), np.array([[1e-4]]), dof=1e6, spread=0.04, rng=rng)
    assert posterior.mean[0] == pytest.approx(0.1, abs=3e-4)
    assert posterior.draws.std() == pytest.approx(0.01, rel=0.03)


def test_teachers_that_differ_by_noise_are_pulled_together_and_clear_ones_are_not():
    cov = 1e-4 * (0.5 * np.ones((3, 3)) + 0.5 * np.eye(3))
    close = gain_posterior(np.array([0.10, 0.11, 0.12]), cov, dof=1e6, spread=0.04, rng=np.random.default_rng(2))
    assert 0.105 < close.mean[2] < 0.117
    clear = gain_posterior(np.array([0.10, 0.30, 0.50]), cov, dof=1e6, spread=0.04, rng=np.random.default_rng(2))
    assert clear.mean == pytest.approx([0.10, 0.30, 0.50], abs=2e-3)
    assert clear.share_best()[2] > 0.999


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread", "simulations"),
    [(0.0, 300), (0.03, 300), *(pytest.param(s, 3000, marks=pytest.mark.slow) for s in (0.0, 0.01, 0.03))],
)
def test_interval_of_the_best_of_four_covers_it_whatever_the_teachers_differ_by(spread, simulations):
    rng = np.random.default_rng(3)
    cov = 1e-4 * (0.5 * np.ones((4, 4)) + 0.5 * np.eye(4))
    factor = np.linalg.cholesky(cov)
    hits, naive_bias = 0, []
    for _ in range(simulations):
        truth = rng.normal(0, 0.02) + rng.normal(0, spread, 4)
        measured = truth + factor @ rng.normal(size=4)
        posterior = gain_posterior(measured, cov, dof=1e6, spread=0.04, rng=rng, draws=500)
        low, high = np.percentile(posterior.draws[:, posterior.best], [5, 95])
        hits += low < truth[posterior.best] < high
        naive_bias.append(measured.max() - truth[measured.argmax()])
    # 3,000 simulations give 0.887 to 0.915; three standard errors of a coverage of 0.9, a false alarm in 370
    assert hits / simulations == pytest.approx(0.9, abs=3 * (0.09 / simulations) ** 0.5)
    assert np.mean(naive_bias) > 0.0005  # without shrinkage the best looks better than it is


@pytest.mark.slow
def test_probability_that_a_gain_exceeds_a_margin_is_calibrated():
    rng = np.random.default_rng(4)
    cov = 1e-4 * (0.5 * np.ones((3, 3)) + 0.5 * np.eye(3))
    factor = np.linalg.cholesky(cov)
    said, came = [], []
    for _ in range(500):
        truth = rng.normal(0.01, 0.02) + rng.normal(0, 0.01, 3)
        measured = truth + factor @ rng.normal(size=3)
        scale = rng.chisquare(4) / 4  # the variance is estimated with 4 degrees of freedom
        posterior = gain_posterior(measured, cov * scale, dof=4, spread=0.04, rng=rng, draws=1500)
        said.append((posterior.draws[:, posterior.best] > 0.01).mean())
        came.append(truth[posterior.best] > 0.01)
    said, came = np.array(said), np.array(came)
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (said >= low) & (said <= high)
        assert inside.sum() > 40
        # the flat prior of the mean is wider than this world's: allow for that and for 40 draws
        assert came[inside].mean() == pytest.approx(said[inside].mean(), abs=0.13)
