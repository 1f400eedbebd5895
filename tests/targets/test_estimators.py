"""Unbiased where it is promised, exact where it can be, and better than independent draws."""

import numpy as np
import pytest
import torch

from distillaw.targets.make import estimate, sample_systematic
from distillaw.targets.manifest import Scheme

torch.set_num_threads(1)
DRAWS = 20_000


def _logits(vocab: int, *, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def _offsets(count: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _shares(ids_PN: torch.Tensor, vocab: int) -> torch.Tensor:
    shares = torch.zeros(len(ids_PN), vocab, dtype=torch.float64)
    return shares.scatter_add_(1, ids_PN, torch.full(ids_PN.shape, 1 / ids_PN.shape[1], dtype=torch.float64))


@pytest.mark.parametrize("samples", [1, 7, 32])
def test_samples_are_unbiased(samples):
    p = torch.softmax(_logits(40), dim=-1).double()
    shares = _shares(sample_systematic(p.expand(DRAWS, -1), _offsets(DRAWS), samples), 40)
    fraction = samples * p[0] % 1
    spread = (fraction * (1 - fraction) / DRAWS).sqrt() / samples
    error = ((shares.mean(dim=0) - p[0]) / spread)[fraction * DRAWS > 20]
    assert len(error) > 15 and error.abs().max() < 4  # standard errors
    assert error.square().mean() < 2


def test_an_id_gets_its_share_rounded_down_or_up():
    p = torch.softmax(_logits(50), dim=-1).double()
    counts = _shares(sample_systematic(p.expand(500, -1), _offsets(500), 32), 50) * 32
    assert ((counts - 32 * p).abs() < 1 + 1e-9).all()
    torch.testing.assert_close(counts.sum(dim=-1), torch.full((500,), 32.0, dtype=torch.float64))


def test_every_offset_counts_once():
    """Over equally spaced offsets the mean is p without any chance: the unbiasedness is exact."""
    p = torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0], dtype=torch.float64)
    offsets = torch.arange(64, dtype=torch.float64) / 64
    shares = _shares(sample_systematic(p.expand(64, -1), offsets, 2), 5)
    torch.testing.assert_close(shares.mean(dim=0), p, rtol=0, atol=1e-12)


def test_thirty_two_points_beat_fifty_draws():
    """The goal of the store: at least the accuracy of 50 independent draws, on a heavy tail."""
    p = torch.arange(1, 32_001, dtype=torch.float64) ** -1.42
    p = (p / p.sum())[torch.randperm(32_000, generator=torch.Generator().manual_seed(0))]
    systematic = _shares(sample_systematic(p.expand(200, -1), _offsets(200), 32), 32_000)
    drawn = torch.multinomial(p.expand(200, -1), 50, replacement=True, generator=torch.Generator().manual_seed(2))
    errors = [(shares - p).square().sum(dim=-1).mean() for shares in (systematic, _shares(drawn, 32_000))]
    assert errors[0] < 0.65 * errors[1]


def test_extreme_offsets_and_certain_teachers_stay_in_the_vocabulary():
    p = torch.tensor([[0.0, 1.0, 0.0], [0.3, 0.3, 0.4]], dtype=torch.float32)
    ids = sample_systematic(p, torch.tensor([1 - 2**-53, 1 - 2**-53], dtype=torch.float64), 4096)
    assert set(ids[0].tolist()) == {1} and set(ids[1].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("estimator", ["sampled", "top-k", "top-p", "full"])
def test_scores_are_those_of_the_whole_distribution(estimator, temperature):
    if estimator == "full" and temperature != 1:
        return
    logits, labels = _logits(200, rows=30), torch.arange(30)
    logits[:, 7] = -1e30  # a masked token
    rows = estimate(logits, labels, _offsets(30), Scheme(estimator=estimator, temperature=temperature, k=20))
    p = torch.distributions.Categorical(logits=(logits / temperature).double())
    loss = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    torch.testing.assert_close(rows["entropy"].double(), p.entropy(), rtol=1e-5, atol=1e-5)
    keep = labels != 7
    torch.testing.assert_close(rows["loss"].double()[keep], loss[keep], rtol=1e-5, atol=1e-5)


def test_top_k_keeps_the_most_likely_in_the_order_of_ids():
    logits = _logits(100, rows=20)
    rows = estimate(logits, torch.zeros(20, dtype=torch.long), _offsets(20), Scheme(estimator="top-k", k=8))
    logp = torch.log_softmax(logits, dim=-1)
    wanted = logp.topk(8).indices.sort(dim=-1).values
    torch.testing.assert_close(rows["ids"], wanted)
    torch.testing.assert_close(-rows["nats"], logp.gather(1, wanted), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows["mass"], logp.gather(1, wanted).exp().sum(dim=-1))


def test_top_p_keeps_the_fewest_that_hold_p():
    logits = _logits(100, rows=50)
    rows = estimate(logits, torch.zeros(50, dtype=torch.long), _offsets(50), Scheme(estimator="top-p", k=100, p=0.8))
    p = torch.softmax(logits, dim=-1)
    for position in range(50):
        kept = rows["ids"][position][rows["ids"][position] < 100]
        mass = p[position][kept].sum()
        assert mass >= 0.8 - 1e-6 > mass - p[position][kept].min() - 2e-6


def test_temperature_flattens_what_is_sampled():
    logits = _logits(60).expand(DRAWS, -1)
    labels = torch.zeros(DRAWS, dtype=torch.long)
    ids = estimate(logits, labels, _offsets(DRAWS), Scheme(temperature=3.0))["ids"]
    mean = _shares(ids, 60).mean(dim=0)
    np.testing.assert_allclose(mean, torch.softmax(logits[0] / 3, dim=-1), atol=1e-3)
