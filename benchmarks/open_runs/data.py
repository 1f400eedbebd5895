"""The open runs as a table: read from the study's folder, or from the copy that ships with the package.

A comparison is a paired difference of two cells (size, budget, teacher), with two sources of noise:

documents  clustered over the held-out documents, of the mean over the seeds that both cells have
seeds      variance of the difference between seeds, measured where both cells have several; elsewhere that of the
           nearest cell (in ln N and ln D) where it was, divided by the seeds of the cell at hand
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from benchmarks import SHIPPED
from distillaw.runs.files import read_json, write_with
from distillaw.runs.paired import clustered_cov, effective_dof, read_scores, t_quantile
from distillaw.runs.store import StudyFolder

TABLE, SCORES = SHIPPED / "open_runs.parquet", SHIPPED / "open_heldout.npz"
LEVEL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """First less second, nats/token."""

    mean: float
    se: float
    se_documents: float
    se_seeds: float
    dof: float
    seeds: int

    @property
    def half(self) -> float:
        """Half width of the 90 % interval."""
        return t_quantile(0.5 + LEVEL / 2, self.dof) * self.se

    def document(self) -> dict[str, float | int]:
        """For the results."""
        return {
            "mean": self.mean,
            "half": self.half,
            "se_documents": self.se_documents,
            "se_seeds": self.se_seeds,
            "seeds": self.seeds,
        }


@dataclass
class OpenRuns:
    """All finished runs: their rows, and held-out loss sums of shape (runs, documents)."""

    rows: list[dict]
    sums: np.ndarray
    tokens: np.ndarray
    study: Mapping

    @cached_property
    def by_id(self) -> dict[str, int]:
        """Run id -> line."""
        return {row["run_id"]: i for i, row in enumerate(self.rows)}

    @cached_property
    def teachers(self) -> dict[str, dict]:
        """Name (`0.3M@4M`) -> row, best first; controls apart."""
        found = [r for r in self.rows if r["role"] == "teacher" and r["split"] == "teacher"]
        return {name(row): row for row in sorted(found, key=lambda row: row["loss"])}

    def teacher(self, row: Mapping) -> str:
        """Name of a student's teacher, `none` without."""
        return "none" if row["teacher_run"] is None else name(self.rows[self.by_id[row["teacher_run"]]])

    def cell(self, size: str, budget: int, teacher: str, purposes: Sequence[str] = ("grid", "holdout"), **wanted):
        """Seed -> line of the students of one cell."""
        return {
            row["seed"]: i
            for i, row in enumerate(self.rows)
            if (row["role"], row["label"], row["budget"]) == ("student", size, budget)
            and row["purpose"] in purposes
            and self.teacher(row) == teacher
            and all(row[k] == v for k, v in wanted.items())
        }

    @cached_property
    def sizes(self) -> list[str]:
        """Student sizes, ascending."""
        found = {r["label"]: r["params"] for r in self.rows if r["role"] == "student"}
        return sorted(found, key=found.__getitem__)

    def budgets(self, size: str) -> list[int]:
        """Budgets of a size in the grid and beyond it, ascending."""
        return sorted(
            {
                r["budget"]
                for r in self.rows
                if r["role"] == "student" and r["label"] == size and r["purpose"] in ("grid", "holdout")
            }
        )

    def loss(self, cell: Mapping[int, int]) -> float:
        """Mean over seeds, nats/token."""
        return float(np.mean([self.rows[i]["loss"] for i in cell.values()]))

    def difference(self, first: Mapping[int, int], second: Mapping[int, int]) -> Difference:
        """Of two cells, over the seeds that both have."""
        seeds = sorted(first.keys() & second.keys())
        assert seeds, "no seed that both have"
        delta = np.stack([self.sums[first[s]] - self.sums[second[s]] for s in seeds], axis=1)
        documents = float(clustered_cov(delta.mean(1, keepdims=True), self.tokens)[0, 0])
        alone = any(self.rows[i]["teacher_run"] is None for i in (*first.values(), *second.values()))
        if len(seeds) > 1:
            variance, dof = float(np.var(delta.sum(0) / self.tokens.sum(), ddof=1)), len(seeds) - 1
        else:
            variance, dof = self._seed_noise(self.rows[first[seeds[0]]], alone=alone)
        parts = (documents, len(self.tokens) - 1), (variance / len(seeds), dof)
        return Difference(
            mean=float(delta.mean(1).sum() / self.tokens.sum()),
            se=math.sqrt(sum(v for v, _ in parts)),
            se_documents=math.sqrt(documents),
            se_seeds=math.sqrt(variance / len(seeds)),
            dof=effective_dof(*parts),
            seeds=len(seeds),
        )

    def _seed_noise(self, row: Mapping, *, alone: bool) -> tuple[float, int]:
        """Variance of a difference between seeds at the nearest cell where it was measured, and its freedom."""
        noise = {k: v for k, v in self.seed_noise.items() if k[2] == alone}
        at = min(noise, key=lambda k: math.hypot(math.log(k[0] / row["params"]), math.log(k[1] / row["tokens"])))
        return noise[at]

    @cached_property
    def seed_noise(self) -> dict[tuple[int, int, bool], tuple[float, int]]:
        """(params, tokens, whether one side has no teacher) -> variance of a difference between seeds, freedom."""
        found: dict[tuple[int, int, bool], tuple[float, int]] = {}
        for size in self.sizes:
            for budget in self.budgets(size):
                cells = {t: self.cell(size, budget, t) for t in ("none", *self.teachers)}
                several = {t: c for t, c in cells.items() if len(c) > 2}
                taught = [t for t in several if t != "none"]
                pairs = {
                    True: [("none", t) for t in taught if "none" in several],
                    False: [(taught[0], t) for t in taught[1:]],
                }
                for alone, names in pairs.items():
                    if names:
                        row = self.rows[next(iter(several[names[0][1]].values()))]
                        found[row["params"], row["tokens"], alone] = self._variance(
                            [(several[a], several[b]) for a, b in names]
                        )
        return found

    def _variance(self, pairs: Sequence[tuple[Mapping[int, int], Mapping[int, int]]]) -> tuple[float, int]:
        squares, dof = 0.0, 0
        for first, second in pairs:
            seeds = sorted(first.keys() & second.keys())
            delta = np.array([self.rows[first[s]]["loss"] - self.rows[second[s]]["loss"] for s in seeds])
            squares += float(((delta - delta.mean()) ** 2).sum())
            dof += len(seeds) - 1
        return squares / dof, dof


def name(row: Mapping) -> str:
    """How the study file names a teacher."""
    from distillaw.quantities import format_count

    text = "" if row["split"] == "teacher" else f" on {row['split']} text"
    return f"{row['label']}@{format_count(row['budget'])}{text}"


def collect(folder: Path) -> None:
    """Write the shipped table and the held-out sums from the study's folder."""
    study = StudyFolder(folder)
    purposes = {r["run_id"]: r["purpose"] for r in pq.read_table(folder / "runs.parquet").to_pylist()}
    rows, sums = [], []
    for result in study.results():
        if result["run_id"] not in purposes:
            continue
        home = study.run(str(result["run_id"])).path
        spec = read_json(home / "spec.json")
        scores = read_scores(home / "heldout.parquet")
        rows.append(
            result
            | {
                "purpose": purposes[str(result["run_id"])],
                "label": spec["label"],
                "budget": spec["tokens"],
                "cooldown": spec["recipe"]["cooldown"],
                "decay": spec["recipe"]["decay"],
                "data_hash": spec["data_hash"],
            }
        )
        sums.append(scores.loss_sum)
    table = pa.Table.from_pylist(rows)
    about = json.dumps(read_json(folder / "study.json"))
    table = table.replace_schema_metadata({"study": about})
    write_with(TABLE, lambda path: pq.write_table(table, path, compression="zstd"), known=True)
    stored = {"sums": np.array(sums, dtype=np.float32), "tokens": scores.tokens}

    def save(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **stored)

    write_with(SCORES, save, known=True)


def read_shipped() -> OpenRuns:
    """Table and scores as they ship."""
    table = pq.read_table(TABLE)
    with np.load(SCORES) as stored:
        sums, tokens = stored["sums"].astype(np.float64), stored["tokens"].astype(np.int64)
    return OpenRuns(rows=table.to_pylist(), sums=sums, tokens=tokens, study=json.loads(table.schema.metadata[b"study"]))
