"""What runs are worth before they are made: the regret that they are expected to save.

Losses at the target and at every cell that could be run are taken as jointly Gaussian, with the covariance of the
belief's draws. Runs then move the target's means by a Gaussian amount of known covariance, whatever they show, and

    worth = min_a E[L_a] - E[min_a E[L_a | runs]]

is the knowledge gradient of the choice (Frazier, Powell and Dayanik 2009, for correlated beliefs).
Shape suffixes: M member, A arm (0: no teacher), Q cell, J cell of a stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from distillaw.laws.base import Array
from distillaw.settling.belief import Belief
from distillaw.settling.contrasts import target_cells
from distillaw.settling.noise import Cells, seed_cov
from distillaw.settling.question import NONE, Stage

SEED = 2
"""Of the draws: all stages are judged by the same ones."""
DRAWS = 400
TEXT = 4e-4
"""Error of a gain from the choice of held-out documents, ln loss, where runs do not say."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Losses at the target and at cells, before or after some stages that are not run yet."""

    belief: Belief
    cells: Cells
    mean_A: Array  # noqa: N815 - an array
    """Of the loss at the target, nats/token."""
    cov: Array
    """Of the losses at the target, then of the ln losses at the cells, (A + Q, A + Q)."""
    moved_AA: Array  # noqa: N815 - an array
    """Covariance of what the stages so far will have moved the means at the target by."""
    arms: tuple[int, ...]
    """Those that may still be chosen."""

    @classmethod
    def of(cls, belief: Belief, stages: Sequence[Stage], arms: Sequence[int]) -> "Outlook":
        """The outlook of a belief on every cell of some stages."""
        keys = sorted({key for stage in stages for key in _keys(belief, stage)})
        params, tokens, arm = (np.array(column) for column in zip(*keys, strict=True))
        cells = Cells(log_params=np.log(params), log_tokens=np.log(tokens), arm=arm.astype(np.int64),
                      seed=np.zeros(len(keys), dtype=np.int64))  # fmt: skip
        target = target_cells(belief.question)
        draws = belief.ask(target.join(cells), np.random.default_rng(SEED))
        count = len(target.arm)
        draws[:, :count] = np.exp(draws[:, :count])
        return cls(belief=belief, cells=cells, mean_A=draws[:, :count].mean(0), cov=np.cov(draws.T),
                   moved_AA=np.zeros((count, count)), arms=tuple(arms))  # fmt: skip

    def after(self, stage: Stage) -> "Outlook":
        """The outlook once a stage has been run."""
        index_J, noise_JJ = self._measured(stage)
        across = self.cov[:, index_J]
        told = across @ np.linalg.solve(across[index_J] + noise_JJ, across.T)
        count = len(self.mean_A)
        return replace(self, cov=self.cov - told, moved_AA=self.moved_AA + told[:count, :count])

    def worth(self, stage: Stage) -> float:
        """Regret, nats/token, that the stages so far and this one are expected to save."""
        index_J, noise_JJ = self._measured(stage)
        across_AJ = self.cov[: len(self.mean_A)][:, index_J]
        told_AA = across_AJ @ np.linalg.solve(self.cov[np.ix_(index_J, index_J)] + noise_JJ, across_AJ.T)
        return self._saved(self.moved_AA + told_AA)

    @property
    def worth_so_far(self) -> float:
        """The same of the stages so far."""
        return self._saved(self.moved_AA)

    @property
    def stake(self) -> float:
        """Expected regret of the leader if nothing further is run, nats/token: what knowing all would save."""
        count = len(self.mean_A)
        return self._saved(self.cov[:count, :count] + self.moved_AA)

    def _saved(self, moved_AA: Array) -> float:
        arms = list(self.arms)
        values, vectors = np.linalg.eigh(moved_AA[np.ix_(arms, arms)])
        moved_MA = self._normals[:, : len(arms)] @ (vectors * np.sqrt(np.maximum(values, 0))).T
        means_A = self.mean_A[arms]
        return float(means_A.min() - (means_A + moved_MA).min(axis=1).mean())

    @cached_property
    def _normals(self) -> Array:
        half_MA = np.random.default_rng(SEED).standard_normal((DRAWS // 2, len(self.mean_A)))
        return np.concatenate([half_MA, -half_MA])

    @cached_property
    def _index(self) -> dict[tuple[float, float, int], int]:
        c = self.cells
        keys = zip(np.exp(c.log_params), np.exp(c.log_tokens), c.arm, strict=True)
        count = len(self.mean_A)
        return {(round(n), round(d), int(a)): count + i for i, (n, d, a) in enumerate(keys)}

    def _measured(self, stage: Stage) -> tuple[Array, Array]:
        """Where the runs of a stage lie in `cov`, one seed, and the noise of their mean over seeds."""
        keys = _keys(self.belief, stage)
        index_J = np.array([self._index[round(n), round(d), a] for n, d, a in keys])
        params, tokens, arm = (np.array(column) for column in zip(*keys, strict=True))
        cells = Cells(log_params=np.log(params), log_tokens=np.log(tokens), arm=arm, seed=np.zeros_like(arm))
        text_se = np.full(len(self.mean_A), TEXT)
        text_se[0] = 0.0
        return index_J, seed_cov(cells, self.belief.sd, text_se) / len(stage.seeds)


def _keys(belief: Belief, stage: Stage) -> list[tuple[float, float, int]]:
    """Size, tokens and arm of every run of a stage, one seed."""
    question = belief.question
    arms = [question.arms.index(name) for name in (NONE, *stage.candidates)]
    return [(question.size(label).params, float(tokens), arm)
            for label in stage.labels for tokens in stage.tokens for arm in arms]  # fmt: skip
