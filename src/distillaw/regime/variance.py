"""The variance of the random sample weights that give a large batch the gradient noise of a small one.

    g^ = (1/M) sum_n z_n g_n,    z_n ~ Normal(1, sigma^2)

    cov(g^) = [ f(M) C + sigma^2 (C + mu mu^T) ] / M        f: `finite_population`

Hoffer et al. 2017 (arXiv 1705.08741) take sigma^2 proportional to M; the constant is exact here. The weights are drawn
in regime/gradient_noise.py.
"""

import math

from distillaw.errors import ConfigError
from distillaw.regime.rules import batch_ratio, finite_population


def noise_variance(
    *, batch: float, reference: float, population: float | None = None, mean_share: float = 0.0
) -> float:
    """sigma^2 that makes the trace of the large batch's gradient covariance that of the small one.

        sigma^2 = (M_L f(M_S)/M_S - f(M_L)) / (1 + rho)        M_L/M_S - 1 with replacement and rho = 0

    Args:
        batch: M_L, samples.
        reference: M_S, samples, at most M_L.
        population: N samples drawn without replacement; None: with replacement.
        mean_share: rho = |mu|^2 / tr C; 0 where the mean gradient is small against the spread (early training).

    Raises:
        ConfigError: a reference above the batch (noise cannot be taken away), or a negative share.
    """
    ratio = batch_ratio(batch, reference)
    if ratio < 1:
        raise ConfigError(
            f"batch {batch:g} is smaller than the reference {reference:g}: it is noisier already, and weights can only "
            "add noise"
        )
    if not 0 <= mean_share < math.inf:
        raise ConfigError(f"mean_share = {mean_share:g}: |mean|^2 over the spread, finite and not negative")
    small, large = finite_population(reference, population), finite_population(batch, population)
    return (ratio * small - large) / (1 + mean_share)


def covariance_parts(
    variance: float, *, batch: float, population: float | None = None
) -> tuple[float, float]:
    """(factor of C, factor of mu mu^T) in the covariance of the weighted mean gradient.

    Raises:
        ConfigError: a variance that is negative or not finite.
    """
    if not 0 <= variance < math.inf:
        raise ConfigError(f"variance = {variance:g}: it must be finite and not negative")
    return (finite_population(batch, population) + variance) / batch, variance / batch
