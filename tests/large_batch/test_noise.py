"""The noise scale from simulated gradients of known mean and covariance, and from a real accumulating loop."""

import math

import numpy as np
import pytest
import torch

from distillaw.errors import ConfigError, DataError, RunError
from distillaw.large_batch.instruments import AccumulationMeter
from distillaw.large_batch.noise import NoiseLog, noise_scale, two_batch

MEAN = np.array([1.0, -0.5, 0.25, 0.0])
STD = np.array([4.0, 1.0, 2.0, 3.0])
TRUE = float((STD**2).sum() / (MEAN**2).sum())


def norms(rng, *, steps, small=4, parts=4, mean=MEAN):
    """(mean |g_b|^2, |g_B|^2) per step."""
    samples = rng.normal(mean, STD, size=(steps, parts, small, len(STD)))
    micro = samples.mean(2)
    return (micro**2).sum(-1).mean(1), (micro.mean(1) ** 2).sum(-1)


def test_both_parts_are_unbiased():
    small_sq, big_sq = norms(np.random.default_rng(0), steps=40_000)
    pairs = np.array([two_batch(s, b, small=4, big=16) for s, b in zip(small_sq, big_sq, strict=True)])
    se = pairs.std(0) / math.sqrt(len(pairs))
    assert abs(pairs[:, 0].mean() - (MEAN**2).sum()) < 4 * se[0]
    assert abs(pairs[:, 1].mean() - (STD**2).sum()) < 4 * se[1]
    assert (pairs[:, 0] < 0).any()  # single steps may be negative: why they are averaged apart


def test_identities_by_hand():
    # expectations put in exactly: |g_b|^2 = |G|^2 + tr/b
    assert two_batch(2 + 12 / 4, 2 + 12 / 16, small=4, big=16) == pytest.approx((2, 12))


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(7)
    hits, trials, ses = 0, 400, []
    for _ in range(trials):
        small_sq, big_sq = norms(rng, steps=200)
        found = noise_scale(small_sq, big_sq, small=4, big=16, level=0.9)
        hits += found.low <= TRUE <= (math.inf if found.high is None else found.high)
        ses.append((found.grad_sq, found.grad_sq_se))
    assert 0.86 <= hits / trials <= 0.94  # 0.9 with 2.7 standard errors of 400 trials
    spread = np.std([mean for mean, _ in ses])
    assert np.sqrt(np.mean([se**2 for _, se in ses])) == pytest.approx(spread, rel=0.12)


def test_no_signal_gives_no_upper_end():
    rng = np.random.default_rng(2)
    small_sq, big_sq = norms(rng, steps=60, mean=np.zeros(4))
    found = noise_scale(small_sq, big_sq, small=4, big=16)
    assert found.high is None and found.low > 0
    assert found.low < 1e3
    if found.value is not None:
        assert found.value >= found.low


def test_a_log_keeps_a_moving_value_and_its_record():
    small_sq, big_sq = norms(np.random.default_rng(3), steps=3000, small=16)
    log = NoiseLog(small=16, big=64)
    assert log.value is None
    for s, b in zip(small_sq, big_sq, strict=True):
        log.add(small_sq=float(s), big_sq=float(b))
    assert log.value == pytest.approx(TRUE, rel=0.35)
    whole = log.estimate()
    assert whole.value == pytest.approx(TRUE, rel=0.1)
    assert log.estimate(last=100).steps == 100
    assert whole == noise_scale(small_sq, big_sq, small=16, big=64)


def test_the_meter_sees_the_norms_of_micro_batches_and_of_their_mean():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1))
    model.double()
    x, y = torch.randn(12, 5, dtype=torch.float64), torch.randn(12, 1, dtype=torch.float64)

    def gradient(rows):
        model.zero_grad()
        ((model(x[rows]) - y[rows]) ** 2).mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    parts = [slice(0, 4), slice(4, 8), slice(8, 12)]
    expected = (
        sum(gradient(rows).square().sum().item() for rows in parts) / 3,
        gradient(slice(None)).square().sum().item(),
    )
    meter = AccumulationMeter(model.parameters(), micro_batches=3)
    for _ in range(2):  # the second step begins anew
        model.zero_grad()
        for rows in parts:
            (((model(x[rows]) - y[rows]) ** 2).mean() / 3).backward()
            meter.after_backward()
        assert meter.norms() == pytest.approx(expected, rel=1e-12)


def test_a_real_loops_noise_scale_is_that_of_its_per_sample_gradients():
    torch.manual_seed(1)
    x = torch.randn(4000, 6, dtype=torch.float64)
    y = x @ torch.randn(6, dtype=torch.float64) + 2 * torch.randn(4000, dtype=torch.float64)
    w = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
    per_sample = -2 * y[:, None] * x  # of (x w - y)^2 at w = 0
    mean = per_sample.mean(0)
    true = ((per_sample - mean).square().sum(1).mean() / mean.square().sum()).item()
    log, meter = NoiseLog(small=8, big=32), AccumulationMeter([w], micro_batches=4)
    for _ in range(400):
        w.grad = None
        for _ in range(4):
            rows = torch.randint(4000, (8,))
            (((x[rows] @ w - y[rows]) ** 2).mean() / 4).backward()
            meter.after_backward()
        small_sq, big_sq = meter.norms()
        log.add(small_sq=small_sq, big_sq=big_sq)
    found = log.estimate(level=0.999)
    assert found.high is not None and found.low < true < found.high
    assert found.value == pytest.approx(true, rel=0.15)


def test_bad_input():
    with pytest.raises(ConfigError, match="0 < small < big"):
        two_batch(1.0, 1.0, small=8, big=8)
    with pytest.raises(DataError, match="not negative"):
        two_batch(-1.0, 1.0, small=4, big=8)
    with pytest.raises(DataError, match="at least 8 steps"):
        noise_scale([1.0] * 3, [1.0] * 3, small=4, big=8)
    with pytest.raises(ConfigError, match="level"):
        noise_scale([1.0] * 9, [1.0] * 9, small=4, big=8, level=95)
    with pytest.raises(ConfigError, match="memory"):
        NoiseLog(small=4, big=8, memory=1.0)
    with pytest.raises(ConfigError, match="at least two"):
        AccumulationMeter([], micro_batches=1)
    with pytest.raises(RunError, match="0 micro-batches measured of 2"):
        AccumulationMeter([torch.nn.Parameter(torch.zeros(1))], micro_batches=2).norms()
