"""On what terms a map's teachers are had: who pays, what a forward pass costs, which teachers are allowed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from distillaw.accounting.family import FixedAspect
from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.accounting.scenarios import CostShares, Scenario
from distillaw.laws.base import Array
from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.fast_losses import GridCells, grid_losses
from distillaw.planning.optimum import PAPER_BOUNDS, OptimalPlan, optimal_distillation

Flops = Callable[[Array], Array]
_SMALLEST, _MOST = PAPER_BOUNDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms asked for; what is None follows from the smallest student of the map."""

    scenario: Scenario | CostShares
    """What a student pays of its teacher."""
    forward: Flops = field(default_factory=lambda: FixedAspect().forward_flops)
    """F(N), FLOP per token; by default the distillation paper's family."""
    teacher_params: tuple[float | None, float] = (None, _MOST)
    """Smallest and largest N_T."""
    teacher_tokens: tuple[float | None, float] = (None, _MOST)
    """Fewest and most D_T."""

    @property
    def shares(self) -> CostShares:
        """(delta_Lgt, delta_Pre)."""
        return self.scenario.value if isinstance(self.scenario, Scenario) else self.scenario

    def budget(self, ensemble: LawEnsemble, smallest: float) -> "Budget":
        """The terms with every bound known.

        Args:
            ensemble: the laws.
            smallest: N_S of the smallest student.
        """
        least = min(_SMALLEST, smallest)
        size, tokens = self.teacher_params, self.teacher_tokens
        return Budget(
            ensemble=ensemble, shares=self.shares, forward=self.forward, min_student_tokens=least,
            teacher_params=(least / 10 if size[0] is None else size[0], size[1]),
            teacher_tokens=(least if tokens[0] is None else tokens[0], tokens[1]),
        )  # fmt: skip

    @property
    def meta(self) -> dict[str, object]:
        """For the meta data of a map."""
        known = {s.value: s.name.lower().replace("_", "-") for s in Scenario}
        shares = self.shares
        name = known.get(shares, f"{shares.delta_lgt:g}-{shares.delta_pre:g}")
        return {"scenario": name, "delta_lgt": shares.delta_lgt, "delta_pre": shares.delta_pre}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The budget equation on whole grids, and exact optima under it."""

    ensemble: LawEnsemble
    shares: CostShares
    forward: Flops
    teacher_params: tuple[float, float]
    teacher_tokens: tuple[float, float]
    min_student_tokens: float

    def solve(self, N: Array, C: Array, *, by_law: bool = False) -> OptimalPlan:
        """Exact optima of students N at budgets C."""
        return optimal_distillation(
            self.ensemble, student_params=N, compute=C, shares=self.shares, forward=self.forward, by_law=by_law,
            teacher_params_bounds=self.teacher_params, teacher_tokens_bounds=self.teacher_tokens,
            min_student_tokens=self.min_student_tokens,
        )  # fmt: skip

    def divide(self, N: Array, C: Array, n: Array, d: Array) -> tuple[Array, Mapping[str, Array]]:
        """Student tokens (too few: 1, and not paid), and the shares of the compute, with teachers ln N_T, ln D_T."""
        size = self.forward(np.exp(n))
        training = self.training(N)
        teacher = (self.shares.delta_pre * TRAINING_FACTOR) * size * np.exp(d) / C
        per_token = training + self.shares.delta_lgt * size
        rest = 1 - teacher
        student = rest * training / per_token
        shares = {"student_share": student, "logits_share": rest - student, "teacher_share": teacher}
        tokens = rest * C / per_token
        return np.where(tokens >= self.min_student_tokens, tokens, np.nan), shares

    def training(self, N: Array) -> Array:
        """3 F(N_S), FLOP per token."""
        return TRAINING_FACTOR * self.forward(N)

    def loss(self, y: Array, x: Array, n: Array, d: Array) -> Array:
        """Mean loss of students ln N_S at ln C with given teachers; inf where they cannot be paid."""
        tokens, _ = self.divide(np.exp(y), np.exp(x), n, d)
        is_paid = np.isfinite(tokens)
        cells = GridCells(n=y, d=np.log(np.where(is_paid, tokens, 1.0)), teacher_n=n, teacher_d=d)
        return np.where(is_paid, grid_losses(self.ensemble, cells).student, np.inf)
