"""Is a gain of distilling more than what the teacher's text, or its compute, would have given the student alone?

Three answers, from the strictest control to the cheapest: the student trained alone on the union of both texts; the
student of a teacher that has read nothing but the student's own text; the student alone with the FLOP of everything,
the teacher's training included.
"""

from collections.abc import Mapping

import numpy as np

from distillaw.controls.control import Control, Status, worst
from distillaw.controls.study_runs import Difference, Place, StudyRuns
from distillaw.planning.arms import ArmPoint, MeasuredArm
from distillaw.planning.measured import DistilledPoint, MeasuredPoint, measure_gain
from distillaw.quantities import format_flop
from distillaw.runs.record import Run, budget_text, is_near

UNION = Control(
    name="union",
    guards="a teacher brings its text along: the gain may be no more than training on more text gives",
    remedy='add [[cells]] with split = "union", teachers = ["none"] and tokens = student tokens + teacher tokens',
    concerns=("gains",),
)
SEEN = Control(
    name="seen-text",
    guards="with a teacher of other text, what the text adds and what the teacher adds cannot be told apart",
    remedy='add a [[teachers]] entry with split = "student" and [[cells]] with its students',
    concerns=("gains",),
)
FLOP = Control(
    name="equal-flop",
    guards="a gain at equal tokens may cost more FLOP than it is worth",
    remedy="say for whom the teacher is free, or train the student alone on the tokens that the same FLOP buys",
    concerns=("gains",),
)
SAME_TOKENS = 0.02
"""Token counts that differ by less than this share are meant to be equal: runs have whole batches."""


def _sign(low: float, high: float) -> Status:
    """Whether a gain is surely positive."""
    return "passed" if low > 0 else "failed" if high < 0 else "undecided"


def _gain_words(found: Difference) -> str:
    low, high = found.interval()
    return f"{found.mean:+.3f} [{low:+.3f}, {high:+.3f}] nats{'' if found.is_paired else ' (unpaired)'}"


# --- the union of both texts ------------------------------------------------------------------------------------------


def check_union(runs: StudyRuns) -> Control:
    """Students of the best teacher beat the same student trained alone on their own text and that teacher's."""
    if not runs.taught_by:
        return UNION.answer("not applicable", "no student has a teacher")
    unions = _unions(runs)
    found = [gains for size, union in unions.items() if (gains := _against(runs, size, union))]
    if not found:
        other = "union runs have other token counts than student + teacher"
        return UNION.answer("not done", (other if unions else "no student read the union") + _stand_in(runs))
    best = [max(gains.items(), key=lambda item: item[1].mean) for gains in found]
    place, least = min(best, key=lambda item: item[1].mean)
    words = f"{runs.place_name(place)} gains {_gain_words(least)} over training alone on both texts"
    numbers = {runs.place_name(place): gain.to_json() for gains in found for place, gain in gains.items()}
    return UNION.answer(worst(_sign(*gain.interval()) for _, gain in best), words, gains=numbers)


def _unions(runs: StudyRuns) -> dict[tuple[int, int], dict[int, Run]]:
    """Students that read the union without a teacher: (params, tokens) -> seed -> run."""
    found: dict[tuple[int, int], dict[int, Run]] = {}
    for run in runs.record.runs:
        if run.row.get("role") == "student" and run.row.get("split") == "union" and run.teacher_run is None:
            found.setdefault((run.params, run.tokens), {})[run.seed] = run
    return found


def _against(runs: StudyRuns, size: tuple[int, int], union: Mapping[int, Run]) -> dict[Place, Difference]:
    """Gains over one union run: of the students whose tokens and whose teacher's add up to its own."""
    found = {}
    for place, seeds in runs.grid.items():
        params, tokens, teacher = place
        known = runs.record.every_teacher.get(teacher)
        if params != size[0] or known is None:
            continue
        if is_near(tokens + known.tokens, size[1], within=SAME_TOKENS):
            gain = runs.difference(union, seeds, is_paired=False)
            if gain is not None:
                found[place] = gain
    return found


def _stand_in(runs: StudyRuns) -> str:
    """What the student's own curve says meanwhile: text of one kind, split at random, is as good as the teacher's."""
    best = _best(runs)
    if best is None or (known := runs.record.every_teacher.get(best[1].teacher_run)) is None:
        return ""
    tokens = best[0].tokens + known.tokens
    gain = _gain_over_alone(runs, *best, tokens)
    if gain is None:
        return ""
    name = runs.place_name((best[0].params, best[0].tokens, best[1].teacher_run))
    return f" (on the student's own curve, {name} gains {_gain_words(gain)} over {budget_text(tokens)} tokens alone)"


# --- a teacher of the student's own text ------------------------------------------------------------------------------


def check_seen(runs: StudyRuns) -> Control:
    """Students gain from a teacher that has read their own text and nothing of another half."""
    if not runs.taught_by:
        return SEEN.answer("not applicable", "no student has a teacher")
    found = _seen(runs)
    if not found:
        return SEEN.answer("not done", "no teacher read the student's own text")
    place, gain = max(found.items(), key=lambda item: item[0][1])  # most of its teacher's text read
    words = f"{runs.place_name(place)} gains {_gain_words(gain)} over training alone"
    read = runs.record.every_teacher[place[2]].tokens
    if read > place[1] * (1 + SAME_TOKENS):
        words += f" (its teacher read {budget_text(read)} tokens, the student's and more of that half)"
    numbers: dict[str, object] = {"gains": {runs.place_name(p): g.to_json() for p, g in found.items()}}
    if (apart := _twin(runs, place)) is not None:
        words += f"; against the like teacher of other text {_gain_words(apart)}"
        numbers["against_disjoint_teacher"] = apart.to_json()
    return SEEN.answer(_sign(*gain.interval()), words, **numbers)


def _students_of(runs: StudyRuns, place: Place) -> dict[int, Run]:
    """Runs at a place, controls included: settings as the grid's, text its teacher's."""
    students = [run for run in runs.record.runs if run.row.get("role") == "student"]
    return {run.seed: run for run in students if (run.params, run.tokens, run.teacher_run or "") == place}


def _seen(runs: StudyRuns) -> dict[Place, Difference]:
    """Gains over training alone from teachers of the student's half."""
    found = {}
    teachers = {t for t, run in runs.record.every_teacher.items() if run.row.get("split") == "student"}
    places = {(r.params, r.tokens, r.teacher_run or "") for r in runs.record.runs if r.teacher_run in teachers}
    for place in sorted(places):
        alone = runs.grid.get((place[0], place[1], ""))
        gain = runs.difference(alone, _students_of(runs, place)) if alone else None
        if gain is not None:
            found[place] = gain
    return found


def _twin(runs: StudyRuns, place: Place) -> Difference | None:
    """Gain over the student of the teacher of equal size and tokens that read the other half."""
    seen = runs.record.every_teacher[place[2]]
    for teacher in runs.taught_by:
        other = runs.record.every_teacher.get(teacher)
        same = other is not None and (other.params, other.tokens) == (seen.params, seen.tokens)
        if same and (seeds := runs.grid.get((place[0], place[1], teacher))):
            return runs.difference(seeds, _students_of(runs, place))
    return None


# --- the FLOP of everything -------------------------------------------------------------------------------------------


def check_flop(runs: StudyRuns) -> Control:
    """At the target, the best teacher's student beats the student alone given the FLOP of both trainings."""
    best = _best(runs)
    if best is None:
        return FLOP.answer("not applicable", "no student has a teacher")
    whole, own = _equal_tokens(runs, *best, with_teacher=True), _equal_tokens(runs, *best, with_teacher=False)
    if whole is None or own is None:
        return FLOP.answer("not done", "the FLOP of the teacher's training is not known")
    cell, taught = best
    name = runs.place_name((cell.params, cell.tokens, taught.teacher_run))
    numbers: dict[str, object] = {"where": name, "tokens_alone": whole, "tokens_alone_teacher_free": own}
    free = _gain_over_alone(runs, *best, own)
    if free is not None:
        numbers["gain_teacher_free"] = free.to_json()
    said = "" if free is None else f"; {_gain_words(free)} if the teacher's training is free"
    arm, point = runs.arms(cell.params)[0], _alone_at(runs, cell, whole)
    cost = format_flop(whole * arm.student_flop_per_token)
    gain = _gain_over_alone(runs, *best, whole)
    if gain is None or point is None:
        reach = budget_text(max(arm.runs))
        words = f"{cost} give the student alone {budget_text(whole)} tokens, and it was run to {reach}"
        return FLOP.answer("not done", words + said, **numbers)
    words = f"{name} gains {_gain_words(gain)} over {budget_text(whole)} tokens alone ({cost}, {point.basis})"
    return FLOP.answer(_sign(*gain.interval()), words + said, **numbers, gain=gain.to_json())


def _best(runs: StudyRuns) -> tuple[MeasuredPoint, DistilledPoint] | None:
    """The target cell with its best teacher."""
    cell = runs.target()
    return None if cell is None or cell.best is None else (cell, cell.best)


def _arm(runs: StudyRuns, cell: MeasuredPoint, taught: DistilledPoint) -> MeasuredArm:
    arms = runs.arms(cell.params)
    return next(a for a in arms if a.teacher is not None and a.teacher.run_id == taught.teacher_run)


def _equal_tokens(runs: StudyRuns, cell: MeasuredPoint, taught: DistilledPoint, *, with_teacher: bool) -> float | None:
    """Tokens that the student alone gets for the FLOP of distilling; None where they are not known."""
    arm = _arm(runs, cell, taught)
    assert arm.teacher is not None
    training = arm.teacher.number("train_flops") if with_teacher else 0.0
    total = (arm.student_flop_per_token + arm.logit_flop_per_token) * cell.tokens + training
    return total / runs.arms(cell.params)[0].student_flop_per_token if np.isfinite(total) else None


def _alone_at(runs: StudyRuns, cell: MeasuredPoint, tokens: float) -> ArmPoint | None:
    """The student without a teacher at a token count: measured within 5 %, between its budgets, or not far beyond."""
    arm = runs.arms(cell.params)[0]
    near = [budget for budget in arm.runs if is_near(budget, tokens, within=0.05)]
    return arm.at(near[0] if near else tokens)


def _gain_over_alone(runs: StudyRuns, cell: MeasuredPoint, taught: DistilledPoint, tokens: float) -> Difference | None:
    """Gain of a taught student over the student alone on other tokens, with the doubt of its curve."""
    alone, point = _alone_at(runs, cell, tokens), _arm(runs, cell, taught).at(cell.tokens)
    if alone is None or point is None:
        return None
    gain = measure_gain(runs.record, alone, [point], rng=np.random.default_rng(0), draws=10)
    if gain is None:
        return None
    posterior = gain.posterior
    return Difference(
        mean=float(posterior.estimate[0]),
        se=float(posterior.se[0]),
        dof=posterior.dof,
        seeds=len(alone.seeds & point.seeds),
        is_paired=gain.is_paired,
    )
