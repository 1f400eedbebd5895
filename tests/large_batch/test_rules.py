"""Rules of rate, betas and decay against hand-computed values and what each claims to keep."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillaw.errors import ConfigError
from distillaw.large_batch.rules import (
    Settings,
    adapt_phases,
    at_equal_samples,
    clip_at,
    decay_for_window,
    finite_population,
    half_life_beta2,
    linear_rate,
    mup_simple_rate,
    scale_settings,
    sde_betas,
    sqrt_rate,
    steps_of,
)
from distillaw.runs.spec import BatchPlan
from distillaw.train.optim import schedule_for

BATCHES = st.floats(1.0, 1000.0)


def test_the_root_rule_keeps_the_covariance_of_a_step_without_replacement():
    N, small, large = 12, 2, 6
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(N, 3))
    ratio = sqrt_rate(1.0, batch=large, reference=small, population=N)

    def covariance(batch):
        """Of the mean over all subsets of this size: exact, by enumeration."""
        from itertools import combinations

        means = np.array([gradients[list(chosen)].mean(0) for chosen in combinations(range(N), batch)])
        return np.cov(means.T, bias=True)

    assert ratio**2 * covariance(large) == pytest.approx(covariance(small), rel=1e-9)
    assert finite_population(4096, 50_000) == pytest.approx(0.918, abs=5e-4)
    assert sqrt_rate(0.1, batch=4096, reference=128) == pytest.approx(0.1 * math.sqrt(32))


@given(batch=BATCHES, reference=BATCHES)
def test_rates_return_to_where_they_came_from(batch, reference):
    for rule in (sqrt_rate, linear_rate):
        there = rule(0.3, batch=batch, reference=reference)
        assert rule(there, batch=reference, reference=batch) == pytest.approx(0.3)


def test_adams_betas_by_hand():
    tuned = Settings(batch=64, peak_lr=0.01, weight_decay=0.1, beta1=0.9, beta2=0.99, eps=1e-8)
    moved = sde_betas(tuned, batch=256)
    assert (moved.beta1, moved.beta2) == pytest.approx((0.6, 0.96))
    assert (moved.peak_lr, moved.eps) == pytest.approx((0.02, 5e-9))
    assert half_life_beta2(0.99, batch=256, reference=64) == pytest.approx(0.99**4)
    # the half-life in tokens, ln(1/2)/ln(beta) steps of B tokens, does not move
    assert 64 * math.log(0.5) / math.log(0.99) == pytest.approx(256 * math.log(0.5) / math.log(0.99**4))
    gap = half_life_beta2(1 - 1e-5, batch=256, reference=64) - (1 - 4e-5)
    assert abs(gap) < 1e-8  # both rules agree to first order in 1 - beta


@given(batch=BATCHES, reference=BATCHES, beta=st.floats(0.5, 0.999))
def test_betas_stay_inside_or_are_refused(batch, reference, beta):
    ratio = batch / reference
    if ratio * (1 - beta) < 1 - 1e-9:
        moved = sde_betas(Settings(batch=reference, peak_lr=1, beta1=beta, beta2=beta), batch=batch)
        assert 0 < moved.beta1 < 1
    elif ratio * (1 - beta) > 1:
        with pytest.raises(ConfigError, match="holds for k below"):
            sde_betas(Settings(batch=reference, peak_lr=1, beta1=beta, beta2=beta), batch=batch)


def test_weight_decay_keeps_adamws_averaging_window():
    tuned = Settings(batch=1e5, peak_lr=1e-3, weight_decay=0.1)
    for rate in ("sqrt", "linear", "constant"):
        new = scale_settings(tuned, batch=4e5, rate=rate, decay="timescale")
        windows = [decay_for_window(s.weight_decay, batch=s.batch, peak_lr=s.peak_lr, tokens=1e9) for s in (tuned, new)]
        assert windows[0] == pytest.approx(windows[1])
    assert scale_settings(tuned, batch=4e5, rate="linear", decay="timescale").weight_decay == pytest.approx(0.1)
    lam = decay_for_window(0.2, batch=1e5, peak_lr=1e-3, tokens=1e9)
    assert decay_for_window(lam, batch=1e5, peak_lr=1e-3, tokens=1e9) == pytest.approx(0.2)


def test_a_window_is_where_weights_of_a_constant_gradient_have_forgotten_their_start():
    window = decay_for_window(0.5, batch=10.0, peak_lr=0.01, tokens=4000.0)
    weight = 1.0
    for _ in range(round(window * 4000 / 10)):
        weight *= 1 - 0.01 * 0.5
    assert weight == pytest.approx(math.exp(-1), rel=0.01)


def test_hidden_rates_fall_with_width():
    assert mup_simple_rate(0.01, width=1024, base_width=256) == pytest.approx(0.0025)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sqrt_rate(0.1, batch=-4, reference=2), "batch = -4: it must be positive"),
        (lambda: sqrt_rate(0.1, batch=math.nan, reference=2), "must be positive"),
        (lambda: linear_rate(0.1, batch=1e12, reference=2), "same unit"),
        (lambda: linear_rate(-0.1, batch=4, reference=2), "peak_lr = -0.1"),
        (lambda: sqrt_rate(0.1, batch=50, reference=2, population=50), "no sampling noise"),
        (lambda: half_life_beta2(1.0, batch=4, reference=2), "in \\(0, 1\\)"),
        (lambda: half_life_beta2(0.9, batch=1e6, reference=2), "must lie in \\(0, 1\\)"),
        (lambda: scale_settings(Settings(batch=2, peak_lr=1), batch=4, rate="sqr"), "did you mean 'sqrt'"),
        (lambda: sde_betas(Settings(batch=1, peak_lr=1), batch=10), "beta1 = 0.9 at 10 times"),
        (lambda: adapt_phases([-3], batch=4, reference=2), "not negative"),
        (lambda: clip_at(0, clip_norm=0.0), "above 0"),
        (lambda: clip_at(0, clip_norm=1.0, clip_steps=-1), "not negative"),
    ],
)
def test_bad_input_is_refused_with_the_rule(call, says):
    with pytest.raises(ConfigError, match=says):
        call()


def test_phases_are_carried_over():
    phases = (81.0, 122.0, 164.0)
    assert adapt_phases(phases, batch=4096, reference=128) == (2592, 3904, 5248)
    assert adapt_phases(phases, batch=300, reference=128, whole_epochs=True) == (243, 366, 492)
    # a partial last batch breaks the equality of epochs
    assert steps_of(100, samples=50_000, batch=128) == 39_100
    assert steps_of(3200, samples=50_000, batch=4096) == 41_600
    assert steps_of(3200, samples=50_000, batch=4096, drop_last=True) == 38_400


def test_schedules_of_a_torch_loop_are_carried_over():
    import torch

    small = schedule_for(tokens=64_000, batches=BatchPlan(64), warmup_tokens=6400, cooldown=0.2)
    squeezed = at_equal_samples(small.factor, batch=256, reference=64)
    assert [squeezed(t) for t in (0, 25, 249)] == [small.factor(t) for t in (0, 100, 996)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, squeezed)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2.0 * small.factor(40))


def test_clipping_of_the_first_steps_or_of_all():
    assert [clip_at(t, clip_norm=5.0, clip_steps=2) for t in range(3)] == [5.0, 5.0, math.inf]
    assert clip_at(10**9, clip_norm=5.0) == 5.0
