"""A ghost layer is K calls of nn.BatchNorm on the slices: outputs, gradients and running statistics."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import distillaw as dl
from distillaw.errors import ConfigError, DataError
from distillaw.large_batch import ghost as ghost_module
from distillaw.large_batch.ghost import REMAINDERS, ghost_sizes

KINDS = {
    "features": (nn.BatchNorm1d, dl.GhostBatchNorm1d, (5,)),
    "sequences": (nn.BatchNorm1d, dl.GhostBatchNorm1d, (5, 7)),
    "maps": (nn.BatchNorm2d, dl.GhostBatchNorm2d, (5, 4, 3)),
    "volumes": (nn.BatchNorm3d, dl.GhostBatchNorm3d, (5, 2, 3, 2)),
}


def _random(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options) * 3 + 1


def _pair(kind, ghost=4, **options):
    """nn.BatchNorm and a ghost layer in the same, not trivial, state."""
    plain_class, ghost_class, _ = KINDS[kind]
    remainder = {name: options.pop(name) for name in ("remainder", "stats_update") if name in options}
    plain = plain_class(5, **options)
    if plain.affine:
        nn.init.uniform_(plain.weight, 0.5, 2)
    if plain.bias is not None:
        nn.init.uniform_(plain.bias)
    layer = ghost_class(5, ghost, **options, **remainder)
    layer.load_state_dict(plain.state_dict(), strict=True)
    return plain, layer


def _gradients(layer, x, forward=None):
    """Output, and gradients of the input and of the parameters."""
    x = x.clone().requires_grad_()
    y = (layer if forward is None else forward)(x)
    (y * _random(*y.shape, seed=1).to(y)).sum().backward()
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def _one_by_one(plain, sizes):
    return lambda x: torch.cat([plain(part) for part in x.split(sizes)])


@pytest.fixture(params=["folded", "looped"])
def way(request, monkeypatch):
    """Both ways to the same numbers: ghosts folded into the channels, here two at a time, and one by one."""
    folded = request.param == "folded"
    monkeypatch.setattr(ghost_module, "FOLDED_GHOSTS", 2 if folded else 10**9)
    monkeypatch.setattr(ghost_module, "FOLDED_BLOCK", 2 * 4 * 5 * 12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [8, 12, 11, 13])
@pytest.mark.parametrize("momentum", [0.1, 0.37, None])
@pytest.mark.usefixtures("way")
def test_a_ghost_layer_is_batch_norm_fed_the_ghosts_one_by_one(kind, batch, momentum):
    plain, layer = _pair(kind, momentum=momentum)
    spatial = math.prod(KINDS[kind][2][1:])
    sizes = [4] * (batch // 4) + [batch % 4] * (batch % 4 > 0)
    if sizes[-1] * spatial == 1:
        sizes[-2:] = [5]
    for step in range(3):
        x = _random(batch, *KINDS[kind][2], seed=step)
        expected = _gradients(plain, x, _one_by_one(plain, sizes))
        for ours, theirs in zip(_gradients(layer, x), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert int(layer.num_batches_tracked) == int(plain.num_batches_tracked) == 3 * len(sizes)
    torch.testing.assert_close(layer.running_mean, plain.running_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.running_var, plain.running_var, rtol=1e-6, atol=1e-6)


def test_outputs_gradients_and_statistics_are_those_of_the_loop_to_the_last_bit():
    """Below 32 ghosts, so not folded: folded they agree up to rounding."""
    plain, layer = _pair("features")
    x = _random(31, 5)
    output, gradient, *_ = _gradients(layer, x)
    expected, expected_gradient, *_ = _gradients(plain, x, _one_by_one(plain, 4))
    assert torch.equal(output, expected)
    assert torch.equal(gradient, expected_gradient)
    assert all(map(torch.equal, layer.buffers(), plain.buffers()))


def test_many_small_ghosts_are_folded_and_agree():
    plain, layer = _pair("features")
    x = _random(4 * 100 + 2, 5)
    sizes = ghost_sizes(len(x), ghost=4)
    assert ghost_module._ghosts_at_once(x, sizes) > 1
    for ours, theirs in zip(_gradients(layer, x), _gradients(plain, x, _one_by_one(plain, 4)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(layer.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("way")
def test_running_statistics_follow_the_closed_form_whose_weights_sum_to_one():
    layer = dl.GhostBatchNorm1d(2, 4, dtype=torch.float64)
    nn.init.constant_(layer.running_mean, 7.0)
    x = _random(12, 2, dtype=torch.float64)
    layer(x)
    means = [part.mean(0) for part in x.split(4)]
    eta = 0.1
    weights = [eta * (1 - eta) ** (3 - k) for k in (1, 2, 3)]
    assert math.isclose((1 - eta) ** 3 + sum(weights), 1)
    expected = (1 - eta) ** 3 * 7 + sum(w * mean for w, mean in zip(weights, means, strict=True))
    torch.testing.assert_close(layer.running_mean, expected, rtol=1e-12, atol=0)
    constant = dl.GhostBatchNorm1d(2, 128)
    nn.init.constant_(constant.running_mean, 3.0)
    constant(torch.full((4096, 2), 3.0))  # the printed form of the paper would give 0.87 of it plus almost nothing
    torch.testing.assert_close(constant.running_mean, torch.full((2,), 3.0))


def test_the_mean_update_is_one_update_by_the_ghosts_averaged_over_samples():
    layer = dl.GhostBatchNorm1d(5, 4, stats_update="mean", momentum=0.25)
    x = _random(10, 5)
    layer(x)
    torch.testing.assert_close(layer.running_mean, 0.25 * x.mean(0))
    variance = sum(len(part) / 10 * part.var(0) for part in x.split(4))
    torch.testing.assert_close(layer.running_var, 0.75 + 0.25 * variance)
    assert int(layer.num_batches_tracked) == 1


def test_the_mean_update_without_momentum_averages_over_batches():
    layer = dl.GhostBatchNorm1d(5, 4, stats_update="mean", momentum=None)
    batches = [_random(8, 5, seed=seed) for seed in range(3)]
    for x in batches:
        layer(x)
    torch.testing.assert_close(layer.running_mean, torch.cat(batches).mean(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [3, 4])
def test_a_ghost_larger_than_the_batch_is_batch_norm_bit_for_bit(kind, batch):
    plain, layer = _pair(kind)
    x = _random(batch, *KINDS[kind][2])
    assert all(map(torch.equal, _gradients(layer, x), _gradients(plain, x)))
    assert all(map(torch.equal, layer.state_dict().values(), plain.state_dict().values()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 4, 5, 101])
def test_evaluation_is_batch_norm_bit_for_bit_at_any_batch_size(kind, batch):
    plain, layer = _pair(kind)
    layer(_random(9, *KINDS[kind][2]))
    plain.load_state_dict(layer.state_dict())
    x = _random(batch, *KINDS[kind][2])
    before = copy.deepcopy(layer.state_dict())
    assert torch.equal(layer.eval()(x), plain.eval()(x))
    assert all(map(torch.equal, layer.state_dict().values(), before.values()))


def test_without_running_statistics_evaluation_uses_the_whole_batch():
    plain, layer = _pair("features", track_running_stats=False)
    x = _random(12, 5)
    expected = _one_by_one(plain, 4)(x)
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer.eval()(x), plain.eval()(x))
    assert not torch.allclose(layer(x), expected)


def test_statistics_are_left_alone_when_tracking_is_switched_off_later():
    _, layer = _pair("features")
    layer.track_running_stats = False
    layer(_random(12, 5))
    assert torch.equal(layer.running_mean, torch.zeros(5))


@pytest.mark.parametrize(
    "options", [{"affine": False}, {"bias": False}, {"affine": False, "track_running_stats": False}]
)
def test_layers_without_parameters_or_statistics(options):
    plain, layer = _pair("maps", **options)
    x = _random(10, 5, 4, 3)
    for ours, theirs in zip(_gradients(layer, x), _gradients(plain, x, _one_by_one(plain, 4)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("remainder", REMAINDERS[:3])
@pytest.mark.parametrize("batch", [5, 6, 7, 9, 101])
def test_no_sample_of_a_ragged_batch_is_left_unnormalised(remainder, batch):
    layer = dl.GhostBatchNorm1d(5, 4, affine=False, remainder=remainder)
    y = layer(1000 + _random(batch, 5))
    assert y.abs().max() < 12
    assert y.mean(0).abs().max() < 1e-3


def test_a_strict_layer_refuses_a_ragged_batch():
    layer = dl.GhostBatchNorm1d(5, 4, remainder="error")
    layer(_random(8, 5))
    with pytest.raises(DataError, match="batch of 9 is no multiple of ghost_batch_size=4"):
        layer(_random(9, 5))


def test_one_value_per_channel_is_refused_as_batch_norm_does_with_the_ghost_size():
    layer = dl.GhostBatchNorm1d(5, 4)
    with pytest.raises(ValueError, match=r"Expected more than 1 value per channel.*\(1, 5\).*ghost_batch_size=4"):
        layer(_random(1, 5))
    with pytest.raises(ConfigError, match="ghost_batch_size >= 2"):
        dl.GhostBatchNorm1d(5, 1)(_random(6, 5))
    assert dl.GhostBatchNorm2d(5, 1)(_random(6, 5, 2, 2)).isfinite().all()


@pytest.mark.parametrize("size", [0, -3, 2.5, "8", True, None])
def test_impossible_ghost_sizes_are_refused(size):
    with pytest.raises(ConfigError, match="whole number >= 1"):
        dl.GhostBatchNorm1d(5, size)


def test_unknown_policies_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="remainder = 'drop' is none of keep, merge, balanced, error"):
        dl.GhostBatchNorm1d(5, 4, remainder="drop")
    with pytest.raises(ConfigError, match="stats_update = 'ema' is none of sequential, mean"):
        dl.GhostBatchNorm1d(5, 4, stats_update="ema")


def test_wrong_dimensions_are_refused_as_batch_norm_does():
    for layer in (dl.GhostBatchNorm1d(5, 4), dl.GhostBatchNorm2d(5, 4), dl.GhostBatchNorm3d(5, 4)):
        with pytest.raises(ValueError, match="expected"):
            layer(_random(8, 5, 2, 2, 2, 2))
    with pytest.raises(ValueError, match="expected 4D"):
        dl.GhostBatchNorm2d(5, 4)(_random(8, 5))
    with pytest.raises(DataError, match=r"the input has 6 channels.*num_features=5"):
        dl.GhostBatchNorm1d(5, 4)(_random(8, 6))


def test_a_channel_of_zero_variance_gives_beta_and_finite_gradients():
    _, layer = _pair("features")
    x = _random(13, 5)
    x[:, 2] = 3.0
    output, gradient, *_ = _gradients(layer, x)
    # torch computes x s - mean s with s = gamma / sqrt(eps), about 600 here: rounding of 3 s is 1e-4
    torch.testing.assert_close(output[:, 2], layer.bias[2].detach().expand(13), rtol=0, atol=2e-4)
    assert gradient.isfinite().all()
    assert layer.running_var[2] < 1


def test_state_dicts_interchange_in_both_directions():
    plain, layer = _pair("maps")
    layer(_random(13, 5, 4, 3))
    assert list(layer.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(layer.state_dict(), strict=True)
    layer.load_state_dict(plain.state_dict(), strict=True)
    x = _random(3, 5, 4, 3)
    assert torch.equal(layer.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("batch", [8, 9, 11, 3])
def test_the_memory_format_is_kept(memory_format, batch):
    plain, layer = _pair("maps")
    x = _random(batch, 5, 4, 3).to(memory_format=memory_format)
    y = layer(x)
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y, _one_by_one(plain, 4)(x))
    assert dl.GhostBatchNorm3d(5, 4)(_random(batch, 5, 2, 3, 2).to(memory_format=torch.channels_last_3d)).is_contiguous(
        memory_format=torch.channels_last_3d
    )


@pytest.mark.parametrize("batch", [8, 11, 3])
def test_bfloat16_maps_in_channels_last_keep_both(batch):
    plain, layer = _pair("maps")
    x = _random(batch, 5, 4, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    y, (gradient,) = layer(x), torch.autograd.grad(layer(x.requires_grad_()).float().square().sum(), x)
    for found in (y, gradient):
        assert found.dtype is torch.bfloat16 and found.is_contiguous(memory_format=torch.channels_last)
    exact = _one_by_one(plain, 4)(x.float())
    torch.testing.assert_close(y.float(), exact, rtol=2**-7, atol=2**-7)  # a rounding to 8 bits
    assert layer.running_var.dtype is torch.float32


@pytest.mark.usefixtures("way")
def test_inputs_that_are_not_contiguous():
    plain, layer = _pair("features")
    x = _random(5, 12).t()
    torch.testing.assert_close(layer(x), _one_by_one(plain, 4)(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("way")
def test_autocast_takes_half_activations_and_keeps_float32_statistics(dtype):
    """A spread of 1 around 100: E[x^2] - E[x]^2 in half precision would be noise."""
    linear, x = nn.Linear(5, 5), _random(12, 5)
    nn.init.constant_(linear.bias, 100.0)
    plain, layer = _pair("features")
    with torch.autocast("cpu", dtype=dtype):
        hidden = linear(x)
        output = layer(hidden)
        expected = _one_by_one(plain, 4)(hidden)
    assert output.dtype is expected.dtype is dtype
    torch.testing.assert_close(output, expected)
    assert layer.running_var.dtype is torch.float32
    torch.testing.assert_close(layer.running_mean, plain.running_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.running_var, plain.running_var, rtol=1e-6, atol=1e-6)
    output.float().sum().backward()
    assert layer.weight.grad.dtype is torch.float32


def test_float16_activations_may_have_a_variance_beyond_float16_in_a_float32_layer():
    layer = dl.GhostBatchNorm1d(2, 4)
    x = torch.tensor([[-6e4, 1.0], [6e4, 2.0]] * 4, dtype=torch.float16)
    y = layer(x)
    assert y.isfinite().all()
    assert layer.running_var[0] > 65504
    assert layer.running_var.isfinite().all()


@pytest.mark.parametrize("batch", [4, 8])
def test_a_float16_layer_refuses_statistics_that_overflow(batch):
    layer = dl.GhostBatchNorm1d(2, 4).half()
    layer(torch.tensor([[1.0, 1.0], [2.0, 3.0]] * 4, dtype=torch.float16)[:batch])
    x = torch.tensor([[1.0, -6e4], [2.0, 6e4]] * 4, dtype=torch.float16)[:batch]
    with pytest.raises(DataError, match=r"running variance of channel 1 is inf in float16.*layer\.float\(\)"):
        layer(x)


def test_activations_that_are_not_finite_spoil_their_ghost_only():
    """Outputs as nn.BatchNorm on the slices; nothing is hidden, the running statistics show it as well."""
    _, layer = _pair("features")
    x = _random(12, 5)
    x[5, 0] = float("inf")
    y = layer(x)
    assert y[4:8, 0].isnan().all()
    assert y[:4].isfinite().all()
    assert y[8:].isfinite().all()
    assert layer.running_mean[1:].isfinite().all()
    assert not layer.running_mean[0].isfinite()


@pytest.mark.usefixtures("way")
def test_update_bn_gives_the_average_over_ghosts_and_the_momentum_comes_back():
    _, layer = _pair("features")
    model = nn.Sequential(layer)
    batches = [_random(8, 5, seed=seed) for seed in range(3)]
    model.train()
    update_bn(batches, model)
    assert layer.momentum == 0.1
    torch.testing.assert_close(layer.running_mean, torch.cat(batches).mean(0))
    torch.testing.assert_close(
        layer.running_var, torch.stack([part.var(0) for x in batches for part in x.split(4)]).mean(0)
    )
    assert int(layer.num_batches_tracked) == 6


def test_gradient_accumulation_over_micro_batches_is_one_large_batch():
    _, large = _pair("features")
    small = copy.deepcopy(large)
    x = _random(32, 5)
    (large(x).square() * torch.arange(5)).sum().backward()
    for micro in x.split(8):  # each holds two ghosts
        (small(micro).square() * torch.arange(5)).sum().backward()
    for ours, theirs in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for ours, theirs in zip(small.buffers(), large.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("way")
def test_gradients_agree_with_differences_also_the_second_ones():
    layer = dl.GhostBatchNorm1d(2, 3, dtype=torch.float64)
    x = _random(7, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_copies_and_pickles_are_whole(tmp_path):
    _, layer = _pair("features", remainder="merge")
    layer(_random(9, 5))
    torch.save(layer, tmp_path / "layer.pt")
    x = _random(11, 5)
    for other in (copy.deepcopy(layer), torch.load(tmp_path / "layer.pt", weights_only=False)):
        assert "ghost_batch_size=4, stats_update=sequential, remainder=merge" in repr(other)
        assert torch.equal(other(x), copy.deepcopy(layer)(x))


def _assert_compiled_is_eager(momentum, **options):
    _, layer = _pair("features", momentum=momentum)
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, **options)
    for batch in (8, 10, 3, 8):  # 3: a single ghost
        x = _random(batch, 5)
        for ours, theirs in zip(_gradients(layer, x, compiled), _gradients(eager, x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(layer.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize("momentum", [pytest.param(0.1, marks=pytest.mark.slow), None])
def test_compiled_to_one_graph(momentum):
    """Also without momentum, where nn.BatchNorm itself cannot be: the count never leaves its device."""
    _assert_compiled_is_eager(momentum, backend="aot_eager")


@pytest.mark.parametrize("training", [True, False])
def test_exported_it_is_the_layer(training):
    """Evaluation at any batch size; training, where the ghosts of a batch are part of the graph, at the one it saw."""
    _, layer = _pair("maps")
    layer.train(training)
    sizes = None if training else ({0: torch.export.Dim("batch", min=2)},)
    exported = torch.export.export(layer, (_random(10, 5, 4, 3),), dynamic_shapes=sizes).module()
    for batch in (10,) if training else (10, 3, 7):
        x = _random(batch, 5, 4, 3)
        torch.testing.assert_close(exported(x), layer(x))
    state = exported.state_dict()
    assert state.keys() == layer.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in layer.state_dict().items())


@pytest.mark.slow
def test_compiled_by_inductor():
    _assert_compiled_is_eager(0.1)
