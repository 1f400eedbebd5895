"""How much likelier chosen answers became than rejected ones, with intervals. Torch-free.

A pair is the unit of every error: pairs are drawn independently, tokens of an answer are not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.runs.paired import t_quantile

LEVEL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A mean over pairs."""

    mean: float
    se: float
    interval: tuple[float, float]
    """Two-sided, at `LEVEL`: Student's t for means, Wilson's for shares."""

    def as_record(self) -> dict[str, object]:
        """For result.json."""
        return {"mean": self.mean, "se": self.se, "interval": list(self.interval), "level": LEVEL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Held-out figures of a policy against its reference."""

    loss: Measured
    """-log sigmoid(margin), nats per pair; ln 2 where nothing changed."""
    margin: Measured
    accuracy: Measured
    """Share of pairs with a positive margin; a margin of 0 counts half."""
    likelier: Measured
    """Share of pairs whose chosen answer the policy itself finds likelier, tokens summed."""
    pairs: int

    def as_record(self) -> dict[str, object]:
        """For result.json."""
        return {"loss": self.loss.as_record(), "margin": self.margin.as_record(), "accuracy": self.accuracy.as_record(),
                "likelier": self.likelier.as_record(), "pairs": self.pairs}  # fmt: skip


def preference_figures(
    policy: NDArray[np.float64], reference: NDArray[np.float64], *, beta: float
) -> Preference:
    """Margins, accuracy and loss of DPO (arXiv 2305.18290, equation 7).

    Args:
        policy: -ln p of answers, nats: chosen ones, then rejected ones, shape (2 pairs,).
        reference: of the same answers under the reference.
        beta: b of the margin.
    """
    log_ratio = reference - policy
    pairs = len(log_ratio) // 2
    margins = beta * (log_ratio[:pairs] - log_ratio[pairs:])
    likelier = policy[pairs:] - policy[:pairs]
    return Preference(
        loss=_mean(np.logaddexp(0.0, -margins)), margin=_mean(margins), accuracy=_share(_positive(margins)),
        likelier=_share(_positive(likelier)), pairs=pairs,
    )  # fmt: skip


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.sign(values) + 1) / 2


def _mean(values: NDArray[np.float64]) -> Measured:
    count, mean = len(values), float(values.mean())
    se = float(values.std(ddof=1) / np.sqrt(count))
    half = t_quantile(0.5 + LEVEL / 2, count - 1) * se
    return Measured(mean=mean, se=se, interval=(mean - half, mean + half))


def _share(values: NDArray[np.float64]) -> Measured:
    """A share with Wilson's score interval (1927), which stays within 0 and 1 for few pairs."""
    from scipy.special import ndtri

    count, share, z = len(values), float(values.mean()), float(ndtri(0.5 + LEVEL / 2))
    shrink = 1 + z**2 / count
    centre = (share + z**2 / (2 * count)) / shrink
    half = z / shrink * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
    return Measured(
        mean=share, se=float(np.sqrt(share * (1 - share) / count)), interval=(centre - half, centre + half)
    )
