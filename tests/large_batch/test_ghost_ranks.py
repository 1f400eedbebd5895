"""Under DistributedDataParallel each rank cuts its own batch: two gloo ranks against one process, in float64."""

import copy

import pytest
import ranked
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import distillaw as dl
from distillaw.errors import DistillawWarning

STEPS = 3


def _model(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)).double()
    return dl.convert_ghost_batchnorm(model, ghost_batch_size=4, **options)


def _batch(step):
    return torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def _train_rank(ranks, **options):
    model = DistributedDataParallel(_model(**options))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        optimiser.zero_grad()
        model(_batch(step)[8 * ranks.rank :][:8]).square().mean().backward()
        optimiser.step()
    return {name: value.numpy() for name, value in model.module.state_dict().items()}


def _train_synchronised(ranks):
    return _train_rank(ranks, sync_stats=True)


def _convert_synchronised(ranks):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)))
    with pytest.warns(DistillawWarning, match="SyncBatchNorm"):
        dl.convert_ghost_batchnorm(model, ghost_batch_size=4)
    return type(model[1]).__name__


def test_two_ranks_train_as_one_process_does_and_statistics_are_those_of_the_first_rank():
    """Four ghosts of 4 in one process, two on each rank: the same ghosts. Only rank 0's reach the running values."""
    first, second = ranked.run(2, _train_rank)
    model = _model()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    statistics = copy.deepcopy(model[1])
    for step in range(STEPS):
        optimiser.zero_grad()
        with torch.no_grad():
            statistics(model[0](_batch(step)[:8]))
        model(_batch(step)).square().mean().backward()
        optimiser.step()
    for name, parameter in model.named_parameters():
        for state in (first, second):
            torch.testing.assert_close(torch.from_numpy(state[name]), parameter.detach(), rtol=1e-12, atol=1e-12)
    for name, buffer in statistics.named_buffers():
        torch.testing.assert_close(torch.from_numpy(first[f"1.{name}"]), buffer, rtol=1e-12, atol=1e-12)
    assert first["1.num_batches_tracked"] == 2 * STEPS
    assert (first["1.running_mean"] != second["1.running_mean"]).all()  # until the next forward pass broadcasts them


def test_synchronised_statistics_are_the_mean_over_ranks_of_what_each_would_keep():
    states = ranked.run(2, _train_synchronised)
    model = _model()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    halves = [copy.deepcopy(model[1]) for _ in states]
    for step in range(STEPS):
        optimiser.zero_grad()
        with torch.no_grad():
            for place, own in enumerate(halves):
                own(model[0](_batch(step)[8 * place :][:8]))
        model(_batch(step)).square().mean().backward()
        optimiser.step()
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(own, name) for own in halves]).mean(0)
        for state in states:
            torch.testing.assert_close(torch.from_numpy(state[f"1.{name}"]), mean, rtol=1e-12, atol=1e-12)


def test_synchronised_layers_are_left_with_a_warning_while_a_process_group_is_up():
    assert ranked.run(2, _convert_synchronised) == ["SyncBatchNorm", "SyncBatchNorm"]
