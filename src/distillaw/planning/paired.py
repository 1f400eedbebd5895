"""The headline evidence of a small study: runs at the target with and without a teacher, compared in pairs."""

import math
from collections.abc import Sequence

import numpy as np

from distillaw.planning.arms import REACH, ArmPoint, MeasuredArm, student_arms, teacher_name
from distillaw.planning.bills import bill, tokens_for
from distillaw.planning.evidence import IS_PAIRED, Crossover, Evidence, Interval, Strategy, band_of, crossings
from distillaw.planning.gains import GainBelief
from distillaw.planning.measured import MeasuredGain, loss_interval, measure_gain
from distillaw.planning.situation import Situation, Teacher
from distillaw.quantities import format_count
from distillaw.runs.record import NO_BASELINE, Run, StudyRecord, budget_text

SOURCE = "paired runs of this study"
UNPAIRED_SOURCE = "measured runs of this study"
SEED_SOURCES = {
    "cell": "seed noise measured at this cell",
    "study": "seed noise borrowed from repeated cells elsewhere in this study",
    "arm": "seed noise from repeats of one arm alone, an upper bound",
    "assumed": "no cell was repeated, 0.3 % of the loss per run is assumed for seed noise",
}


def paired_evidence(
    situation: Situation, record: StudyRecord, teachers: Sequence[Teacher], *, level: float, rng: np.random.Generator
) -> Evidence:
    """What the study measured at the target, or why it is silent; teachers that are not its own are not answered."""
    if situation.student_params is None:
        return _silent("NOT_RUN", "the student's size is free; runs speak for the sizes that were run")
    arms = student_arms(record, situation.student_params)
    if arms and record.lacks_baseline:
        return _silent("NOT_PAIRED", NO_BASELINE)
    if not arms or arms[0].teacher is not None:
        sizes = ", ".join(sorted({format_count(run.params) for run in record.students})) or "none"
        return _silent("NOT_RUN", f"no student of this size was trained without a teacher (sizes run: {sizes})")
    wanted: dict[str | None, Teacher] = {t.run_id: t for t in teachers if t.run_id is not None}
    if not any(arm.teacher is not None and arm.teacher.run_id in wanted for arm in arms):
        return _silent("NOT_RUN", "this student was not distilled from the teachers considered")
    points = _points(situation, arms, wanted)
    if points is None or not points[1]:
        budgets = ", ".join(budget_text(b) for b in arms[0].runs)
        return _silent(
            "NOT_RUN", f"no pair within reach of the tokens asked for (this student was run on {budgets} tokens)"
        )
    gain = measure_gain(record, *points, rng=rng)
    if gain is None:
        return _silent("NOT_PAIRED", "runs with and without a teacher share no seed, so no pair exists")
    return _evidence(situation, arms, wanted, gain, record, level=level, rng=rng)


def _silent(status: str, note: str) -> Evidence:
    return Evidence(source=SOURCE, kind="measured", status=status, note=note)


def _points(
    situation: Situation, arms: Sequence[MeasuredArm], wanted: dict[str | None, Teacher]
) -> tuple[ArmPoint, list[ArmPoint]] | None:
    """The baseline and the candidates, each at the tokens that the situation gives it."""
    assert situation.student_params is not None
    own = tokens_for(situation, situation.student_params, None)
    baseline = arms[0].at(own) if own is not None else None
    if baseline is None:
        return None
    candidates = []
    for arm in arms[1:]:
        teacher = wanted.get(arm.teacher.run_id) if arm.teacher else None
        tokens = tokens_for(situation, situation.student_params, teacher) if teacher else None
        if tokens is not None and (point := arm.at(tokens)) is not None:
            candidates.append(point)
    return baseline, candidates


def _evidence(
    situation: Situation,
    arms: Sequence[MeasuredArm],
    wanted: dict[str | None, Teacher],
    gain: MeasuredGain,
    record: StudyRecord,
    *,
    level: float,
    rng: np.random.Generator,
) -> Evidence:
    share = gain.posterior.share_best()
    teachers = [wanted[point.arm.teacher.run_id] for point in gain.candidates if point.arm.teacher is not None]
    rows = tuple(
        _row(situation, point, teacher, gain, level, gain=gain.interval(j, level), share=float(share[j]))
        for j, (point, teacher) in enumerate(zip(gain.candidates, teachers, strict=True))
    )
    best = gain.candidates[gain.posterior.best]
    bases = {best.basis, gain.baseline.basis}
    status = "PAIRED" if gain.is_paired else "UNPAIRED"
    source = SOURCE if gain.is_paired else UNPAIRED_SOURCE
    return Evidence(
        source=source,
        kind="measured",
        status="SEED_NOISE_UNKNOWN" if gain.noise.source == "assumed" else status,
        note=_note(gain, bases),
        is_decisive=True,
        inside_range="extrapolated" not in bases,
        pretrain=_row(situation, gain.baseline, None, gain, level),
        alternatives=rows,
        posterior=gain.posterior,
        beliefs=_beliefs(gain),
        noise=gain.paired_se(gain.posterior.best),
        warnings=tuple(_warnings(gain, bases)),
        crossover=_crossover(record, arms, best, source=source, level=level, rng=rng),
        details={
            "seed_sd": gain.noise.sd,
            "seed_sd_seen": gain.noise.seen,
            "seed_dof": gain.noise.dof,
            "seed_source": gain.noise.source,
            "seeds_baseline": len(gain.baseline.seeds),
            "seeds_best": len(best.seeds),
            "document_se": gain.document_se(gain.posterior.best),
            "other_doubt": math.hypot(best.sd, gain.baseline.sd),
            IS_PAIRED: gain.is_paired,
        },
    )


def _beliefs(gain: MeasuredGain) -> tuple[GainBelief, ...]:
    """The posterior as one t density per candidate: its mean, and the scale that its spread implies without rates."""
    dof = min(max(gain.posterior.dof, 3.0), 1e6)
    shrink = math.sqrt((dof - 2) / dof)  # the variance of a t is dof / (dof - 2) times its squared scale
    draws, found = gain.posterior.draws, []
    for j, point in enumerate(gain.candidates):
        rates = math.hypot(point.rate_sd, gain.baseline.rate_sd)
        rest = max(float(draws[:, j].var()) - rates**2, gain.paired_se(j) ** 2)
        scale = shrink * math.sqrt(rest)
        found.append(GainBelief(centres=draws[:, j].mean(keepdims=True), scale=scale, dof=dof, rates=rates))
    return tuple(found)


def _note(gain: MeasuredGain, bases: set[str]) -> str:
    best = gain.candidates[gain.posterior.best]
    pairs = len(best.seeds & gain.baseline.seeds)
    how = "measured" if bases == {"measured"} else " and ".join(sorted(bases - {"measured"}))
    seeds = f"{pairs} seed{'s' * (pairs != 1)}"
    said = f"{seeds} in pairs" if gain.is_paired else f"{seeds} with and without the teacher, compared as independent"
    return f"{how}, {said}; {SEED_SOURCES[gain.noise.source]}{_rate_note(gain)}"


def _rate_note(gain: MeasuredGain) -> str:
    """Said among the first lines: arms whose rate nobody checked at this budget, and what that may be worth."""
    points = (gain.baseline, gain.candidates[gain.posterior.best])
    unchecked = [p for p in points if p.arm.rate is not None and not p.arm.rate.reaches(p.tokens)]
    if not unchecked:
        return ""
    parts = [
        f"{'training alone' if p.arm.teacher is None else p.arm.name} may lose {p.arm.rate.at(p.tokens):.3f} nats to "
        "its learning rate, "
        + (f"last checked at {budget_text(p.arm.rate.checked)} tokens" if p.arm.rate.is_checked else "never checked")
        for p in unchecked
        if p.arm.rate is not None
    ]
    return f"; RATE_NOT_CHECKED: {'; '.join(parts)}"


def _warnings(gain: MeasuredGain, bases: set[str]) -> list[str]:
    found = []
    if gain.noise.source == "assumed":
        found.append("SEED_NOISE_UNKNOWN: no cell was run with a second seed; the interval assumes 0.3 % of the loss")
    if not gain.is_paired:
        found.append("per-document losses are missing: runs were compared as if independent, which is far wider")
    if "extrapolated" in bases:
        found.append(
            "beyond the largest budget that was run: drawn on by curves of its kind, with doubt; at most "
            f"{REACH:g} times"
        )
    return found


def _row(
    situation: Situation,
    point: ArmPoint,
    teacher: Teacher | None,
    measured: MeasuredGain,
    level: float,
    *,
    gain: Interval | None = None,
    share: float | None = None,
) -> Strategy:
    size = situation.student_params
    assert size is not None
    return Strategy(
        kind="pretrain" if teacher is None else "distil",
        teacher=teacher,
        student_params=size,
        student_tokens=point.tokens,
        compute=bill(situation, size, point.tokens, teacher),
        loss=loss_interval(point, measured.noise, level=level),
        basis=point.basis,
        teacher_loss=None if teacher is None else teacher.loss,
        gain=gain,
        share_best=share,
        run_ids=point.run_ids,
    )


def _crossover(
    record: StudyRecord,
    arms: Sequence[MeasuredArm],
    best: ArmPoint,
    *,
    source: str,
    level: float,
    rng: np.random.Generator,
) -> Crossover | None:
    """Where the gain of the chosen teacher reaches zero over the budgets that were run, drawn on by `REACH`."""
    arm = best.arm
    run = [float(b) for b in sorted(arms[0].runs.keys() & arm.runs.keys())]
    if len(run) < 2:
        return None
    budgets, draws = [*run, REACH * run[-1]], []
    for budget in budgets:
        ends = arms[0].at(budget), arm.at(budget)
        found = measure_gain(record, ends[0], [ends[1]], rng=rng) if ends[0] and ends[1] else None
        if found is not None:
            draws.append(found.posterior.draws[:, 0])
        elif budget > run[-1]:  # not every seed ran two budgets: nothing is said beyond them
            budgets.pop()
        else:
            return None
    crossed = crossings(np.array(budgets), np.stack(draws, axis=1))
    return band_of(crossed, (budgets[0], budgets[-1]), source, level)


def study_teachers(record: StudyRecord, student_params: float) -> tuple[Teacher, ...]:
    """The teachers that this student was distilled from, or all of the study's where it was not run."""
    arms = [arm for arm in student_arms(record, student_params) if arm.teacher is not None]
    if arms:
        return tuple(_as_teacher(arm.teacher, arm.name) for arm in arms if arm.teacher is not None)
    return tuple(study_teacher(record, run_id) for run_id in record.teachers)


def study_teacher(record: StudyRecord, run_id: str) -> Teacher:
    """One teacher of the study, with the loss it has on the study's held-out documents."""
    return _as_teacher(record.teachers[run_id], teacher_name(record, run_id))


def _as_teacher(run: Run, name: str) -> Teacher:
    def known(key: str) -> float | None:
        value = run.number(key)
        return value if math.isfinite(value) else None

    return Teacher(name=name, params=known("params"), tokens=known("tokens"), loss=known("loss"), run_id=run.run_id)


def study_prices(record: StudyRecord) -> dict[float, float]:
    """F(N), FLOP per token, as the runs counted it, by non-embedding size."""
    found = {float(run.params): run.number("train_flops") / run.tokens / 3 for run in record.runs}
    return {size: flop for size, flop in sorted(found.items()) if math.isfinite(flop) and flop > 0}
