"""Priors learnt from public runs and weights of runs far above the best of their compute."""

import numpy as np

import distillaw as dl
from distillaw.fitting.observations import observe
from distillaw.fitting.problem import SMALLEST, learnt_exponents, weak_prior
from distillaw.fitting.solve import choose_weights, excess, weighted


def rows_of(params, tokens, loss):
    return observe({"params": np.array(params), "tokens": np.array(tokens), "loss": np.array(loss)})


def test_excess_is_over_the_best_of_about_the_same_compute():
    rows = rows_of([1e8, 2e8, 4e8, 1e8], [4e9, 2e9, 1e9, 1e12], [3.0, 2.9, 3.2, 2.5])
    expected = np.log([3.0 / 2.9, 1.0, 3.2 / 2.9, 1.0])
    np.testing.assert_allclose(excess(rows), expected, atol=1e-12)
    np.testing.assert_allclose(weighted(rows, 0.05).weight, 1 / (1 + (expected / 0.05) ** 2))


def test_a_learnt_prior_leaves_its_own_collection_out():
    everything, others = learnt_exponents(), learnt_exponents("gemstones")
    assert set(everything) == {"p", "q", "gamma"} and everything != others
    for name, (centre, sd) in everything.items():
        assert 0.05 < sd < 0.6 and 0.1 < centre < 0.7, name
    assert learnt_exponents("nobody's") == everything


def test_the_learnt_prior_is_for_runs_of_the_size_it_was_learnt_from():
    small = rows_of([1e5, 2e5], [2e5, 2e6], [4.0, 3.0])
    large = rows_of([SMALLEST[0] * 2] * 2, [SMALLEST[1] * 2] * 2, [4.0, 3.0])
    assert set(weak_prior("supervised", small)) == {"le"}
    assert set(weak_prior("supervised", large)) == {"le", "p", "q"}


def test_the_scale_is_the_one_with_the_least_held_out_error():
    rows = rows_of([1e8, 2e8, 4e8], [4e9, 2e9, 1e9], [3.0, 2.9, 3.2])
    errors = {0.1: 0.02, 0.05: 0.01}
    kept = {tau: weighted(rows, tau).weight.tolist() for tau in errors}

    def error(candidate):
        return next((e for tau, e in errors.items() if candidate.weight.tolist() == kept[tau]), 0.015)

    chosen, tau = choose_weights(rows, error)
    assert tau == 0.05 and chosen.weight.tolist() == kept[0.05]
    errors[0.05] = 0.03
    assert choose_weights(rows, error) == (rows, None)
    assert choose_weights(rows, lambda rows: None) == (rows, None), "too few runs to hold any out"


def test_weights_of_the_user_are_kept():
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(7, 9, 40), 10 ** rng.uniform(9, 11, 40)
    table = {"params": N, "tokens": D, "loss": 1.5 + 20 * N**-0.2 + 200 * D**-0.3}
    given = dl.fit(table, family="supervised", bootstrap=0, check=False, weights=np.r_[2.0, np.ones(39)])
    assert not any("best of their compute" in note for note in given.notes)


def test_an_extrapolation_in_size_alone_widens_the_interval():
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 2e8, 6), np.geomspace(1e9, 1e11, 8)))
    L = dl.published("busbridge2025").supervised(params=N, tokens=D)
    L = L * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(N)))
    fit = dl.fit({"params": N, "tokens": D, "loss": L}, family="supervised", bootstrap=60, check=False)
    within, beyond = fit.predict(params=2e8, tokens=1e9), fit.predict(params=2e9, tokens=1e9)
    wide = np.log(beyond.upper / beyond.lower) / np.log(within.upper / within.lower)
    assert wide > 2, "its compute is within the runs; its size is ten times theirs"


def test_the_objective_is_the_sum_over_the_runs_as_given(law_runs):
    """So that others can recompute it, and AIC sets laws with and without such weights against each other."""
    file, columns = law_runs / "kyo-takano-chinchilla/df.csv", {"params": "N", "tokens": "D"}
    found = dl.fit(file, columns=columns, family="supervised", bootstrap=0, check=False, compare=("chinchilla",))
    assert any("best of their compute" in note for note in found.notes)
    size = np.abs(found.resid)
    terms = np.where(size <= found.delta, size**2 / 2, found.delta * (size - found.delta / 2))
    np.testing.assert_allclose(found.objective, terms.sum(), rtol=1e-12)
    mine, other = (score["aic"] for score in found.details["comparison"])
    assert 5 < other - mine < 40, "18 as it is, 152 with the weights in one of them"
