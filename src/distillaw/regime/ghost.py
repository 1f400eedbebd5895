"""Ghost batch normalisation: batch norm over contiguous slices of the batch (ghosts), each with its own statistics.

Hoffer, Hubara, Soudry 2017, arXiv:1705.08741, Algorithm 1, with `running_mean` and the unbiased `running_var` kept as
`nn.BatchNorm` keeps them, so that state dicts interchange. In evaluation the layer *is* `nn.BatchNorm`. Decided
elsewhere: how ragged batches are cut (ghost_sizes.py), how running statistics take in the ghosts
(ghost_statistics.py), how models are converted (ghost_convert.py). Legend: K ghosts, C channels.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distillaw.errors import DataError
from distillaw.regime.ghost_settings import GhostSettings, StatsUpdate
from distillaw.regime.ghost_sizes import Remainder, ghost_blocks, ghost_sizes
from distillaw.regime.ghost_statistics import take_in

# Many small ghosts are normalised by one kernel with the ghosts folded into the channels, which costs copies. It pays
# on a CPU from FOLDED_GHOSTS ghosts of at most FOLDED_GHOST elements each, up to FOLDED_BLOCK elements at once
# (benchmarks/large_batch/ghost_batchnorm.py); elsewhere unmeasured, so there the loop stands.
FOLDED_GHOSTS = 32
FOLDED_GHOST = 2**13
FOLDED_BLOCK = 2**18


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

    Raises:
        ConfigError: ghost_batch_size not a whole number >= 1, unknown stats_update or remainder.
    """

    ghost: GhostSettings

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
    ) -> None:
        ghost = GhostSettings(
            ghost_batch_size=ghost_batch_size, stats_update=stats_update, remainder=remainder
        )
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )  # fmt: skip
        self.ghost = ghost

    @property
    def ghost_batch_size(self) -> int:
        """Samples per ghost."""
        return self.ghost.ghost_batch_size

    @property
    def stats_update(self) -> StatsUpdate:
        """How running statistics take in the ghosts."""
        return self.ghost.stats_update

    @property
    def remainder(self) -> Remainder:
        """The policy for ragged batches."""
        return self.ghost.remainder

    def extra_repr(self) -> str:
        """The arguments of `nn.BatchNorm`, then those of the ghosts."""
        return f"{super().extra_repr()}, {self.ghost}"

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
        self._refuse_overflow()
        return output

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
            assert self.running_mean is not None and self.running_var is not None
            take_in(
                (self.running_mean, self.running_var), self.num_batches_tracked, statistics_2KC,
                sizes=sizes, stats_update=self.stats_update, momentum=self.momentum,
            )  # fmt: skip
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

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
    input: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None,
    momentum: float, eps: float,
) -> Tensor:  # fmt: skip
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
