"""Ghost batch normalisation: batch norm over contiguous slices of the batch (ghosts), each with its own statistics.

Hoffer, Hubara, Soudry 2017, arXiv:1705.08741, Algorithm 1, with `running_mean` and the unbiased `running_var` kept as
`nn.BatchNorm` keeps them, so that state dicts interchange. In evaluation the layer *is* `nn.BatchNorm`. Every sample
lies in exactly one ghost, and no ghost holds a single value per channel, which has no variance. Legend: K ghosts, C
channels.

A model's batch norm layers become ghost layers, and back, in place: same parameters, buffers and hooks. Only
`nn.BatchNorm1d/2d/3d` themselves are converted: a subclass may do more in its forward pass (an activation,
quantisation) that a ghost layer would drop. Order with SyncBatchNorm: a layer is one or the other. PyTorch's
`SyncBatchNorm.convert_sync_batchnorm` turns ghost layers into SyncBatchNorm without a word, so call it never after
`convert_ghost_batchnorm`, or before it for the layers that shall be synchronised.
"""

import logging
import math
import warnings
from collections.abc import Mapping
from itertools import groupby
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from distillaw.errors import ConfigError, DataError, DistillawWarning
from distillaw.runs.config import check_choice

log = logging.getLogger(__name__)

Remainder = Literal["keep", "merge", "balanced", "error"]
REMAINDERS: tuple[str, ...] = get_args(Remainder)


def ghost_sizes(batch: int, *, ghost: int, remainder: Remainder = "keep", values: int = 1) -> list[int]:
    """Samples of each ghost, in order; they sum to the batch.

    A batch of at most one ghost is one ghost. Otherwise, with r = batch mod ghost left over:

        keep      full ghosts and a last one of r samples
        merge     full ghosts, the last one with the r samples on top
        balanced  ceil(batch / ghost) ghosts whose sizes differ by one at most, the larger ones first
        error     refused

    A last ghost of a single value per channel joins the one before it, under every policy.

    Args:
        batch: samples, >= 0.
        ghost: samples per ghost, >= 1.
        remainder: the policy for a batch that is no multiple of the ghost.
        values: values per sample and channel: 1 for features, height times width for maps.

    Raises:
        ConfigError: ghosts of one sample with one value per channel.
        DataError: a ragged batch under "error".
    """
    if batch <= ghost:
        return [batch]
    if ghost * values == 1:
        raise ConfigError(
            f"ghost batch norm: ghost_batch_size=1 leaves one value per channel in each of the {batch} ghosts (inputs "
            "without spatial extent), and one value has no variance; choose ghost_batch_size >= 2"
        )
    full, left = batch // ghost, batch % ghost  # torch.compile traces these, not divmod
    if not left:
        return [ghost] * full
    if remainder == "error":
        raise DataError(
            f"ghost batch norm: a batch of {batch} is no multiple of ghost_batch_size={ghost} ({left} left over) and "
            'remainder="error"; drop the last batch (DataLoader(drop_last=True)) or choose remainder="keep", "merge" '
            'or "balanced"'
        )
    if remainder == "merge":
        sizes = [ghost] * (full - 1) + [ghost + left]
    elif remainder == "balanced":
        size, larger = batch // (full + 1), batch % (full + 1)
        sizes = [size + 1] * larger + [size] * (full + 1 - larger)
    else:
        sizes = [ghost] * full + [left]
    if sizes[-1] * values > 1:
        return sizes
    return [*sizes[:-2], sizes[-2] + sizes[-1]]


def ghost_blocks(sizes: list[int], *, at_once: int) -> list[tuple[int, int]]:
    """Runs of equal ghosts, as (ghosts, samples per ghost), at most `at_once` ghosts each."""
    blocks = []
    for size, run in groupby(sizes):
        number = len(list(run))
        blocks += [(min(at_once, number - first), size) for first in range(0, number, at_once)]
    return blocks


StatsUpdate = Literal["sequential", "mean"]
SETTINGS = ("ghost_batch_size", "stats_update", "remainder", "sync_stats")
"""What a ghost layer has besides the arguments of `nn.BatchNorm`."""


def _checked(*values: Any) -> dict[str, Any]:
    """The settings of a ghost layer by name, if they are possible; `values` in the order of `SETTINGS`."""
    given = dict(zip(SETTINGS, values, strict=True))
    ghost = given["ghost_batch_size"]
    if not isinstance(ghost, int) or isinstance(ghost, bool) or ghost < 1:
        raise ConfigError(f"ghost_batch_size is {ghost!r}; it is a number of samples, a whole number >= 1")
    check_choice("stats_update", given["stats_update"], get_args(StatsUpdate))
    check_choice("remainder", given["remainder"], REMAINDERS)
    return given


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={settings[name]}" for name in SETTINGS)


FOLDED_GHOSTS, FOLDED_GHOST, FOLDED_BLOCK = 32, 2**13, 2**18
"""Many small ghosts are normalised by one kernel with the ghosts folded into the channels, which costs copies. It pays
on a CPU from so many ghosts, of at most so many elements each, up to so many elements at once
(benchmarks/large_batch/ghost_batchnorm.py); elsewhere unmeasured, so there the loop stands."""


class _GhostBatchNorm(_BatchNorm):
    """What the three layers share; they differ in the shape of the input only.

    Args:
        num_features: C, channels.
        ghost_batch_size: samples per ghost. A batch of at most so many is normalised as `nn.BatchNorm` does it.
        eps: added to the variance.
        momentum: eta, the weight of the *new* statistic as in PyTorch; None for the average over all so far.
        affine: whether to learn gamma (`weight`) and beta (`bias`).
        track_running_stats: whether to keep statistics for evaluation; without, evaluation uses those of its batch.
        device: of parameters and buffers.
        dtype: of parameters and buffers. Keep float32 where activations are float16 or bfloat16.
        bias: False learns gamma alone.
        stats_update: "sequential": each ghost is one update, in order, and counts one in `num_batches_tracked`.
            "mean": one update per batch with the ghosts' statistics averaged, weighted by their samples.
        remainder: what becomes of a batch that is no multiple of the ghost (`ghost_sizes`).
        sync_stats: average running statistics over all ranks at every step, one small reduction per layer, so that they
            are those of all batches and not of one rank's; ghosts stay each rank's own. Without ranks it does nothing.

    Raises:
        ConfigError: ghost_batch_size not a whole number >= 1, unknown stats_update or remainder.
    """

    ghost_batch_size: int
    stats_update: StatsUpdate
    remainder: Remainder
    sync_stats: bool

    def __init__(
        self,
        num_features: int,
        ghost_batch_size: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        bias: bool = True,
        stats_update: StatsUpdate = "sequential",
        remainder: Remainder = "keep",
        sync_stats: bool = False,
    ) -> None:
        ghost = _checked(ghost_batch_size, stats_update, remainder, sync_stats)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:  # torch 2.11 does not take it as an argument
            self.register_parameter("bias", None)
        self.__dict__.update(ghost)

    def extra_repr(self) -> str:
        """The arguments of `nn.BatchNorm`, then those of the ghosts."""
        return f"{super().extra_repr()}, {_said(self.__dict__)}"

    def forward(self, input: Tensor) -> Tensor:
        """The input normalised ghost by ghost, scaled and shifted; same shape, dtype and memory format.

        In evaluation, and for batches of at most one ghost, `nn.BatchNorm` to the last bit.

        Raises:
            ValueError: an input of the wrong number of dimensions.
            DataError: one value per channel in the whole batch; another number of channels; a ragged batch under
                remainder="error"; running statistics that overflow float16.
            ConfigError: ghosts of one value per channel.
        """
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        values = math.prod(input.shape[2:])
        if len(input) * values == 1:
            raise DataError(
                f"Expected more than 1 value per channel when training, got input size {tuple(input.shape)} (ghost "
                f"batch norm with ghost_batch_size={self.ghost_batch_size}): a single value has no variance; give a "
                "larger batch or call eval() on the layer"
            )
        sizes = ghost_sizes(len(input), ghost=self.ghost_batch_size, remainder=self.remainder, values=values)
        # nn.BatchNorm without momentum reads its count on the host, which torch.compile(fullgraph=True) refuses
        traced_average = self.momentum is None and torch.compiler.is_compiling()
        is_plain = len(sizes) == 1 and not traced_average
        output = super().forward(input) if is_plain else self._by_ghosts(input, sizes)
        if self.sync_stats and dist.is_available() and dist.is_initialized():
            self._average_over_ranks()
        self._refuse_overflow()
        return output

    @torch.no_grad()
    def _average_over_ranks(self) -> None:
        """Running mean and variance become their means over the ranks, which is linear in every ghost's statistic."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        both_2C = torch.stack([self.running_mean, self.running_var])
        dist.all_reduce(both_2C)  # a sum: gloo has no mean
        mean_C, var_C = both_2C / dist.get_world_size()
        # autograd keeps both for a backward pass that does not read them in training; `data` leaves its guard alone
        self.running_mean.data.copy_(mean_C)
        self.running_var.data.copy_(var_C)

    def _by_ghosts(self, input: Tensor, sizes: list[int]) -> Tensor:
        if input.shape[1] != self.num_features:
            raise DataError(
                f"ghost batch norm: the input has {input.shape[1]} channels (shape {tuple(input.shape)}), the layer "
                f"was made for num_features={self.num_features}; build the layer with that number"
            )
        at_once = _ghosts_at_once(input, sizes)
        is_in_order = self.momentum is not None and self.stats_update == "sequential"
        if at_once == 1 and (is_in_order or not self.track_running_stats):
            return self._one_by_one(input, sizes)
        return self._collected(input, ghost_blocks(sizes, at_once=at_once), sizes)

    def _one_by_one(self, input: Tensor, sizes: list[int]) -> Tensor:
        """Each ghost normalised and taken into the running statistics by itself."""
        mean, var = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        weight, bias, momentum, eps = self.weight, self.bias, self.momentum or 0.0, self.eps
        outputs = [_normalise(part, weight, bias, mean, var, momentum, eps) for part in input.split(sizes)]
        if mean is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(len(sizes))
        return torch.cat(outputs)

    def _collected(self, input: Tensor, blocks: list[tuple[int, int]], sizes: list[int]) -> Tensor:
        """Each block of equal ghosts normalised by one kernel; their statistics taken in together."""
        statistics_2KC = None
        if self.track_running_stats and self.running_mean is not None:
            statistics_2KC = self.running_mean.new_zeros(2, len(sizes), self.num_features)
        outputs, first = [], 0
        for part, (ghosts, _) in zip(input.split([k * size for k, size in blocks]), blocks, strict=True):
            own = None if statistics_2KC is None else statistics_2KC[:, first : first + ghosts]
            outputs.append(self._block(part, ghosts, own))
            first += ghosts
        if statistics_2KC is not None:
            self._take_in(statistics_2KC, sizes)
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    @torch.no_grad()
    def _take_in(self, statistics_2KC: Tensor, sizes: list[int]) -> None:
        """Each ghost's mean and unbiased variance into the running ones, in float32 at least."""
        assert self.running_mean is not None and self.running_var is not None
        momentum, count, ghosts = self.momentum, self.num_batches_tracked, len(sizes)
        is_mean = self.stats_update == "mean"
        updates, scale = 1 if is_mean else ghosts, 1.0 if momentum is None else momentum
        if is_mean:
            weights = [scale * size / sum(sizes) for size in sizes]
        else:  # without momentum an average over all so far, divided below
            weights = [scale * (1 - (momentum or 0.0)) ** later for later in range(ghosts - 1, -1, -1)]
        exact = torch.promote_types(statistics_2KC.dtype, torch.float32)
        # a sum, not a matrix product: autocast would compute that in half precision
        new_2C = (statistics_2KC.new_tensor(weights, dtype=exact).unsqueeze(1) * statistics_2KC).sum(1)
        if momentum is None:
            assert count is not None
            after = (count + updates).to(exact)
            decay, new_2C = count / after, new_2C / after
        else:
            decay = (1 - momentum) ** updates
        for old_C, new_C in zip((self.running_mean, self.running_var), new_2C, strict=True):
            old_C.copy_(old_C.to(exact) * decay + new_C)
        if count is not None:
            count.add_(updates)

    def _block(self, part: Tensor, ghosts: int, statistics_2KC: Tensor | None) -> Tensor:
        """Equal ghosts normalised; their means and unbiased variances land in `statistics_2KC`, zeros before."""
        mean, var = (None, None) if statistics_2KC is None else (row.view(-1) for row in statistics_2KC)
        # momentum 1: the statistic itself, not its average with the zeros
        if ghosts == 1:
            return _normalise(part, self.weight, self.bias, mean, var, 1.0, self.eps)
        weight, bias = (None if p is None else p.repeat(ghosts) for p in (self.weight, self.bias))
        # (K n, C, ...) to (n, K C, ...): batch norm over its channels is batch norm of each ghost
        folded = part.unflatten(0, (ghosts, -1)).transpose(0, 1).flatten(1, 2)
        normal = _normalise(folded, weight, bias, mean, var, 1.0, self.eps)
        return normal.unflatten(1, (ghosts, -1)).transpose(0, 1).flatten(0, 1)

    def _refuse_overflow(self) -> None:
        """Float16 ends at 65504, and a running variance beyond would silently zero every output of evaluation."""
        var = self.running_var
        if not self.track_running_stats or var is None or var.dtype is not torch.float16:
            return
        if torch.compiler.is_compiling() or bool(var.isfinite().all()):
            return
        channel = int(var.isfinite().logical_not().nonzero()[0])
        raise DataError(
            f"ghost batch norm: the running variance of channel {channel} is {float(var[channel])} in float16: the "
            f"variance passed {torch.finfo(torch.float16).max:.0f}, or the activations were not finite; keep this "
            "layer in float32 (layer.float()), it takes float16 activations as they are"
        )


def _normalise(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """`functional.batch_norm` in training, less its check for single values, which `ghost_sizes` leaves none of."""
    return torch.batch_norm(input, weight, bias, mean, var, True, momentum, eps, torch.backends.cudnn.enabled)


def _ghosts_at_once(input: Tensor, sizes: list[int]) -> int:
    """How many ghosts one kernel normalises: several where they are small, 1 where folding would not pay."""
    elements = max(1, math.prod(input.shape[1:]) * sizes[0])
    if elements > FOLDED_GHOST or len(sizes) < FOLDED_GHOSTS or not input.is_cpu or not input.is_contiguous():
        return 1
    return max(1, FOLDED_BLOCK // elements)


class GhostBatchNorm1d(_GhostBatchNorm, nn.BatchNorm1d):
    """Ghost batch normalisation of features, shape (N, C) or (N, C, L); arguments as `_GhostBatchNorm`.

    Example:
        >>> layer = GhostBatchNorm1d(3, ghost_batch_size=4)
        >>> layer(torch.randn(10, 3)).shape, int(layer.num_batches_tracked)
        (torch.Size([10, 3]), 3)
    """


class GhostBatchNorm2d(_GhostBatchNorm, nn.BatchNorm2d):
    """Ghost batch normalisation of maps, shape (N, C, H, W); arguments as `_GhostBatchNorm`."""


class GhostBatchNorm3d(_GhostBatchNorm, nn.BatchNorm3d):
    """Ghost batch normalisation of volumes, shape (N, C, D, H, W); arguments as `_GhostBatchNorm`."""


# --- models converted, and back ----------------------------------------------------------------------------


GHOST_OF: dict[type[nn.Module], type[_GhostBatchNorm]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}
PLAIN_OF: dict[type[nn.Module], type[nn.Module]] = {ghost: plain for plain, ghost in GHOST_OF.items()}


def convert_ghost_batchnorm(
    module: nn.Module,
    ghost_batch_size: int,
    *,
    stats_update: StatsUpdate = "sequential",
    remainder: Remainder = "keep",
    sync_stats: bool = False,
) -> nn.Module:
    """The module with every `nn.BatchNorm1d/2d/3d` inside it replaced by its ghost layer, in place.

    Parameters, buffers, hooks, modes, devices and dtypes are the very same objects, so optimisers stay valid and a
    layer used at two places stays one. InstanceNorm, SyncBatchNorm, ghost layers and subclasses of `nn.BatchNorm`
    are left. The numbers of layers are logged.

    Args:
        module: a model, or a batch norm layer itself (then a new object is returned).
        ghost_batch_size: samples per ghost; under data parallelism at most the batch of one rank.
        stats_update, remainder, sync_stats: as in `GhostBatchNorm1d`.

    Raises:
        ConfigError: impossible settings; lazy layers that have not seen a batch.

    Warns:
        DistillawWarning: nothing to convert (LayerNorm and RMSNorm models have no batch statistics); layers left
            that are SyncBatchNorm, subclasses, or ghost layers of other settings.
    """
    ghost = _checked(ghost_batch_size, stats_update, remainder, sync_stats)
    lazy = ", ".join(
        name or "the layer itself" for name, layer in module.named_modules() if isinstance(layer, _LazyNormBase)
    )
    if lazy:
        raise ConfigError(
            f"ghost batch norm: {lazy}: a lazy batch norm layer that has not seen a batch, its number of "
            "features is unknown; run one batch through the model, then convert"
        )
    for left in _left(module, ghost):
        _warn(left)
    layers = [layer for layer in module.modules() if type(layer) in GHOST_OF]
    if not layers and not any(isinstance(layer, _BatchNorm) for layer in module.modules()):
        _warn(
            f"{type(module).__name__} has no batch statistics: no BatchNorm layer in it, so there is nothing for ghost "
            "batch norm to do (LayerNorm, RMSNorm, GroupNorm and InstanceNorm treat each sample by itself)"
        )
    replaced = _replace(
        module, {layer: _turned(layer, GHOST_OF[type(layer)], layer.__dict__ | ghost) for layer in layers}
    )
    log.info("%d batch norm layers are ghost layers now (%s)", len(layers), _said(ghost))
    return replaced


def revert_ghost_batchnorm(module: nn.Module) -> nn.Module:
    """The module with every ghost layer inside it turned back into `nn.BatchNorm1d/2d/3d`, in place.

    Parameters, buffers and hooks are the very same objects. The number of layers is logged.

    Args:
        module: a model, or a ghost layer itself (then a new object is returned).

    Warns:
        DistillawWarning: there is no ghost layer in it.
    """
    layers = [layer for layer in module.modules() if type(layer) in PLAIN_OF]
    if not layers:
        _warn(f"{type(module).__name__} has no ghost batch norm layer: nothing was reverted")
    plain = {layer: {k: v for k, v in layer.__dict__.items() if k not in SETTINGS} for layer in layers}
    replaced = _replace(module, {one: _turned(one, PLAIN_OF[type(one)], plain[one]) for one in layers})
    log.info("%d ghost layers are plain batch norm now", len(layers))
    return replaced


def _turned(layer: nn.Module, kind: type[nn.Module], state: Mapping[str, Any]) -> nn.Module:
    """A module of another class with all of a layer's state: also its hooks, which a new layer would lose."""
    made = kind.__new__(kind)
    made.__dict__.update(state)
    return made


def _replace(module: nn.Module, exchange: dict[nn.Module, nn.Module]) -> nn.Module:
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if name and layer in exchange:
            parent, _, child = name.rpartition(".")
            module.get_submodule(parent).register_module(child, exchange[layer])
    return exchange.get(module, module)


def _left(module: nn.Module, ghost: Mapping[str, Any]) -> list[str]:
    """What stays as it is though it may have been meant."""
    batch_norms = (layer for layer in module.modules() if isinstance(layer, _BatchNorm))
    left = [layer for layer in batch_norms if type(layer) not in GHOST_OF]
    said = []
    if synced := sum(isinstance(layer, nn.SyncBatchNorm) for layer in left):
        said.append(
            f"{synced} SyncBatchNorm layers were left: they take statistics over the batches of all ranks, the "
            "opposite of ghosts; build the model without convert_sync_batchnorm to have ghosts there"
        )
    ghosts = {_said(layer.__dict__) for layer in left if isinstance(layer, _GhostBatchNorm)}
    if others := sorted(ghosts - {_said(ghost)}):
        said.append(
            f"ghost layers were left with their settings ({'; '.join(others)}), other than asked for now "
            f"({_said(ghost)}); call revert_ghost_batchnorm first to change them"
        )
    foreign = sorted(
        {type(layer).__name__ for layer in left if not isinstance(layer, nn.SyncBatchNorm | _GhostBatchNorm)}
    )
    if foreign:
        said.append(
            f"subclasses of BatchNorm were left ({', '.join(foreign)}): a ghost layer would drop what their forward "
            "pass adds"
        )
    return said


def _warn(message: str) -> None:
    warnings.warn(f"ghost batch norm: {message}", DistillawWarning, stacklevel=3)
