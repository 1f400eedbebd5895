"""What must not matter: units, the order of rows, the choice of start, the size of the table."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distillaw as dl

LAW = dl.published("busbridge2025").supervised
N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1.4e8, 1e10, 5), np.geomspace(3e9, 5e11, 4)))
LOSS = LAW(params=N, tokens=D) * np.exp(0.003 * np.random.default_rng(0).standard_normal(20))
TABLE = {"params": N, "tokens": D, "loss": LOSS}
FEW = settings(max_examples=settings.default.max_examples // 3)  # each is a fit


PRIOR = {"gamma": (0.6, 0.4)}
"""Given, since the learnt one is of counts: it is for models of at least five million parameters."""


def fit(table, **options):
    options = {"priors": PRIOR} | options
    return dl.fit(table, family="supervised", bootstrap=0, check=False, **options)


PLAIN = cache(lambda: fit(TABLE))


@FEW
@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_units_of_size_and_tokens_change_no_prediction(a, b):
    scaled = fit({"params": N * a, "tokens": D * b, "loss": LOSS}).predict(params=3e9 * a, tokens=1e11 * b)
    plain = PLAIN().predict(params=3e9, tokens=1e11)
    assert scaled.mean == pytest.approx(plain.mean, rel=1e-8)


@FEW
@given(st.permutations(range(20)))
def test_order_of_rows_changes_nothing(order):
    shuffled = fit({k: v[list(order)] for k, v in TABLE.items()})
    assert shuffled.objective == pytest.approx(PLAIN().objective, rel=1e-9)
    assert shuffled.params["gamma"] == pytest.approx(PLAIN().params["gamma"], rel=1e-6)


@FEW
@given(st.floats(0.1, 100.0))
def test_units_of_loss_scale_the_loss(c):
    scaled = fit(TABLE | {"loss": LOSS * c})
    assert scaled.predict(params=3e9, tokens=1e11).mean == pytest.approx(
        c * PLAIN().predict(params=3e9, tokens=1e11).mean, rel=1e-7
    )


def test_weights_of_two_equal_two_copies():
    weights = np.r_[2.0, np.ones(19)]
    weighted = fit(TABLE, weights=weights, delta=0.01, priors="none")
    copied = fit({k: np.r_[v, v[:1]] for k, v in TABLE.items()}, delta=0.01, priors="none")
    for name, value in copied.params.items():
        assert weighted.params[name] == pytest.approx(value, rel=1e-6)


def test_outliers_move_the_law_little():
    loss = LOSS.copy()
    loss[3] *= 1.2
    clean, dirty = (
        PLAIN().predict(params=3e9, tokens=1e11),
        fit(TABLE | {"loss": loss}).predict(params=3e9, tokens=1e11),
    )
    assert dirty.mean == pytest.approx(clean.mean, rel=0.004)


@pytest.mark.slow
def test_a_million_rows_give_the_law_in_seconds():
    rng = np.random.default_rng(1)
    n, d = (
        np.exp(rng.uniform(np.log(1e8), np.log(1e10), 10**6)),
        np.exp(rng.uniform(np.log(2e9), np.log(5e11), 10**6)),
    )
    loss = LAW(params=n, tokens=d) * np.exp(0.003 * rng.standard_normal(10**6))
    result = dl.fit({"params": n, "tokens": d, "loss": loss}, family="supervised", bootstrap=1000)
    assert result.nobs == 10**6
    assert result.params["gamma"] == pytest.approx(0.452, rel=5e-3)
    low, high = result.conf_int()["gamma"]
    assert low < 0.452 < high and high - low < 0.01
    assert any("linearised" in note for note in result.notes)
