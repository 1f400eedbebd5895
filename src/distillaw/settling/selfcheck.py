"""Every stage is predicted before it runs; how far off the predictions were widens what is said of the target."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.settling.belief import believe
from distillaw.settling.noise import SHARED_SEED, Cells
from distillaw.settling.question import NONE, PilotRun, Question, Stage, runs_of

TRUSTED = 4.0
"""Weight of the assumed misfit, in stages' worth of surprise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The gain of one candidate at one cell of a stage, before it ran, and what came; ln loss."""

    stage: int
    candidate: str
    params: float
    tokens: float
    expected: float
    sd: float
    """Of the difference to expect, noise of seeds included."""
    came: float

    @property
    def surprise(self) -> float:
        """In standard deviations."""
        return (self.came - self.expected) / self.sd

    def to_json(self) -> dict[str, object]:
        """A row."""
        return {"stage": self.stage, "teacher": self.candidate, "student_params": self.params,
                "student_tokens": self.tokens, "expected_log_gain": self.expected, "sd": self.sd,
                "measured_log_gain": self.came}  # fmt: skip


def widened(checks: Sequence[Prediction]) -> float:
    """By how much to scale the misfit: never down, up to what the surprises say.

    One stage's cells and candidates are off together, so a stage counts once, with its mean square.
    """
    stages = {check.stage for check in checks}
    squares = [np.mean([c.surprise**2 for c in checks if c.stage == stage]) for stage in stages]
    return math.sqrt(max(1.0, (TRUSTED + sum(squares)) / (TRUSTED + len(squares))))


def predictions(question: Question, stages: Sequence[Stage], runs: Sequence[PilotRun]) -> list[Prediction]:
    """Of every stage but the first, from the runs of those before it."""
    found: list[Prediction] = []
    before = list(runs_of(question, stages[0], runs)) if stages else []
    for i, stage in enumerate(stages[1:], start=1):
        new = [run for run in runs_of(question, stage, runs) if run not in before]
        found += _predict(question, i, before, new, widened(found))
        before += new
    return found


def _predict(
    question: Question, index: int, before: Sequence[PilotRun], new: Sequence[PilotRun], scale: float
) -> list[Prediction]:
    """The gains of the new runs, mean over seeds, from the runs before."""
    pairs = _pairs(new)
    if not pairs:
        return []
    belief = believe(question, before, scale=scale)
    names = question.arms
    keys = list(pairs)
    _, params, tokens = zip(*keys, strict=True)
    arm = np.array([[0, names.index(name)] for name, _, _ in keys]).reshape(-1)
    cells = Cells(log_params=np.log(np.repeat(params, 2)), log_tokens=np.log(np.repeat(tokens, 2)), arm=arm,
                  seed=np.zeros_like(arm))  # fmt: skip
    draws = belief.ask(cells, np.random.default_rng(index))
    gains = draws[:, 0::2] - draws[:, 1::2]
    rows = []
    for j, key in enumerate(keys):
        noise = belief.sd * math.sqrt(2 * (1 - SHARED_SEED) / len(pairs[key]))
        rows.append(Prediction(stage=index, candidate=key[0], params=key[1], tokens=key[2],
                               expected=float(gains[:, j].mean()), sd=math.hypot(float(gains[:, j].std()), noise),
                               came=float(np.mean(pairs[key]))))  # fmt: skip
    return rows


def _pairs(runs: Sequence[PilotRun]) -> dict[tuple[str, float, float], list[float]]:
    """Ln gains by candidate, size and tokens, one per seed that both arms have."""
    alone = {(r.params, r.tokens, r.seed): r.loss for r in runs if r.candidate == NONE}
    found: dict[tuple[str, float, float], list[float]] = {}
    for run in runs:
        own = alone.get((run.params, run.tokens, run.seed))
        if run.candidate != NONE and own is not None and math.isfinite(own) and math.isfinite(run.loss):
            found.setdefault((run.candidate, run.params, run.tokens), []).append(math.log(own / run.loss))
    return found
