"""Running statistics of a ghost layer: K ghosts taken in at once, in closed form.

With momentum eta and c updates so far, the running value becomes `decay * running + sum_l weight_l statistic_l`:

    sequential            decay (1 - eta)^K    weight_l  eta (1 - eta)^(K-l)      K ordinary updates in order
    sequential, no eta    decay c / (c + K)    weight_l  1 / (c + K)              average over all ghosts so far
    mean                  decay 1 - eta        weight_l  eta n_l / N              n_l of the batch's N samples
    mean, no eta          decay c / (c + 1)    weight_l  n_l / N / (c + 1)

so decay and weights sum to one (but for the first average, where decay is 0). Differs from source: Hoffer et al.
2017, arXiv:1705.08741, Algorithm 1 prints a decay of (1 - eta)^(ghost size) and weights eta (1 - eta)^l, which do not.
Legend: K ghosts, C channels.
"""

import torch
from torch import Tensor

from distillaw.regime.ghost_settings import StatsUpdate


def num_updates(sizes: list[int], stats_update: StatsUpdate) -> int:
    """By how much `num_batches_tracked` grows."""
    return len(sizes) if stats_update == "sequential" else 1


def ghost_weights(
    sizes: list[int], *, stats_update: StatsUpdate, momentum: float | None, count: Tensor | None, like: Tensor
) -> tuple[Tensor | float, Tensor]:
    """What the running value keeps, and the weight of each ghost.

    Args:
        sizes: samples of each ghost, in order.
        stats_update: "sequential" or "mean".
        momentum: eta, the weight of the new value; None for the cumulative average.
        count: c, updates so far, a tensor without dimensions; used (and needed) without momentum only.
        like: a tensor of the device and dtype wanted.

    Returns:
        decay, and weights of shape (K,).
    """
    in_order = stats_update == "sequential"
    shares_K = like.new_tensor(sizes) / sum(sizes)
    if momentum is None:
        assert count is not None
        after = (count + num_updates(sizes, stats_update)).to(like.dtype)
        return count.to(like.dtype) / after, (torch.ones_like(shares_K) if in_order else shares_K) / after
    if not in_order:
        return 1 - momentum, momentum * shares_K
    later_K = torch.arange(len(sizes) - 1, -1, -1, device=like.device, dtype=like.dtype)
    return (1 - momentum) ** len(sizes), momentum * (1 - momentum) ** later_K


@torch.no_grad()
def take_in(running: Tensor, rows_KC: Tensor, decay: Tensor | float, weights_K: Tensor) -> None:
    """Update a running statistic, shape (C,), in place by those of the ghosts, computed in float32 at least."""
    # a sum, not a matrix product: autocast would compute that in half precision
    new_C = (weights_K[:, None] * rows_KC.to(weights_K.dtype)).sum(0)
    running.copy_(decay * running.to(weights_K.dtype) + new_C)
