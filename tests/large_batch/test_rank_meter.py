"""Two real ranks over gloo: what the meter sees is what each rank's own gradient is."""

import pytest
import ranked
import torch

from distillaw.large_batch.instruments import DataParallelMeter


def measured(ranks) -> dict:
    """Squared norms by definition and by the meter, of two steps; and what it says where there was no step."""
    torch.manual_seed(0)
    x, y = torch.randn(2, 8, 5, dtype=torch.float64), torch.randn(2, 8, 1, dtype=torch.float64)
    plain = _network()
    wrapped = torch.nn.parallel.DistributedDataParallel(_network())
    wrapped.module.load_state_dict(plain.state_dict())

    def gradient(rows):
        plain.zero_grad()
        ((plain(x[rows].reshape(-1, 5)) - y[rows].reshape(-1, 1)) ** 2).mean().backward()
        return sum(p.grad.square().sum().item() for p in plain.parameters())

    expected = [(gradient([0]) + gradient([1])) / 2, gradient([0, 1])]
    meter, found = DataParallelMeter(wrapped), []
    for _ in range(2):
        wrapped.zero_grad()
        ((wrapped(x[ranks.rank]) - y[ranks.rank]) ** 2).mean().backward()
        found.append(meter.norms())
    try:
        meter.norms()
        said = ""
    except Exception as error:
        said = str(error)
    return {"expected": expected, "found": found, "said": said}


def _network() -> torch.nn.Module:
    layers = torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1)
    return torch.nn.Sequential(*layers).double()


def test_norms_of_ranks_and_of_their_mean():
    for answer in ranked.run(2, measured):
        for norms in answer["found"]:
            assert norms == pytest.approx(answer["expected"], rel=1e-12)
        assert answer["found"][0][0] > answer["found"][0][1] and "once after each step" in answer["said"]
