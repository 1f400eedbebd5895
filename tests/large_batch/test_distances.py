"""Distances from the start against numpy, and across a restart."""

import numpy as np
import pytest
import torch

from distillaw.errors import ConfigError
from distillaw.large_batch.instruments import DistanceTracker


def _model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))


def _train(model, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_distances_in_total_and_by_group():
    model = _model()
    start = [p.detach().numpy().astype(float) for p in _model().parameters()]
    tracker = DistanceTracker(model)
    assert set(tracker.measure().values()) == {0.0}
    _train(model, 5)
    moved = [np.sum((p.detach().numpy() - s) ** 2) for p, s in zip(model.parameters(), start, strict=True)]
    found = tracker.measure()
    assert found["total"] == pytest.approx(np.sqrt(sum(moved)), rel=1e-6) and found["total"] > 0
    assert found["first"] == pytest.approx(np.sqrt(moved[0]), rel=1e-6)
    assert found["group:0"] == pytest.approx(np.sqrt(moved[0] + moved[1]), rel=1e-6)
    nested = torch.nn.Sequential(model, torch.nn.Linear(1, 1))
    assert set(DistanceTracker(nested, depth=2).measure()) == {"total", "first", "group:0.0", "group:0.2", "group:1"}


def test_a_restarted_run_continues_the_curve():
    model = _model()
    tracker = DistanceTracker(model)
    _train(model, 3)
    restarted = _model()
    restarted.load_state_dict(model.state_dict())
    again = DistanceTracker(restarted)
    assert again.measure()["total"] == 0
    again.load(tracker.state())
    assert again.measure() == tracker.measure()


def test_bad_input():
    with pytest.raises(ConfigError, match="depth"):
        DistanceTracker(_model(), depth=0)
    with pytest.raises(ConfigError, match="no parameters"):
        DistanceTracker(torch.nn.Tanh())
    with pytest.raises(ConfigError, match="start weights of another model"):
        DistanceTracker(_model()).load(dict(list(DistanceTracker(_model()).state().items())[:2]))
