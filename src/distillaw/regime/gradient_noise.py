"""Multiplicative gradient noise without per-sample gradients: a random weight on every sample's loss.

d loss / d w is linear in the weights z, so weighting losses weights gradients. Exact only where samples do not interact
(no batch normalisation). Which variance: regime/variance.py.

Legend: B samples.
"""

import math

import torch

from distillaw.errors import ConfigError


def sample_weights(
    count: int,
    *,
    variance: float,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Z ~ Normal(1, variance), independent, float32, shape (count,).

    Args:
        count: samples.
        variance: sigma^2 >= 0.
        generator: where the numbers come from; it must live on `device`.
        device: of the weights; the generator's by default.

    Raises:
        ConfigError: a variance that is negative or not finite.
    """
    if not 0 <= variance < math.inf:
        raise ConfigError(f"variance = {variance:g}: it must be finite and not negative")
    if device is None and generator is not None:
        device = generator.device
    return 1 + math.sqrt(variance) * torch.randn(count, generator=generator, device=device)


def noisy_mean(
    losses_B: torch.Tensor, *, variance: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """sum_n z_n loss_n / M: divided by the number of samples, never by the sum of the weights.

    Args:
        losses_B: one loss per sample, shape (B,).
        variance: sigma^2.
        generator: as `sample_weights`.

    Returns:
        A scalar whose gradient is that of the mean loss plus the wanted noise; not a number to report.

    Raises:
        ConfigError: not one loss per sample.
    """
    if losses_B.dim() != 1 or not len(losses_B):
        raise ConfigError(
            f"losses of shape {tuple(losses_B.shape)}: give one loss per sample, e.g. cross_entropy(reduction='none')"
        )
    weights_B = sample_weights(len(losses_B), variance=variance, generator=generator, device=losses_B.device)
    return (weights_B.to(losses_B.dtype) * losses_B).sum() / len(losses_B)
