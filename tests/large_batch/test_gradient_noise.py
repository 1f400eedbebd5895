"""Random sample weights: the variance by theory, by enumeration of what is random, and by drawing."""

import itertools

import numpy as np
import pytest
import torch

from distillaw.errors import ConfigError
from distillaw.large_batch.instruments import noisy_mean
from distillaw.large_batch.rules import finite_population, noise_variance


def covariance_parts(variance, *, batch, population=None):
    """(factor of C, factor of mu mu^T) in the covariance of the weighted mean gradient."""
    return (finite_population(batch, population) + variance) / batch, variance / batch


@pytest.mark.parametrize("population", [None, 9])
def test_the_covariance_is_exact_over_all_batches(population):
    rng = np.random.default_rng(1)
    N, M, variance = 9, 4, 0.7
    g = rng.normal(size=(N, 2)) + 0.8
    mu, C = g.mean(0), np.cov(g.T, bias=True)
    batches = itertools.combinations(range(N), M) if population else itertools.product(range(N), repeat=M)
    means, second = [], 0.0
    for count, batch in enumerate(batches, start=1):
        chosen = g[list(batch)]
        means.append(chosen.mean(0))
        second = second + (variance * chosen.T @ chosen / M**2 - second) / count  # E over z, given the batch
    exact = np.cov(np.array(means).T, bias=True) + second
    of_C, of_mean = covariance_parts(variance, batch=M, population=population)
    assert of_C * C + of_mean * np.outer(mu, mu) == pytest.approx(exact, rel=1e-9)


def test_the_variance_restores_the_small_batchs_noise():
    assert noise_variance(batch=4096, reference=128) == 31
    C, mu_sq = 15.9, 0.3
    plain = noise_variance(batch=64, reference=8)
    of_C, of_mean = covariance_parts(plain, batch=64)
    assert of_C == pytest.approx(1 / 8) and of_mean == pytest.approx(1 / 8 - 1 / 64)
    exact = noise_variance(batch=64, reference=8, mean_share=mu_sq / C)
    of_C, of_mean = covariance_parts(exact, batch=64)
    assert of_C * C + of_mean * mu_sq == pytest.approx(C / 8)  # the trace, mean gradient and all
    finite = noise_variance(batch=64, reference=8, population=200)
    assert covariance_parts(finite, batch=64, population=200)[0] == pytest.approx((192 / 199) / 8)
    assert noise_variance(batch=8, reference=8) == 0


def test_drawn_gradients_have_that_covariance():
    """Per-sample gradients of trace 15.9: batch 64 with weights is as noisy as batch 8."""
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(20_000, 4, generator=generator, dtype=torch.float64)
    g = (g - g.mean(0)) * (15.9 / g.var(0, correction=0).sum()).sqrt()
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    variance = noise_variance(batch=64, reference=8)
    draws = []
    for _ in range(3000):
        batch = g[torch.randint(len(g), (64,), generator=generator)]
        (gradient,) = torch.autograd.grad(noisy_mean(batch @ w, variance=variance, generator=generator), w)
        draws.append(gradient)
    trace = torch.stack(draws).var(0).sum().item()
    # relative standard error of a variance over 3000 draws and 4 directions is about sqrt(2/(3000 * 4)) = 1.3 %
    assert trace == pytest.approx(15.9 / 8, rel=0.06)


def test_weights_are_reproducible_and_centred():
    losses, draw = torch.ones(50_000, requires_grad=True), []
    for _ in range(2):  # the gradient of each loss is its weight over the batch
        noisy = noisy_mean(losses, variance=4.0, generator=torch.Generator().manual_seed(3))
        draw.append(len(losses) * torch.autograd.grad(noisy, losses)[0])
    assert torch.equal(draw[0], draw[1])
    assert draw[0].mean().item() == pytest.approx(1.0, abs=0.04)
    assert draw[0].std().item() == pytest.approx(2.0, rel=0.02)
    losses = torch.tensor([1.0, 5.0])
    assert noisy_mean(losses, variance=0.0).item() == 3.0


def test_bad_input():
    with pytest.raises(ConfigError, match="smaller than the reference"):
        noise_variance(batch=8, reference=64)
    with pytest.raises(ConfigError, match="not negative"):
        noisy_mean(torch.ones(3), variance=-1.0)
    with pytest.raises(ConfigError, match="one loss per sample"):
        noisy_mean(torch.tensor(1.0), variance=1.0)
    with pytest.raises(ConfigError, match="mean_share"):
        noise_variance(batch=8, reference=4, mean_share=-1)
