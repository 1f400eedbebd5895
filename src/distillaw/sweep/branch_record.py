"""What the finished branches of a fork say: losses, decisions, comparisons, as branch.json and the report have them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillaw.large_batch.branch_test import (
    Branches,
    BranchVerdict,
    Comparison,
    compare,
    decide,
    order_noise,
    smooth,
)
from distillaw.runs.branch import Branch
from distillaw.runs.paired import DocumentScores, clustered_cov, paired_over_seeds, read_scores
from distillaw.sweep.branch_spec import BranchSpec
from distillaw.train.fork import finished_branch, step_losses

PUBLISHED_TOLERANCE = 0.01
"""Nats per token (Merrill et al. 2025, arXiv 2505.23971)."""
GAIN_SHARE = 0.05
"""Of what the window gained: a tolerance without a unit, for losses that are learnt at unlike speeds."""
Pair = tuple[str, str]
"""(loss of the trunk, loss of its branches)."""


class Arm:
    """The finished branches of one loss from one fork."""

    def __init__(self, branches: Sequence[Branch], spec: BranchSpec, study: Path, *, before: float) -> None:
        self.spec, self.before, self._folders = spec, before, [branch.folder(study) for branch in branches]
        self.results = [finished_branch(folder) for folder in self._folders]
        self.multiples = tuple(batch / spec.single.batch_tokens for batch in spec.batches)
        self.heldout = self._table([_number(result["loss"]) for result in self.results])
        self.training = self._table([
            math.nan if result["diverged"] else self._smoothed(step_losses(branch, study))
            for branch, result in zip(branches, self.results, strict=True)
        ])  # fmt: skip

    @property
    def gain(self) -> float:
        """What the best batch gained over the window, nats per token; not positive where nothing was learnt."""
        return self.before - float(np.min(self.heldout.means))

    def tolerances(self) -> dict[str, float | None]:
        """The tolerances that decisions are made at, the one that was asked for first; None is the seed noise."""
        spec, found = self.spec, {}
        if spec.tolerance is not None:
            found["given"] = spec.tolerance
        if spec.orders > 1:
            found["seed-noise"] = None
        if spec.tolerance != PUBLISHED_TOLERANCE:
            found["merrill2025"] = PUBLISHED_TOLERANCE
        return found | ({"gain-share": GAIN_SHARE * self.gain} if 0 < self.gain < math.inf else {})

    def rows(self) -> list[dict[str, Any]]:
        """One per multiple."""
        found = []
        for i, k in enumerate(self.multiples):
            orders = self._of(self.results, i)
            found.append({
                "multiple": k, **{key: orders[0][key] for key in ("batch_tokens", "rate", "steps")},
                "loss": _finite(np.mean(self.heldout.losses[i])), "losses": _finite_all(self.heldout.losses[i]),
                "training_losses": _finite_all(self.training.losses[i]),
                "diverged": sum(result["diverged"] is not None for result in orders),
                "seconds": sum(float(str(result["seconds"])) for result in orders),
            })  # fmt: skip
        return found

    def scores(self, i: int) -> list[DocumentScores]:
        """The held-out documents of a multiple's orders."""
        return [read_scores(folder / "heldout.parquet") for folder in self._of(self._folders, i)]

    def document_sums(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Loss sums of each document averaged over orders, shape (documents, multiples), and its tokens.

        Zeros stand for what diverged, of which nothing is asked.
        """
        every = {i: self.scores(i) for i, is_finite in enumerate(self.heldout.finite) if is_finite}
        tokens = next(iter(every.values()))[0].tokens
        sums = np.zeros((len(tokens), len(self.multiples)))
        for i, scores in every.items():
            sums[:, i] = np.mean([one.loss_sum for one in scores], axis=0)
        return sums, tokens

    def _smoothed(self, losses: list[float]) -> float:
        """Means over the text of one largest batch, so that all branches are smoothed alike, then Merrill's average."""
        blocks = np.array_split(np.array(losses), self.spec.window_tokens // self.spec.batches[-1])
        return smooth([float(block.mean()) for block in blocks if len(block)])

    def _of(self, items: list[Any], i: int) -> list[Any]:
        orders = self.spec.orders
        return items[i * orders : (i + 1) * orders]

    def _table(self, losses: list[float]) -> Branches:
        return Branches(multiples=self.multiples, losses=np.array(losses).reshape(-1, self.spec.orders))


def fork_record(
    spec: BranchSpec, branches: Mapping[Pair, Sequence[Branch]], reached: Mapping[str, Mapping[str, object]],
    noise: Mapping[Pair, Mapping[str, object]], study: Path,
) -> dict[str, object]:  # fmt: skip
    """The record of one fork.

    Args:
        spec: the test.
        branches: by trunk's and branches' loss; all finished.
        reached: the fork of each trunk.
        noise: noise scales, where they were measured.
        study: the folder.
    """
    before = {arm: float(str(fork["loss"])) for arm, fork in reached.items()}
    arms = {pair: Arm(each, spec, study, before=before[pair[0]]) for pair, each in branches.items()}
    tokens = next(iter(reached.values()))["tokens"]
    return {
        "tokens": tokens, "trunks": list(reached.values()),
        "arms": [_arm_record(pair, arm, noise.get(pair)) for pair, arm in arms.items()],
        "comparisons": [_comparison(what, arms[a], arms[b], a, b) for what, a, b in _wanted(list(arms))],
    }  # fmt: skip


def _arm_record(pair: Pair, arm: Arm, noise: Mapping[str, object] | None) -> dict[str, object]:
    cov = clustered_cov(*arm.document_sums()) if arm.heldout.finite.any() else None
    tolerances = arm.tolerances()
    decisions = [_decision("heldout", arm, name, tolerance, cov) for name, tolerance in tolerances.items()]
    decisions += [_decision("training", arm, name, tolerance, None) for name, tolerance in tolerances.items()
                  if name != "gain-share"]  # fmt: skip
    rows, first = arm.rows(), decisions[0]
    for row, *answers in zip(rows, first["excess"], first["excess_interval"], first["fails"], strict=True):
        row |= dict(zip(("excess", "excess_interval", "fails"), answers, strict=True))
        row["gain_lost"] = (
            None if "gain-share" not in tolerances or row["excess"] is None else row["excess"] / arm.gain
        )
    return {"trunk": pair[0], "loss": pair[1], "before": arm.before, "rows": rows, "decisions": decisions,
            "noise_scale": None if noise is None else dict(noise)}  # fmt: skip


def _decision(
    loss: str, arm: Arm, name: str, tolerance: float | None, cov: NDArray[np.float64] | None
) -> dict[str, Any]:
    branches = arm.heldout if loss == "heldout" else arm.training
    if tolerance is None and not order_noise(branches).dof:  # nothing is left to measure the noise on
        name, tolerance = "merrill2025", PUBLISHED_TOLERANCE
    verdict = decide(branches, tolerance=tolerance, document_cov=cov, level=arm.spec.level)
    return {"loss": loss, "tolerance_from": name} | verdict_table(verdict, arm.spec.single.batch_tokens)


def verdict_table(verdict: BranchVerdict, batch_tokens: int) -> dict[str, Any]:
    """A verdict for JSON, with its batches in tokens; what is infinite or unknown is null."""
    low, high = verdict.interval
    return asdict(verdict) | {
        "status": verdict.status.name, "remedy": verdict.status.value,
        "critical_batch": None if verdict.between is None else verdict.between * batch_tokens,
        "critical_batch_interval": [low * batch_tokens, None if high is None else high * batch_tokens],
        "largest_passing": None if verdict.largest is None else verdict.largest * batch_tokens,
        "smallest_failing": None if verdict.fails_from is None else verdict.fails_from * batch_tokens,
        "excess": _finite_all(verdict.excess),
        "excess_interval": [_finite_all(ends) for ends in verdict.excess_interval],
        "noise": {"sd": _finite(verdict.noise.sd), "dof": verdict.noise.dof},
    }  # fmt: skip


def _wanted(pairs: list[Pair]) -> list[tuple[str, Pair, Pair]]:
    """Supervised against distilled: from one checkpoint, and each from its own."""
    one = [(f"from the {trunk} checkpoint", (trunk, "supervised"), (trunk, "distilled"))
           for trunk in ("distilled", "supervised")]  # fmt: skip
    own = [("each from its own checkpoint", ("supervised", "supervised"), ("distilled", "distilled"))]
    return [each for each in one + own if each[1] in pairs and each[2] in pairs]


def _comparison(what: str, first: Arm, second: Arm, a: Pair, b: Pair) -> dict[str, object]:
    """Distilled (second) against supervised (first)."""
    record: dict[str, object] = {"what": what, "supervised": list(a), "distilled": list(b)}
    if not (first.heldout.finite.any() and second.heldout.finite.any()):
        return record | {"decisions": [], "excess_difference": []}
    (sums_a, tokens), (sums_b, _) = first.document_sums(), second.document_sums()
    cov, level = clustered_cov(np.hstack([sums_a, sums_b]), tokens), first.spec.level
    decisions, others = [], second.tolerances()
    for name, own in first.tolerances().items():
        other = others.get(name)
        tolerance = None if own is None or other is None else (own, other)
        if tolerance is None and not (order_noise(first.heldout).dof and order_noise(second.heldout).dof):
            continue
        if name in others:
            found = compare(first.heldout, second.heldout, tolerance=tolerance, document_cov=cov, level=level)
            decisions.append(
                {"tolerance_from": name} | _comparison_table(found, first.spec.single.batch_tokens)
            )
    return record | {"decisions": decisions, "excess_difference": _differences(first, second, level)}


def _comparison_table(found: Comparison, batch_tokens: int) -> dict[str, Any]:
    own = found.tolerance if isinstance(found.tolerance, tuple) else (found.tolerance, found.tolerance)
    return {
        "batches": [multiple * batch_tokens for multiple in found.between], "doublings": found.doublings,
        "interval": list(found.interval), "larger": found.larger, "smaller": found.smaller, "word": found.word,
        "tolerances": list(own), "level": found.level,
    }  # fmt: skip


def _differences(first: Arm, second: Arm, level: float) -> list[dict[str, object]]:
    """What each batch costs over the smallest, distilled minus supervised, paired over orders and documents."""
    if not (first.heldout.finite[0] and second.heldout.finite[0]):
        return []
    rows: list[dict[str, object]] = []
    for i in range(1, len(first.multiples)):
        if not (first.heldout.finite[i] and second.heldout.finite[i]):
            continue
        costs = [_costs(arm.scores(i), arm.scores(0)) for arm in (second, first)]
        found = paired_over_seeds(list(zip(*costs, strict=True)))
        rows.append({"multiple": first.multiples[i], "difference": found.mean, "se": found.se, "dof": found.dof,
                     "interval": list(found.interval(level))})  # fmt: skip
    return rows


def _costs(scores: list[DocumentScores], smallest: list[DocumentScores]) -> list[DocumentScores]:
    """What a batch costs over the smallest, by order and document."""
    pairs = zip(scores, smallest, strict=True)
    return [replace(one, loss_sum=one.loss_sum - start.loss_sum) for one, start in pairs]


def _number(value: object) -> float:
    return math.nan if value is None else float(str(value))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _finite_all(values: Sequence[float] | NDArray[np.float64]) -> list[float | None]:
    return [_finite(value) for value in values]
