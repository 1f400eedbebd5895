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


def ghost_weights(sizes: list[int], *, stats_update: StatsUpdate, momentum: float | None) -> list[float]:
    """Weight of each ghost as in the table above; without momentum before the division by c + K or c + 1.

    Args:
        sizes: samples of each ghost, in order.
        stats_update: "sequential" or "mean".
        momentum: eta, the weight of the new value; None for the cumulative average.
    """
    if stats_update == "mean":
        scale = 1.0 if momentum is None else momentum
        return [scale * size / sum(sizes) for size in sizes]
    if momentum is None:
        return [1.0] * len(sizes)
    return [momentum * (1 - momentum) ** later for later in range(len(sizes) - 1, -1, -1)]


@torch.no_grad()
def take_in(
    running: tuple[Tensor, Tensor],
    count: Tensor | None,
    statistics_2KC: Tensor,
    *,
    sizes: list[int],
    stats_update: StatsUpdate,
    momentum: float | None,
) -> None:
    """Update running mean and variance, shape (C,) each, and the count in place, computed in float32 at least.

    Args:
        running: mean and variance so far.
        count: c, updates so far, a tensor without dimensions; needed without momentum.
        statistics_2KC: mean and unbiased variance of each ghost, shape (2, K, C).
        sizes: samples of each ghost, in order.
        stats_update: "sequential" or "mean".
        momentum: eta, the weight of the new value; None for the cumulative average.
    """
    exact = torch.promote_types(statistics_2KC.dtype, torch.float32)
    updates = num_updates(sizes, stats_update)
    weights = ghost_weights(sizes, stats_update=stats_update, momentum=momentum)
    # a sum, not a matrix product: autocast would compute that in half precision
    new_2C = (statistics_2KC.new_tensor(weights, dtype=exact).unsqueeze(1) * statistics_2KC).sum(1)
    if momentum is None:
        assert count is not None
        after = (count + updates).to(exact)
        decay, new_2C = count / after, new_2C / after
    else:
        decay = (1 - momentum) ** updates
    for old_C, new_C in zip(running, new_2C, strict=True):
        old_C.copy_(old_C.to(exact) * decay + new_C)
    if count is not None:
        count.add_(updates)
