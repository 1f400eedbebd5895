"""Is each arm tuned: its rate at both ends of its budgets, its batch, and are there enough steps at the smallest?

The best rate falls with the tokens of a run, faster without a teacher than with one (docs/rates.md): an arm whose rate
suits its shortest runs alone loses the comparison at the longest. Runs at other rates say by how much, whoever asked
for them: the search's own, or a control's.
"""

import math
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import numpy as np

from distillaw.controls.control import LEAST_STEPS, Control
from distillaw.controls.study_runs import Place, StudyRuns
from distillaw.planning.decision import MARGIN
from distillaw.runs.record import Run, Search

RATE = Control(
    name="interior-rate",
    guards="an untuned rate fakes a capacity gap: students that train badly prefer easy teachers",
    remedy="let the search run: [tuning] enabled = true, more rounds, or peak_lr nearer the best value",
)
BATCH = Control(
    name="interior-batch",
    guards="a batch that suits one arm or size better than another is read as an effect of the teacher",
    remedy="search it ([tuning] batch = true), or start from another batch_tokens",
)
_AT = {"learning_rate": "", "horizon": " at the largest budget"}


def check_rate(runs: StudyRuns) -> Control:
    """The best rate lies between worse ones, at the end sizes and in both arms."""
    if missing := _unsearched(runs):
        return RATE.answer("not done", missing)
    searches = [search for search in runs.record.searches if search.what in _AT]
    numbers = {_name(search): _numbers(search) for search in searches if search.what == "learning_rate"}
    if at_end := [_name(search) + _AT[search.what] for search in searches if not search.interior]:
        words = f"the best rate lies at an end of what was tried: {', '.join(at_end)}"
        return RATE.answer("failed", words, arms=numbers)
    rates = ", ".join(f"{name} {found['best']:.3g}" for name, found in numbers.items())
    words = f"best rates between worse ones: {rates}; others by the law of the arm's searches"
    return RATE.answer("passed", words, arms=numbers)


def check_batch(runs: StudyRuns) -> Control:
    """The best batch lies between worse ones, or is the smallest there is."""
    if missing := _unsearched(runs):
        return BATCH.answer("not done", missing)
    searches = [search for search in runs.record.searches if search.what == "batch"]
    numbers = {_name(search): _numbers(search) for search in searches}
    if not searches or any(len(search.tried) < 2 for search in searches):
        best = runs.record.tuning.get("batch_tokens")
        words = f"the batch was not searched: every run has {best} tokens a step"
        return BATCH.answer("not done", words, arms=numbers)
    contexts = {run.number("context") for run in runs.record.students}
    off = {}
    for search in searches:
        lowest = min(search.tried, key=itemgetter(1))[0]
        # one sequence is the smallest batch there is
        if not search.interior and not contexts == {search.best} == {lowest}:
            off[_name(search)] = lowest
    if not off:
        words = f"best of its halves and doubles: {searches[0].best} tokens"
        return BATCH.answer("passed", words, arms=numbers)
    words = ", ".join(f"{name} would take {lowest}" for name, lowest in off.items())
    taken = numbers[next(iter(off))]["best"]
    return BATCH.answer("failed", f"the study has {taken} tokens a step; {words}", arms=numbers)


def _unsearched(runs: StudyRuns) -> str:
    """Why there is no answer; empty where there is."""
    arms = {search.arm for search in runs.record.searches}
    if not arms:
        return "no search was made" if runs.record.tuning else "no tuning.json in the folder"
    start = next((run.arm for run in runs.record.students), "fresh")
    alone, taught = ("supervised", "distilled") if start == "fresh" else (f"{start} alone", start)
    missing = [arm for arm in (alone, *[taught] * bool(runs.taught_by)) if arm not in arms]
    return f"no search in the {' and '.join(missing)} arm" if missing else ""


def _name(search: Search) -> str:
    return f"{search.size} {search.arm}"


def _numbers(search: Search) -> dict[str, Any]:
    """The best value, and the loss of each that was tried and did not diverge."""
    return {"best": search.best, "interior": search.interior, "tried": dict(search.tried)}


# --- the largest budget and the smallest --------------------------------------------------------------------


HORIZON = Control(
    name="horizon",
    guards="the best rate falls with the horizon, faster in one arm than in another: an untuned arm loses unseen",
    remedy='let the search check it: [tuning] horizon = "target" (or "ends"), with more rounds where the best value '
    "lies at an end",
)
STEPS = Control(
    name="steps",
    guards="short runs are dominated by warm-up and cooldown, and batches by their noise: they are another regime",
    remedy="a smaller batch_tokens, or more tokens in the smallest budget",
)
ARMS = {"alone": "alone", "taught": "from a teacher", "teacher": "of a teacher"}


def check_steps(runs: StudyRuns) -> Control:
    """At least 800 optimiser steps at the smallest token count."""
    steps = [
        n if math.isfinite(n := run.number("steps")) else run.tokens / run.number("batch_tokens")
        for run in runs.record.students
    ]
    least = min(filter(math.isfinite, steps), default=None)
    if least is None:
        return STEPS.answer("not done", "the table says neither steps nor batch")
    words = f"{least:,.0f} steps in the shortest run; {LEAST_STEPS} are wanted"
    return STEPS.answer("passed" if least >= LEAST_STEPS else "failed", words, least=least)


def check_horizon(runs: StudyRuns) -> Control:
    """At the largest budget of each arm no other rate is better by more than the margin of a verdict."""
    places: list[tuple[str, Place, dict]] = [
        (role, place, row)
        for role in ("student", "teacher")
        for place, by_rate in runs.other_rates(role).items()
        if (row := _excess(runs, role, place, by_rate)) is not None
    ]
    found = [row for _, _, row in places]
    numbers = {"excess": found}
    lost = [row for row in found if row["branch_minus_best"]["mean"] > row["margin"]]
    if lost:
        return HORIZON.answer("failed", "; ".join(map(_words, lost)), **numbers)
    covered = set()
    for role, (params, tokens, teacher), row in places:
        largest = max(d for n, d, t in runs.own(role) if (n, t) == (params, teacher))
        if tokens == largest and min(row["tried"]) < 1 < max(row["tried"]):
            covered.add(row["arm"])
    seen = [_words(max(found, key=lambda row: row["branch_minus_best"]["mean"] / row["loss"]))] if found else []
    if missing := [words for arm, words in ARMS.items() if arm not in covered and _exists(runs, arm)]:
        lacking = "no runs at lower and higher rates at the largest tokens " + ", nor ".join(missing)
        return HORIZON.answer("not done", "; ".join([lacking, *seen]), **numbers)
    return HORIZON.answer("passed", "; ".join(seen), **numbers)


def _exists(runs: StudyRuns, arm: str) -> bool:
    if arm == "teacher":
        teachers = runs.record.teachers.values()
        return any(run.folder is not None or "train_flops" in run.row for run in teachers)
    return any(bool(teacher) == (arm == "taught") for _, _, teacher in runs.grid)


def _excess(
    runs: StudyRuns, role: str, place: Place, by_rate: Mapping[float, Mapping[int, Run]]
) -> dict[str, Any] | None:
    """What another rate saves at a place; rates as multiples of the run's own, losses in nats/token."""
    branch = runs.own(role)[place]
    differences = {rate: runs.difference(branch, seeds) for rate, seeds in by_rate.items()}
    known = {rate: difference for rate, difference in differences.items() if difference is not None}
    if not known:
        return None
    rate = next(iter(branch.values())).branch_lr
    best = max(known, key=lambda other: known[other].mean)
    loss, name = float(np.mean([run.loss for run in branch.values()])), runs.place_name(place)
    return {
        "arm": "teacher" if role == "teacher" else "taught" if place[2] else "alone",
        "where": name.replace(" alone", " teacher") if role == "teacher" else name,
        "loss": loss,
        "best_multiple": best / rate,
        "tried": [other / rate for other in known],
        "branch_minus_best": known[best].to_json(),
        "margin": max(MARGIN * loss, known[best].se),  # of a verdict
    }


def _words(row: Mapping[str, Any]) -> str:
    found, multiple = row["branch_minus_best"], row["best_multiple"]
    low, high = found["interval"]
    unpaired = "" if found["paired"] else " (unpaired)"
    interval = f"{found['mean']:.3f} [{low:.3f}, {high:.3f}] nats{unpaired}"
    if found["mean"] <= 0:
        return f"no other rate is better (nearest: {row['where']}, x{multiple:.2g} by {interval})"
    return f"{row['where']}: x{multiple:.2g} the rate is better by {interval}, margin {row['margin']:.3f}"
