"""A converted model trains on with its optimiser, loads its old checkpoints, and can be turned back."""

import copy
import logging

import pytest
import torch
from torch import nn

import distillaw as dl
from distillaw.errors import ConfigError, DistillawWarning


class Net(nn.Module):
    """Batch norm of three kinds, one layer used twice, and norms that ghosts do not concern."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.ReLU())
        self.shared = nn.BatchNorm1d(4)
        self.again = nn.ModuleDict({"shared": self.shared, "norm": nn.LayerNorm(4)})
        self.volume = nn.BatchNorm3d(1)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        h = self.image(self.volume(x.unsqueeze(2)).squeeze(2)).mean((2, 3))
        return self.out(self.again["norm"](self.again["shared"](self.shared(h))))


def _images(batch=12, seed=0):
    return torch.randn(batch, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def _kinds(model):
    return [type(layer) for layer in model.modules() if "BatchNorm" in type(layer).__name__]


def test_every_batch_norm_layer_becomes_its_ghost_and_nothing_else_changes(caplog):
    model = Net()
    state, parameters, names = model.state_dict(), list(model.parameters()), list(dict(model.named_modules()))
    model.shared.eval()
    with caplog.at_level(logging.INFO):
        assert dl.convert_ghost_batchnorm(model, ghost_batch_size=4) is model
    assert "3 batch norm layers are ghost layers now (ghost_batch_size=4" in caplog.text
    assert _kinds(model) == [dl.GhostBatchNorm2d, dl.GhostBatchNorm1d, dl.GhostBatchNorm3d]
    assert model.shared is model.again["shared"]
    assert model.shared.training is False
    assert model.volume.training is True
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), parameters, strict=True))
    assert list(dict(model.named_modules())) == names
    for name, value in model.state_dict().items():
        assert value.data_ptr() == state[name].data_ptr(), name


def test_the_optimiser_of_before_trains_the_converted_model():
    model = Net()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    dl.convert_ghost_batchnorm(model, ghost_batch_size=4)
    before = model.shared.weight.detach().clone()
    model(_images()).square().sum().backward()
    optimiser.step()
    assert not torch.equal(model.shared.weight, before)


def test_checkpoints_of_both_models_load_into_each_other():
    plain, ghost = Net(), dl.convert_ghost_batchnorm(Net(), ghost_batch_size=4)
    ghost(_images())
    plain.load_state_dict(ghost.state_dict(), strict=True)
    assert torch.equal(plain.eval()(_images(5)), ghost.eval()(_images(5)))
    ghost.load_state_dict(Net().state_dict(), strict=True)


def test_reverted_it_is_what_it_was():
    model = Net()
    reference = copy.deepcopy(model)
    dl.revert_ghost_batchnorm(dl.convert_ghost_batchnorm(model, ghost_batch_size=4))
    assert _kinds(model) == _kinds(reference)
    assert repr(model) == repr(reference)
    assert torch.equal(model(_images()), reference(_images()))


def test_converted_again_it_stays_and_other_settings_are_not_taken_over_in_silence():
    model = dl.convert_ghost_batchnorm(Net(), ghost_batch_size=4)
    layer = model.shared
    dl.convert_ghost_batchnorm(model, ghost_batch_size=4)
    assert model.shared is layer
    with pytest.warns(DistillawWarning, match="left with their settings.*=4.*revert_ghost_batchnorm first"):
        dl.convert_ghost_batchnorm(model, ghost_batch_size=8)
    assert layer.ghost_batch_size == 4


def test_a_layer_by_itself_is_converted_with_its_hooks_and_settings():
    plain = nn.BatchNorm2d(3, eps=0.01, momentum=None, bias=False, dtype=torch.float64)
    seen = []
    plain.register_forward_hook(lambda layer, *_: seen.append(layer))
    ghost = dl.convert_ghost_batchnorm(plain, ghost_batch_size=2, remainder="merge", stats_update="mean")
    assert isinstance(ghost, dl.GhostBatchNorm2d)
    assert isinstance(ghost, nn.BatchNorm2d)  # lists of layers without weight decay find it
    assert (ghost.eps, ghost.momentum, ghost.bias, ghost.remainder) == (0.01, None, None, "merge")
    ghost(torch.randn(5, 3, 2, 2, dtype=torch.float64))
    assert seen == [ghost]
    assert ghost.stats_update == "mean"
    assert type(dl.revert_ghost_batchnorm(ghost)) is nn.BatchNorm2d


@pytest.mark.parametrize("norm", [nn.RMSNorm(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4)])
def test_a_model_without_batch_statistics_is_told_so(norm):
    model = nn.Sequential(nn.Linear(4, 4), norm)
    with pytest.warns(DistillawWarning, match="Sequential has no batch statistics: no BatchNorm layer"):
        assert dl.convert_ghost_batchnorm(model, ghost_batch_size=4)[1] is norm
    with pytest.warns(DistillawWarning, match="no ghost batch norm layer: nothing was reverted"):
        dl.revert_ghost_batchnorm(model)


def test_lazy_layers_are_refused_until_they_have_seen_a_batch():
    model = nn.Sequential(nn.LazyBatchNorm1d())
    with pytest.raises(ConfigError, match=r"0: a lazy batch norm layer.*run one batch"):
        dl.convert_ghost_batchnorm(model, ghost_batch_size=4)
    model(torch.randn(4, 3))
    assert isinstance(dl.convert_ghost_batchnorm(model, ghost_batch_size=4)[0], dl.GhostBatchNorm1d)


def test_subclasses_that_do_more_are_left_and_named():
    class Activated(nn.BatchNorm2d):
        def forward(self, input):
            return super().forward(input).relu()

    model = nn.Sequential(Activated(3), nn.BatchNorm2d(3))
    with pytest.warns(DistillawWarning, match=r"subclasses of BatchNorm were left \(Activated\)") as seen:
        dl.convert_ghost_batchnorm(model, ghost_batch_size=4)
    assert seen[0].filename == __file__
    assert type(model[0]) is Activated
    assert type(model[1]) is dl.GhostBatchNorm2d


def test_impossible_settings_change_nothing():
    model = Net()
    with pytest.raises(ConfigError, match="ghost_batch_size is 0"):
        dl.convert_ghost_batchnorm(model, ghost_batch_size=0)
    assert nn.BatchNorm1d in _kinds(model)


def test_synchronised_layers_are_left_with_a_warning():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Net())
    with pytest.warns(DistillawWarning, match=r"\d SyncBatchNorm layers were left.*opposite of ghosts"):
        dl.convert_ghost_batchnorm(model, ghost_batch_size=4)
    assert set(_kinds(model)) == {nn.SyncBatchNorm}


def test_torch_itself_takes_the_ghosts_away_when_it_synchronises():
    """What docs/large-batch.md warns of; should torch stop doing so, the page must change."""
    model = dl.convert_ghost_batchnorm(Net(), ghost_batch_size=4)
    assert set(_kinds(nn.SyncBatchNorm.convert_sync_batchnorm(model))) == {nn.SyncBatchNorm}
