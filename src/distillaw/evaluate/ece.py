"""Expected calibration error: how far stated confidence is from what comes true, and how well that is known.

    ECE = sum_m |S_m| / T,   S_m = sum of (outcome - confidence) over the tokens of bin m,   T tokens in all

which is sum_m |B_m|/T |mean outcome - mean confidence| with equal-width bins of the confidence (Guo et al. 2017,
arXiv:1706.04599, Eq. 3; Busbridge et al. 2025, arXiv:2502.08606v2, calibration section: 21 bins). Tokens of one
document are correlated, so everything is summed by document. Only numpy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.runs.paired import clustered_cov

BINS = 21
"""Of equal width on [0, 1], as in Busbridge et al. 2025."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BinSums:
    """Sums over the tokens of each document and bin, float64, shape (documents, bins)."""

    count: NDArray[np.float64]
    confidence: NDArray[np.float64]
    outcome: NDArray[np.float64]

    @classmethod
    def zeros(cls, documents: int, bins: int = BINS) -> "BinSums":
        """Nothing counted yet."""
        return cls(
            count=np.zeros((documents, bins)),
            confidence=np.zeros((documents, bins)),
            outcome=np.zeros((documents, bins)),
        )

    def add(
        self,
        document: NDArray[np.int64],
        by: NDArray[np.float64],
        confidence: NDArray[np.float64],
        outcome: NDArray[np.float64],
    ) -> None:
        """Count tokens.

        Args:
            document: of each token, shape (n,).
            by: what puts it into a bin, in [0, 1], shape (n,).
            confidence: what was said, shape (n,).
            outcome: what came true: 0 or 1, or a probability, shape (n,).
        """
        bins = self.count.shape[1]
        cell = document, np.minimum((by * bins).astype(np.int64), bins - 1)
        np.add.at(self.count, cell, 1.0)
        np.add.at(self.confidence, cell, confidence)
        np.add.at(self.outcome, cell, outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationError:
    """An ECE with what it takes to read it; all in shares of 1."""

    ece: float
    se: float
    """Standard error, clustered by document (delta method at the signs of the bins' gaps)."""
    floor: float
    """ECE expected of perfect calibration with so few tokens: bins that differ by chance alone add up."""
    gap: float
    """Mean outcome minus mean confidence; negative: overconfident."""
    bins: list[dict[str, float]]
    """The reliability diagram: tokens, mean confidence and mean outcome of each bin that has tokens."""


def calibration_error(sums: BinSums) -> CalibrationError:
    """ECE of counted tokens.

        se^2 = clustered variance of sum_d v_d / sum_d t_d,  v_d = sum_m sign(S_m) S_dm
        floor = sum_m sqrt(2 / pi) se(S_m / T)               (mean of |x| for a normal x around 0)

    Raises:
        DataError: fewer than two documents.
    """
    tokens_D = sums.count.sum(1)
    gap_DM = sums.outcome - sums.confidence
    gap_M = gap_DM.sum(0)
    value_D = gap_DM @ np.sign(gap_M)
    total = tokens_D.sum()
    cov = clustered_cov(gap_DM, tokens_D)  # type: ignore[arg-type]  # whole numbers in floats
    return CalibrationError(
        ece=float(value_D.sum() / total),
        se=float(np.sqrt(clustered_cov(value_D[:, None], tokens_D)[0, 0])),  # type: ignore[arg-type]
        floor=float(np.sqrt(2 / np.pi) * np.sqrt(np.diag(cov)).sum()),
        gap=float(gap_M.sum() / total), bins=_diagram(sums),
    )  # fmt: skip


def _diagram(sums: BinSums) -> list[dict[str, float]]:
    count, confidence, outcome = sums.count.sum(0), sums.confidence.sum(0), sums.outcome.sum(0)
    return [
        {"bin": float(m), "tokens": float(count[m]), "confidence": float(confidence[m] / count[m]),
         "outcome": float(outcome[m] / count[m])}
        for m in np.flatnonzero(count)
    ]  # fmt: skip
