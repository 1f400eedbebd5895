"""Cells of the study (a student, its tokens, its teacher; several seeds) and contrasts between them with errors.

A contrast is a weighted sum of cells; a paired difference has the weights 1 and -1, a teacher set against the window
curve at its own loss has three. Two sources of noise, as in distillaw/runs/paired.py:

documents  clustered covariance of the seed-mean loss sums of the documents
seeds      sum of w^2 s^2 / seeds over the cells, s^2 the variance of a cell between seeds once what a seed does to all
           teachers of one student and budget alike (order of the text, initialisation) is taken out. With two seeds one
           pair says little about its own noise, so s^2 is pooled over the teachers of a student and budget
           ((teachers - 1)(seeds - 1) degrees of freedom); for students without a teacher, whose noise is another, over
           the budgets of a size.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distillaw.runs.paired import DocumentScores, clustered_cov, effective_dof, t_interval
from distillaw.runs.table import read_table

RATE = 0.0055
LEVEL = 0.9


class Cell(NamedTuple):
    """What a run is, but for its seed."""

    size: str
    budget: int
    teacher: str = "none"
    distill_weight: float = 1.0
    temperature: float = 1.0
    peak_lr: float = RATE
    batch_tokens: int = 512
    rescaled: bool = False


Weights = Mapping[Cell, float]


class Noise(NamedTuple):
    """A variance and its degrees of freedom."""

    variance: float
    dof: float


@dataclass(frozen=True)
class Estimate:
    """A contrast, nats per token."""

    mean: float
    se: float
    se_documents: float
    se_seeds: float
    dof: float
    seeds: int

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Two-sided t interval."""
        return t_interval(self.mean, self.se, self.dof, level)

    def document(self) -> dict[str, float | int]:
        """For the results."""
        low, high = self.interval()
        return {
            "mean": self.mean,
            "se": self.se,
            "se_documents": self.se_documents,
            "se_seeds": self.se_seeds,
            "low": low,
            "high": high,
            "seeds": self.seeds,
        }


@dataclass
class Study:
    """All runs: their lines of the table, and loss sums of shape (runs, documents)."""

    rows: list[dict]
    sums: np.ndarray
    tokens: np.ndarray

    @cached_property
    def cells(self) -> dict[Cell, dict[int, int]]:
        """Cell -> seed -> line, of the first world."""
        found: dict[Cell, dict[int, int]] = defaultdict(dict)
        for i, row in enumerate(self.rows):
            if row["role"] == "student" and row["world"] == self.rows[0]["world"]:
                found[cell_of(row)].setdefault(int(row["seed"]), i)
        return dict(found)

    def loss(self, cell: Cell) -> float:
        """Mean over its seeds, nats per token."""
        return float(np.mean([self.rows[i]["loss"] for i in self.cells[cell].values()]))

    def teacher_loss(self, teacher: str) -> float:
        """Held-out loss of a teacher as its students' runs have it."""
        return next(float(r["teacher_loss"]) for r in self.rows if r["teacher"] == teacher)

    def scores(self, line: int) -> DocumentScores:
        """One run's, for differences of two runs of another world."""
        return DocumentScores(document=np.arange(len(self.tokens)), tokens=self.tokens, loss_sum=self.sums[line])

    def find(self, **wanted) -> list[Cell]:
        """Cells with these properties."""
        return [cell for cell in self.cells if all(getattr(cell, k) == v for k, v in wanted.items())]

    def estimate(self, weights: Weights) -> Estimate:
        """A contrast with its errors; seeds that all of its cells have."""
        means, documents, seed_parts, seeds = self._moments([weights])
        parts = [Noise(float(documents[0, 0]), len(self.tokens) - 1)]
        parts += [Noise(w**2 * noise.variance / seeds[0], noise.dof) for w, noise in seed_parts[0]]
        v_doc, v_seed = parts[0].variance, sum(part.variance for part in parts[1:])
        return Estimate(
            float(means[0]), (v_doc + v_seed) ** 0.5, v_doc**0.5, v_seed**0.5, effective_dof(*parts), seeds[0]
        )

    def joint(self, contrasts: Sequence[Weights]) -> tuple[np.ndarray, np.ndarray]:
        """Means and covariance of several contrasts; a cell's seed noise is shared where they share the cell."""
        means, cov, _, seeds = self._moments(contrasts)
        for i, one in enumerate(contrasts):
            for j, other in enumerate(contrasts):
                cov[i, j] += sum(
                    one[c] * other[c] * self.noise(c).variance / min(seeds[i], seeds[j]) for c in one if c in other
                )
        return means, cov

    def _moments(self, contrasts: Sequence[Weights]):
        columns, seed_parts, counts = [], [], []
        for weights in contrasts:
            seeds = sorted(set.intersection(*(set(self.cells[c]) for c in weights)))
            assert seeds, f"no seed that all of these have: {list(weights)}"
            columns.append(sum(w * self.sums[[self.cells[c][s] for s in seeds]].mean(0) for c, w in weights.items()))
            seed_parts.append([(w, self.noise(c)) for c, w in weights.items()])
            counts.append(len(seeds))
        sums = np.stack(columns, axis=1)
        return sums.sum(0) / self.tokens.sum(), clustered_cov(sums, self.tokens), seed_parts, counts

    def noise(self, cell: Cell) -> Noise:
        """Variance of a cell between seeds, what all teachers of its student and budget share taken out."""
        if cell.teacher == "none":
            return self._noise_alone(cell.size)
        budgets = self.budgets_with_several(cell.size)
        return self._noise_taught(cell.size, min(budgets, key=lambda b: abs(np.log(b / cell.budget))))

    def budgets_with_several(self, size: str) -> list[int]:
        """Budgets at which two teachers or more have two seeds or more (elsewhere the nearest one's noise is taken)."""
        found = [
            c.budget
            for c, by_seed in self.cells.items()
            if c == Cell(size, c.budget, c.teacher) and c.teacher != "none" and len(by_seed) > 1
        ]
        return sorted({b for b in found if found.count(b) > 1})

    def _noise_taught(self, size: str, budget: int) -> Noise:
        if (size, budget) not in self._taught:
            matrix = self._by_seed(size, budget)
            residual = matrix - matrix.mean(0) - matrix.mean(1, keepdims=True) + matrix.mean()
            dof = (matrix.shape[0] - 1) * (matrix.shape[1] - 1)
            assert dof > 0, f"{size} at {budget}: at least two teachers with two seeds are needed"
            self._taught[size, budget] = Noise(float((residual**2).sum() / dof), dof)
        return self._taught[size, budget]

    @cached_property
    def _taught(self) -> dict[tuple[str, int], Noise]:
        return {}

    def _by_seed(self, size: str, budget: int) -> np.ndarray:
        """Losses of the taught students of the main settings that have several seeds, shape (teachers, seeds)."""
        cells = [
            c
            for c, by_seed in self.cells.items()
            if c == Cell(size, budget, c.teacher) and c.teacher != "none" and len(by_seed) > 1
        ]
        seeds = sorted(set.intersection(*(set(self.cells[c]) for c in cells)))
        return np.array([[self.rows[self.cells[c][s]]["loss"] for s in seeds] for c in cells])

    def _noise_alone(self, size: str) -> Noise:
        """From (alone - mean of the taught) of each seed; the budgets of a size are taken as independent."""
        squares, dof = 0.0, 0
        for budget in self.budgets_with_several(size):
            taught = self._by_seed(size, budget).mean(0)
            by_seed = self.cells.get(Cell(size, budget), {})
            alone = np.array([self.rows[i]["loss"] for _, i in sorted(by_seed.items())])
            shared = min(len(alone), len(taught))
            if shared > 1:
                difference = alone[:shared] - taught[:shared]
                squares += float(((difference - difference.mean()) ** 2).sum())
                dof += shared - 1
        return Noise(squares / dof, dof)


def cell_of(row: Mapping) -> Cell:
    """The cell of a line of the table."""
    alone = row["teacher"] == "none"
    return Cell(
        size=row["size"],
        budget=int(row["budget"]),
        teacher=row["teacher"],
        distill_weight=1.0 if alone else float(row["lambda"]),
        temperature=1.0 if alone else float(row["temperature"]),
        peak_lr=float(row["peak_lr"]),
        batch_tokens=int(row["batch_tokens"]),
        rescaled=row["set"] == "rescaled",
    )


def read_study(table: Path, scores: Path) -> Study:
    """Table and scores as they were collected."""
    columns = read_table(table)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    with np.load(scores) as stored:
        return Study(rows=rows, sums=stored["sums"].astype(np.float64), tokens=stored["tokens"].astype(np.int64))


def minus(first: Cell, second: Cell) -> dict[Cell, float]:
    """The paired difference of two cells."""
    return {first: 1.0, second: -1.0}
