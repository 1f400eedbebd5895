"""The difference between two runs, from their held-out losses document by document.

Two runs scored on the same documents share most of their noise: what is hard for one is hard for the other.
Paired, a difference is known several times better than either loss. Tokens of one document are correlated, so
the document, not the token, is the unit that counts. Training noise (another seed, another result) is a second
source that more held-out text cannot reduce; it is measured by repeating both runs with other seeds.

This file estimates; what follows from a difference is decided in planning/.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import CacheError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentScores:
    """Held-out loss of one run, summed within documents."""

    document: NDArray[np.int64]
    """Which document, shape (n,)."""
    tokens: NDArray[np.int64]
    """Scored tokens of each document, shape (n,), > 0."""
    loss_sum: NDArray[np.float64]
    """Sum of -ln p over the tokens of each document, nats, shape (n,)."""

    @classmethod
    def numbered(cls, *, tokens: NDArray[np.int64], loss_sum: NDArray[np.float64]) -> "DocumentScores":
        """Of documents in an order that all who score them share: 0, 1, ..."""
        return cls(document=np.arange(len(tokens)), tokens=tokens, loss_sum=loss_sum)

    @property
    def loss(self) -> float:
        """Nats per token over all documents."""
        return float(self.loss_sum.sum() / self.tokens.sum())

    @property
    def loss_se(self) -> float:
        """Standard error of `loss`, clustered by document."""
        return clustered_se(self.loss_sum, self.tokens)


def wilson_interval(share: float, count: int, *, level: float = 0.9) -> tuple[float, float]:
    """Interval of a share of `count` independent trials (Wilson 1927, J. Am. Stat. Assoc. 22:209); of none, all of it.

    Example:
        >>> low, high = wilson_interval(0.9, 10, level=0.95)
        >>> round(low, 3), round(high, 3)
        (0.596, 0.982)
    """
    if not count:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - half if share > 0 else 0.0, centre + half if share < 1 else 1.0


def fieller_interval(top: float, bottom: float, cov: NDArray[np.float64], *, t: float) -> tuple[float, float] | None:
    """Interval of the ratio top / bottom of two estimates (Fieller 1954, J. R. Stat. Soc. B 16:175).

    All ratios r with (top - r bottom)^2 <= t^2 var(top - r bottom); None where `bottom` is not distinct from zero, so
    that they are no interval.

    Args:
        cov: of numerator and denominator, shape (2, 2).
        t: quantile of Student's t.
    """
    a = bottom**2 - t**2 * float(cov[1, 1])
    b = top * bottom - t**2 * float(cov[0, 1])
    c = top**2 - t**2 * float(cov[0, 0])
    if a <= 0:
        return None
    root = math.sqrt(max(0.0, b * b - a * c))
    return (b - root) / a, (b + root) / a


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Mean difference of two runs (or of two sets of runs) in nats per token, with its noise by source."""

    mean: float
    se: float
    """Standard error of `mean`, documents and seeds together where seeds were repeated."""
    se_documents: float
    """The part that more held-out text would reduce."""
    se_seeds: float | None
    """The part that more seeds would reduce; None for a single pair, where it cannot be seen."""
    dof: float
    """Degrees of freedom of `se`, for a t interval."""
    documents: int
    seeds: int

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Two-sided t interval of the mean difference; for one seed it holds for this seed only."""
        return t_interval(self.mean, self.se, self.dof, level)


def in_bits(difference: PairedDifference) -> PairedDifference:
    """A difference in nats as one in bits: of losses per byte, bits per byte."""
    nats = {name: getattr(difference, name) for name in ("mean", "se", "se_documents", "se_seeds")}
    return replace(difference, **{name: value / math.log(2) for name, value in nats.items() if value is not None})


def read_scores(path: Path) -> DocumentScores:
    """The per-document losses of a run, from its `heldout.parquet`.

    Raises:
        CacheError: missing or unreadable.
        DataError: empty, or a loss that is not finite.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["document", "tokens", "loss_sum"])
    except (OSError, pa.ArrowException) as error:
        raise CacheError(f"{path}: cannot be read ({error}); run the study again to have it made") from error
    scores = DocumentScores(
        document=table["document"].to_numpy(), tokens=table["tokens"].to_numpy(), loss_sum=table["loss_sum"].to_numpy()
    )
    if not len(scores.tokens) or scores.tokens.sum() <= 0 or not np.isfinite(scores.loss_sum).all():
        raise DataError(f"{path}: no documents, or a loss that is not finite; delete the run folder and run it again")
    return scores


def clustered_cov(sums: NDArray[np.float64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Covariance of ratios sum_i x_ij / sum_i t_i whose documents are a sample, shape (m, m).

        r_j = sum_i x_ij / T,   T = sum_i t_i,   e_ij = x_ij - r_j t_i
        cov(r_j, r_k) = n / (n - 1) * sum_i e_ij e_ik / T^2

    The linearised (Taylor) variance of a ratio estimator with documents as clusters; n documents.

    Args:
        sums: x, per-document sums of any losses or differences of losses, nats, shape (n, m).
        tokens: t, tokens of each document, shape (n,).

    Raises:
        DataError: fewer than two documents, of which no spread can be estimated.
    """
    count = len(tokens)
    if count < 2:
        raise DataError(f"{count} held-out document: a standard error needs at least two; hold out more documents")
    total = tokens.sum()
    residual = sums - np.outer(tokens, sums.sum(0) / total)
    return count / (count - 1) * residual.T @ residual / float(total) ** 2


def clustered_se(sums: NDArray[np.float64], tokens: NDArray[np.int64]) -> float:
    """Standard error of one ratio sum_i x_i / sum_i t_i; arguments of shape (n,), errors as in `clustered_cov`."""
    return math.sqrt(clustered_cov(sums[:, None], tokens)[0, 0])


def check_same_documents(runs: Sequence[DocumentScores]) -> None:
    """Refuse runs that were not scored on the same tokens of the same documents.

    Raises:
        DataError: documents or their token counts differ (another held-out set or another tokenizer).
    """
    first = runs[0]
    for other in runs[1:]:
        if not np.array_equal(first.document, other.document):
            raise DataError(
                f"runs scored on different documents ({len(first.document)} and {len(other.document)}); "
                "score both on one held-out set to compare them in pairs"
            )
        if not np.array_equal(first.tokens, other.tokens):
            raise DataError(
                f"runs scored on different tokens of the same documents ({first.tokens.sum()} and "
                f"{other.tokens.sum()}): two tokenizers? Compare such runs in bits per byte, not in nats per token"
            )


def paired_difference(first: DocumentScores, second: DocumentScores) -> PairedDifference:
    """Loss of `first` minus loss of `second`, with its standard error over documents.

        delta = sum_i (a_i - b_i) / T,   se^2 = n / (n - 1) * sum_i (a_i - b_i - delta t_i)^2 / T^2

    with a_i, b_i the loss sums and t_i the tokens of document i. It says how well this pair of models is told
    apart, not how another seed would come out: see `paired_over_seeds`.

    Raises:
        DataError: the runs were not scored on the same tokens, or on fewer than two documents.
    """
    return paired_over_seeds([(first, second)])


def ratio_difference(first: DocumentScores, second: DocumentScores) -> PairedDifference:
    """As `paired_difference`, of scores on tokens of their own: answers that each model wrote to the same prompts.

        delta = A / T - B / U,   se^2 = n / (n - 1) * sum_i ((a_i - t_i A / T) / T - (b_i - u_i B / U) / U)^2

    with A, B the sums of a_i, b_i, and T, U of the tokens t_i, u_i. With t = u it is `paired_difference`.

    Raises:
        DataError: other documents, or fewer than two.
    """
    check_same_documents([replace(first, tokens=second.tokens), second])  # tokens may differ
    count = len(second.tokens)
    own, other = ((each.loss_sum - each.tokens * each.loss) / each.tokens.sum() for each in (first, second))
    se = count * clustered_se(own - other, np.ones_like(second.tokens))
    return PairedDifference(
        mean=first.loss - second.loss,
        se=se,
        se_documents=se,
        se_seeds=None,
        dof=effective_dof((se**2, count - 1)),
        documents=count,
        seeds=1,
    )


def paired_over_seeds(pairs: Sequence[tuple[DocumentScores, DocumentScores]]) -> PairedDifference:
    """Mean over seeds of (first minus second), with documents and seeds as sources of noise.

        delta = mean_k delta_k,   V_doc = clustered variance of the differences averaged over the K seeds
        V_seed = sum_k (delta_k - delta)^2 / (K (K - 1)),   se^2 = V_doc + V_seed
        dof = se^4 / (V_doc^2 / (n - 1) + V_seed^2 / (K - 1))          (Welch and Satterthwaite)

    The seeds are few, so the interval is a t interval with about K - 1 degrees of freedom wherever seeds
    dominate. What seeds and documents do jointly (a seed that is better on some documents) is in both terms:
    the sum errs on the wide side. With one seed V_seed is unknown and left out; `se_seeds` is then None.

    Raises:
        DataError: no pairs, or runs that were not scored on the same tokens.
    """
    if not pairs:
        raise DataError("no pair of runs to compare; a pair is two runs of one student size, token budget and seed")
    check_same_documents([run for pair in pairs for run in pair])
    tokens = pairs[0][0].tokens
    sums = np.stack([first.loss_sum - second.loss_sum for first, second in pairs], axis=1)
    deltas = sums.sum(0) / tokens.sum()
    v_doc = float(clustered_cov(sums.mean(1, keepdims=True), tokens)[0, 0])
    seeds = len(pairs)
    v_seed = float(deltas.var(ddof=1) / seeds) if seeds > 1 else 0.0
    return PairedDifference(
        mean=float(deltas.mean()),
        se=float(np.sqrt(v_doc + v_seed)),
        se_documents=float(np.sqrt(v_doc)),
        se_seeds=float(np.sqrt(v_seed)) if seeds > 1 else None,
        dof=effective_dof((v_doc, len(tokens) - 1), (v_seed, seeds - 1)),
        documents=len(tokens),
        seeds=seeds,
    )


def seed_noise(cells: Sequence[Mapping[tuple[str, int], float]], *, paired: bool = True) -> tuple[float, float]:
    """Paired seed variance of one run and its degrees of freedom, pooled over cells.

        loss_ak = arm_a + seed_k + e_ak,   sd^2 = sum e^2 / dof,   dof = observations - rank

    A two-way layout fitted by least squares in each cell, so that cells need not be complete. Arms are "no
    teacher" and each teacher; what all arms of one seed share cancels in a paired gain and is not counted.

    Args:
        cells: one mapping {(arm, seed): loss} per cell of equal size and tokens.
        paired: False leaves seed_k out of the layout, for cells where one arm alone was repeated: an upper bound.

    Returns:
        (variance, dof); (0, 0) where nothing was repeated.
    """
    rss, dof = 0.0, 0.0
    for cell in cells:
        if paired and len({arm for arm, _ in cell}) == 1:
            continue  # one arm, each run with a seed of its own: seeds explain everything
        if not paired:  # each arm's mean is left out of it: no layout to solve, however many repeats there are
            for arm in dict.fromkeys(arm for arm, _ in cell):
                losses = np.array([loss for (name, _), loss in cell.items() if name == arm])
                rss += float(np.square(losses - losses.mean()).sum())
                dof += len(losses) - 1
            continue
        residual, free = unexplained(list(cell), np.array([*cell.values()])[:, None])
        rss, dof = rss + float(np.square(residual).sum()), dof + free
    return (rss / dof, dof) if dof else (0.0, 0.0)


def unexplained(names: Sequence[tuple[str, int]], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """What arms and seeds leave of the values, shape (runs, n), and its degrees of freedom.

    Seeds are taken out first, as means, and what is left is solved for the arms alone (Frisch and Waugh): few columns,
    however many seeds there are.
    """
    arms = np.unique([arm for arm, _ in names], return_inverse=True)[1]
    seeds = np.unique([seed for _, seed in names], return_inverse=True)[1]
    count = np.bincount(seeds)

    def without_seeds(columns: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.zeros((len(count), columns.shape[1]))
        np.add.at(sums, seeds, columns)
        return columns - (sums / count[:, None])[seeds]

    design = without_seeds(np.eye(int(arms.max()) + 1)[arms])
    values = without_seeds(values)
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    return values - design @ solution, float(len(names) - len(count) - rank)


def effective_dof(*parts: tuple[float, float]) -> float:
    """Degrees of freedom of a sum of independent variance estimates (Satterthwaite 1946).

    Args:
        parts: (variance, its degrees of freedom); parts of zero variance do not count.
    """
    parts = tuple((v, nu) for v, nu in parts if v > 0)
    if not parts:
        return 1.0
    return sum(v for v, _ in parts) ** 2 / sum(v**2 / nu for v, nu in parts)


def t_quantile(probability: float, dof: float) -> float:
    """Quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, probability))


def t_interval(mean: float, se: float, dof: float, level: float) -> tuple[float, float]:
    """Two-sided interval of a mean by Student's t distribution."""
    half = t_quantile(0.5 + level / 2, dof) * se
    return mean - half, mean + half


def sd_interval(sd: float, dof: float, level: float) -> tuple[float, float]:
    """Interval of a standard deviation that was estimated with so many degrees of freedom: dof sd^2 is chi-squared."""
    from scipy.special import chdtri

    tail = (1 - level) / 2
    low, high = (sd * math.sqrt(dof / float(chdtri(dof, share))) for share in (tail, 1 - tail))
    return low, high
