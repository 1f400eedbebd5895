"""Is each arm tuned: its rate at both ends of its budgets, its batch, and are there enough steps at the smallest?

The best rate falls with the tokens of a run, faster without a teacher than with one (docs/rates.md): an arm whose rate
suits its shortest runs alone loses the comparison at the longest. Runs at other rates say by how much, whoever asked
for them: the search's own, or a control's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.controls.control import LEAST_STEPS, About, Control
from distillaw.controls.study_runs import Difference, Place, StudyRuns
from distillaw.planning.decision import MARGIN
from distillaw.runs.record import Run

RATE = About(
    name="interior-rate",
    guards="an untuned rate fakes a capacity gap: students that train badly prefer easy teachers",
    remedy="let the search run: [tuning] enabled = true, more rounds, or peak_lr nearer the best value",
)
BATCH = About(
    name="interior-batch",
    guards="a batch that suits one arm or size better than another is read as an effect of the teacher",
    remedy="search it ([tuning] batch = true), or start from another batch_tokens",
)


_AT = {"learning_rate": "", "horizon": " at the largest budget"}


def check_rate(runs: StudyRuns) -> Control:
    """The best rate lies between worse ones, at the end sizes and in both arms."""
    arms = _arms(runs)
    if (missing := _unsearched(runs, arms)) is not None:
        return RATE.control("not done", missing)
    searched = [arm for arm in arms if "learning_rate" in arm]
    ends = [(arm, what) for arm in arms for what in ("learning_rate", "horizon") if what in arm]
    at_end = [_name(arm) + _AT[what] for arm, what in ends if not _search(arm, what).get("interior")]
    numbers = {_name(arm): _numbers(arm, "learning_rate", "peak_lr") for arm in searched}
    if at_end:
        return RATE.control(
            "failed", f"the best rate lies at an end of what was tried: {', '.join(at_end)}", arms=numbers
        )
    rates = ", ".join(f"{name} {found['best']:.3g}" for name, found in numbers.items())
    return RATE.control(
        "passed",
        f"best rates between worse ones: {rates}; others by the law of the arm's searches",
        arms=numbers,
    )


def check_batch(runs: StudyRuns) -> Control:
    """The best batch lies between worse ones, or is the smallest there is."""
    arms = _arms(runs)
    if (missing := _unsearched(runs, arms)) is not None:
        return BATCH.control("not done", missing)
    arms = [arm for arm in arms if "batch" in arm]
    numbers = {_name(arm): _numbers(arm, "batch", "batch_tokens") for arm in arms}
    if not arms or any(len(_tried(arm, "batch")) < 2 for arm in arms):
        best = runs.record.tuning.get("batch_tokens")
        return BATCH.control(
            "not done", f"the batch was not searched: every run has {best} tokens a step", arms=numbers
        )
    off = [arm for arm in arms if not _is_inside(runs, arm)]
    if not off:
        return BATCH.control(
            "passed",
            f"best of its halves and doubles: {_search(arms[0], 'batch')['best']} tokens",
            arms=numbers,
        )
    words = ", ".join(f"{_name(arm)} would take {_lowest(arm)}" for arm in off)
    return BATCH.control(
        "failed", f"the study has {_search(off[0], 'batch').get('best')} tokens a step; {words}", arms=numbers
    )


def _arms(runs: StudyRuns) -> list[Mapping]:
    found = runs.record.tuning.get("arms")
    return [arm for arm in found if isinstance(arm, Mapping)] if isinstance(found, Sequence) else []


def _unsearched(runs: StudyRuns, arms: Sequence[Mapping]) -> str | None:
    """Why there is no answer, or None."""
    if not arms:
        return "no search was made" if runs.record.tuning else "no tuning.json in the folder"
    wanted = ["supervised"] + ["distilled"] * bool(runs.taught_by)
    missing = [arm for arm in wanted if all(a.get("arm") != arm for a in arms)]
    return f"no search in the {' and '.join(missing)} arm" if missing else None


def _name(arm: Mapping) -> str:
    return f"{arm.get('size', arm.get('params'))} {arm.get('arm')}"


def _search(arm: Mapping, what: str) -> Mapping:
    found = arm.get(what)
    return found if isinstance(found, Mapping) else {}


def _tried(arm: Mapping, what: str) -> list[Mapping]:
    """Points whose run did not diverge."""
    return [point for point in _search(arm, what).get("grid", ()) if point.get("loss") is not None]


def _numbers(arm: Mapping, what: str, key: str) -> dict[str, object]:
    tried = {point[key]: point["loss"] for point in _tried(arm, what)}
    best = _search(arm, what).get("best")
    return {"best": best, "interior": bool(_search(arm, what).get("interior")), "tried": tried}


def _is_inside(runs: StudyRuns, arm: Mapping) -> bool:
    """Whether the study's batch is the best for this arm, by the rule that chose it."""
    one_sequence = {run.number("context") for run in runs.record.students} == {
        _search(arm, "batch").get("best")
    }
    lowest = _lowest(arm)
    return bool(_search(arm, "batch").get("interior")) or (
        one_sequence and lowest == _search(arm, "batch")["best"]
    )


def _lowest(arm: Mapping) -> object:
    return min(_tried(arm, "batch"), key=lambda point: point["loss"])["batch_tokens"]


# --- the largest budget and the smallest --------------------------------------------------------------------


HORIZON = About(
    name="horizon",
    guards="the best rate falls with the horizon, faster in one arm than in another: an untuned arm loses unseen",
    remedy='let the search check it: [tuning] horizon = "target" (or "ends"), with more rounds where the best value '
    "lies at an end",
)
STEPS = About(
    name="steps",
    guards="short runs are dominated by warm-up and cooldown, and batches by their noise: they are another regime",
    remedy="a smaller batch_tokens, or more tokens in the smallest budget",
)
ARMS = {"alone": "alone", "taught": "from a teacher", "teacher": "of a teacher"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """What another rate saves at one place."""

    arm: str
    """A key of `ARMS`."""
    place: Place
    where: str
    loss: float
    """Of the study's own run, nats/token."""
    best: float
    """The other rate that did best, as a multiple of the run's."""
    tried: tuple[float, ...]
    difference: Difference
    """The run minus the best other rate; positive where it loses."""
    is_largest: bool
    """Whether the place is the largest budget of its arm's size."""

    @property
    def margin(self) -> float:
        """What counts as a gain: the margin of a verdict, nats/token."""
        return max(MARGIN * self.loss, self.difference.se)

    @property
    def brackets(self) -> bool:
        """Whether rates on both sides of the run's were tried."""
        return min(self.tried) < 1 < max(self.tried)

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "arm": self.arm,
            "where": self.where,
            "loss": self.loss,
            "best_multiple": self.best,
            "tried": list(self.tried),
            "branch_minus_best": self.difference.to_json(),
            "margin": self.margin,
        }


def check_steps(runs: StudyRuns) -> Control:
    """At least 800 optimiser steps at the smallest token count."""
    steps = {run.run_id: _steps(run) for run in runs.record.students}
    known = {run_id: n for run_id, n in steps.items() if math.isfinite(n)}
    if not known:
        return STEPS.control("not done", "the table says neither steps nor batch")
    least = min(known.values())
    return STEPS.control(
        "passed" if least >= LEAST_STEPS else "failed",
        f"{least:,.0f} steps in the shortest run; {LEAST_STEPS} are wanted",
        least=least,
    )


def _steps(run: Run) -> float:
    steps = run.number("steps")
    return steps if math.isfinite(steps) else run.tokens / run.number("batch_tokens")


def check_horizon(runs: StudyRuns) -> Control:
    """At the largest budget of each arm no other rate is better by more than the margin of a verdict."""
    found = _excesses(runs)
    numbers = {"excess": [one.to_json() for one in found]}
    lost = [one for one in found if one.difference.mean > one.margin]
    if lost:
        return HORIZON.control("failed", "; ".join(map(_words, lost)), **numbers)
    wanted = [arm for arm in ARMS if _exists(runs, arm)]
    covered = {one.arm for one in found if one.is_largest and one.brackets}
    seen = [_words(max(found, key=lambda one: one.difference.mean / one.loss))] if found else []
    if missing := [ARMS[arm] for arm in wanted if arm not in covered]:
        lacking = "no runs at lower and higher rates at the largest tokens " + ", nor ".join(missing)
        return HORIZON.control("not done", "; ".join([lacking, *seen]), **numbers)
    return HORIZON.control("passed", "; ".join(seen), **numbers)


def _exists(runs: StudyRuns, arm: str) -> bool:
    if arm == "teacher":
        return any(
            run.folder is not None or "train_flops" in run.row for run in runs.record.teachers.values()
        )
    return any(bool(teacher) == (arm == "taught") for _, _, teacher in runs.grid)


def _excesses(runs: StudyRuns) -> list[Excess]:
    """Every place with runs at other rates, of students and of teachers."""
    found = []
    for role, own in (("student", runs.grid), ("teacher", runs.teacher_grid)):
        for place, by_rate in runs.other_rates(role).items():
            if (one := _excess(runs, role, place, own, by_rate)) is not None:
                found.append(one)
    return found


def _excess(
    runs: StudyRuns,
    role: str,
    place: Place,
    own: Mapping[Place, Mapping[int, Run]],
    by_rate: Mapping[float, Mapping[int, Run]],
) -> Excess | None:
    branch = own[place]
    differences = {rate: runs.difference(branch, seeds) for rate, seeds in by_rate.items()}
    known = {rate: d for rate, d in differences.items() if d is not None}
    if not known:
        return None
    rate = next(iter(branch.values())).branch_lr
    best = max(known, key=lambda other: known[other].mean)
    largest = max(tokens for params, tokens, teacher in own if (params, teacher) == (place[0], place[2]))
    name = runs.place_name(place)
    return Excess(
        arm="teacher" if role == "teacher" else "taught" if place[2] else "alone",
        place=place,
        where=name.replace(" alone", " teacher") if role == "teacher" else name,
        loss=float(np.mean([run.loss for run in branch.values()])),
        best=best / rate,
        tried=tuple(other / rate for other in known),
        difference=known[best],
        is_largest=place[1] == largest,
    )


def _words(one: Excess) -> str:
    """What another rate saves at a place."""
    low, high = one.difference.interval()
    unpaired = "" if one.difference.is_paired else " (unpaired)"
    interval = f"{one.difference.mean:.3f} [{low:.3f}, {high:.3f}] nats{unpaired}"
    if one.difference.mean <= 0:
        return f"no other rate is better (nearest: {one.where}, x{one.best:.2g} by {interval})"
    return f"{one.where}: x{one.best:.2g} the rate is better by {interval}, margin {one.margin:.3f}"
