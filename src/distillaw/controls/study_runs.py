"""The runs of a study by what a control compares: the grid's own, and those that differ from one in one setting."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distillaw.controls.control import LEVEL
from distillaw.errors import CacheError, DataError
from distillaw.planning.arms import MeasuredArm, student_arms, teacher_name
from distillaw.planning.gains import RunNoise
from distillaw.planning.measured import MeasuredPoint, design_points, study_seed_noise
from distillaw.runs.files import as_read, read_json
from distillaw.runs.paired import check_same_documents, clustered_cov, effective_dof, seed_noise, t_interval
from distillaw.runs.record import Run, StudyRecord, budget_text
from distillaw.runs.spec import LATER_CHOICES

RATES = {"peak_lr", "branch_lr"}
"""The rate a run is searched at, and the one its cooldown begins at: lower where the rate falls with tokens."""
SETTINGS = (
    "peak_lr",
    "branch_lr",
    "batch_tokens",
    "cooldown",
    "lambda",
    "temperature",
    "divergence",
    "top_k",
    "top_p",
    "init",
    "arm",
    "start_run",
    "split",
)
"""What a run may differ in from the grid's run of its size, tokens, teacher and seed."""
_OTHERWISE_NAMED = ("distill_weight", "temperature")
"""Of a recipe: the table has lambda, and neither for runs without a teacher."""
_UNPAIRED_DOF = 30.0
"""Degrees of freedom of standard errors over documents where losses by document were not kept."""

Seeds = Mapping[int, Run]
Place = tuple[int, int, str]
"""(params, tokens, run of the teacher or "")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Loss of some runs minus loss of others, paired by seed and document where both allow it."""

    mean: float
    se: float
    """Documents and seeds, nats/token."""
    dof: float
    seeds: int
    is_paired: bool
    """False where losses by document were missing: the error is then far too wide."""

    def interval(self) -> tuple[float, float]:
        """Two-sided t interval at `LEVEL`."""
        return t_interval(self.mean, self.se, self.dof, LEVEL)

    def to_json(self) -> dict[str, object]:
        """Mean, standard error and interval."""
        return {
            "mean": self.mean,
            "se": self.se,
            "interval": list(self.interval()),
            "seeds": self.seeds,
            "paired": self.is_paired,
        }


class StudyRuns:
    """What the controls ask of a study record."""

    def __init__(self, record: StudyRecord) -> None:
        """The runs of a record; nothing is computed yet."""
        self.record = record

    @cached_property
    def grid(self) -> dict[Place, dict[int, Run]]:
        """Students that laws are fitted on, by place and seed."""
        found: dict[Place, dict[int, Run]] = {}
        for run in self.record.students:
            found.setdefault((run.params, run.tokens, run.teacher_run or ""), {})[run.seed] = run
        return dict(sorted(found.items()))

    @cached_property
    def teacher_grid(self) -> dict[Place, dict[int, Run]]:
        """Teachers of the study by place (that of a student alone) and seed."""
        return {(run.params, run.tokens, ""): {run.seed: run} for run in self.record.teachers.values()}

    def own(self, role: str) -> dict[Place, dict[int, Run]]:
        """The study's own runs of a role, `student` or `teacher`, by place and seed."""
        return self.grid if role == "student" else self.teacher_grid

    @cached_property
    def cells(self) -> list[MeasuredPoint]:
        """Sizes and budgets with their paired gains, by size and tokens."""
        return design_points(self.record)

    @cached_property
    def taught_by(self) -> list[str]:
        """Teachers of the grid's students, by run id."""
        return sorted({teacher for _, _, teacher in self.grid if teacher})

    @property
    def main(self) -> list[Run]:
        """Every run that a law is fitted on: students and teachers."""
        return [*self.record.students, *self.record.teachers.values()]

    def arms(self, params: int) -> list[MeasuredArm]:
        """The arms of a student size, the one without a teacher first."""
        return student_arms(self.record, params)

    def target(self) -> MeasuredPoint | None:
        """The cell the study was made for, or its largest one with a teacher."""
        taught = [cell for cell in self.cells if cell.taught]
        if not taught:
            return None
        wanted = self.record.target
        if wanted is None:
            return max(taught, key=lambda cell: (cell.params, cell.tokens))
        return min(taught, key=lambda c: abs(np.log(c.params / wanted[0])) + abs(np.log(c.tokens / wanted[1])))

    def variants(self, setting: str) -> dict[Place, dict[float, dict[int, Run]]]:
        """Runs that differ from the grid's in one numeric setting alone: place -> value -> seed -> run.

        Runs of the search are among them: at its budget they are runs of their own at other rates.
        """
        found: dict[Place, dict[float, dict[int, Run]]] = {}
        for run in self.record.runs:
            place = (run.params, run.tokens, run.teacher_run or "")
            twin = self.grid.get(place, {}).get(run.seed)
            if run.row.get("role") == "student" and twin is not None and changes(run, twin) == {setting}:
                found.setdefault(place, {}).setdefault(run.number(setting), {})[run.seed] = run
        return {place: dict(sorted(values.items())) for place, values in sorted(found.items())}

    def other_rates(self, role: str) -> dict[Place, dict[float, dict[int, Run]]]:
        """Runs that differ from the study's own in the rate alone: place -> rate where it branches -> seed -> run.

        `role` is `student` or `teacher`.
        """
        own = self.own(role)
        found: dict[Place, dict[float, dict[int, Run]]] = {}
        for run in self.record.runs:
            place = (run.params, run.tokens, run.teacher_run or "")
            twin = own.get(place, {}).get(run.seed)
            if run.row.get("role") != role or twin is None or not math.isfinite(run.branch_lr):
                continue
            if run.branch_lr != twin.branch_lr and changes(run, twin) <= RATES:
                found.setdefault(place, {}).setdefault(run.branch_lr, {})[run.seed] = run
        return {place: dict(sorted(values.items())) for place, values in sorted(found.items())}

    def noise(self, run: Run, *, is_paired: bool = True) -> RunNoise:
        """Seed noise of one run at this run's size and tokens.

        `is_paired` is False for runs on other streams of text, where what a seed does to both does not cancel.
        """
        own = study_seed_noise(self.record, student_params=run.params, tokens=run.tokens, loss=run.loss)
        if is_paired:
            return own
        cells = [{(place[2], seed): r.loss for seed, r in runs.items()} for place, runs in self.grid.items()]
        variance, dof = seed_noise(cells, paired=False)
        if not dof or variance < own.sd**2:
            return own
        return RunNoise(sd=float(np.sqrt(variance)), seen=float(np.sqrt(variance)), dof=dof, source="arm")

    def difference(self, first: Seeds, second: Seeds, *, is_paired: bool = True) -> Difference | None:
        """Mean loss of `first` minus that of `second` over the seeds of both; None without a common seed.

        se^2 = documents + 2 sd^2 / K, with the study's seed noise sd and K seeds; `is_paired` as in `noise`.
        """
        common = sorted(first.keys() & second.keys())
        if not common:
            return None
        pairs = [(first[seed], second[seed]) for seed in common]
        noise = self.noise(pairs[0][1], is_paired=is_paired)
        documents, dof, kept = _document_variance(pairs)
        seeds = 2 * noise.sd**2 / len(pairs)
        return Difference(
            mean=float(np.mean([a.loss - b.loss for a, b in pairs])),
            se=float(np.sqrt(documents + seeds)),
            dof=effective_dof((documents, dof), (seeds, noise.dof)),
            seeds=len(pairs),
            is_paired=kept,
        )

    def arm_name(self, teacher: str) -> str:
        """`alone`, or `from the 0.3M teacher`."""
        return f"from the {teacher_name(self.record, teacher)}" if teacher else "alone"

    def place_name(self, place: Place) -> str:
        """`0.3M alone on 820k tokens`."""
        params, tokens, teacher = place
        label = next((run.label for run in self.record.students if run.params == params), f"{params:,}")
        return f"{label} {self.arm_name(teacher)} on {budget_text(tokens)} tokens"


def changes(run: Run, twin: Run) -> set[str]:
    """Settings in which two runs differ; one that an older table lacks counts as equal."""
    first, second = _settings(run), _settings(twin)
    pairs = {name: (first.get(name), second.get(name)) for name in first | second}
    return {name for name, (a, b) in pairs.items() if a is not None and b is not None and a != b}


def _settings(run: Run) -> dict[str, object]:
    """What the table says of a run, and the recipe of its spec.json where the folder came along."""
    found = {name: run.row.get(name) for name in SETTINGS}
    try:
        recipe = read_json(run.folder / "spec.json").get("recipe") if run.folder else None
    except CacheError:
        recipe = None
    if isinstance(recipe, Mapping):
        recipe = as_read(LATER_CHOICES) | dict(recipe)  # what an older run could not choose, it had
        found |= {name: value for name, value in recipe.items() if name not in _OTHERWISE_NAMED}
    return found


def _document_variance(pairs: list[tuple[Run, Run]]) -> tuple[float, float, bool]:
    """Variance over documents of the mean difference, its degrees of freedom, and whether it is paired."""
    scores = [(a.scores, b.scores) for a, b in pairs]
    kept = [(a, b) for a, b in scores if a is not None and b is not None]
    if len(kept) == len(pairs):
        try:
            check_same_documents([one for pair in kept for one in pair])
        except DataError:
            kept = []
    if len(kept) < len(pairs):
        squares = [a.loss_se**2 + b.loss_se**2 for a, b in pairs]
        known = [x for x in squares if np.isfinite(x)]
        loss = pairs[0][1].loss
        return float(np.mean(known)) if known else 2 * (0.01 * loss) ** 2, _UNPAIRED_DOF, False
    sums = np.mean([a.loss_sum - b.loss_sum for a, b in kept], axis=0)
    tokens = kept[0][0].tokens
    return float(clustered_cov(sums[:, None], tokens)[0, 0]), len(tokens) - 1.0, True
