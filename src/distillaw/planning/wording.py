"""The words of a verdict: sentence, reasons, what would flip it, what to run next. Every number comes from there.

No statistics here: decision.py and the evidence files have made all numbers before a word is written; but the cheapest
runs that would settle a verdict that is too close are priced where they are said (`next_runs`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from distillaw.planning.bills import bill
from distillaw.planning.caveats import assumptions, caveats
from distillaw.planning.decision import MARGIN, SURE, WORDS, Call, EqualCompute, StartCall, Supposed, leads_distilling
from distillaw.planning.evidence import UNSAID, Crossover, Evidence, Interval, Strategy
from distillaw.planning.gains import ASSUMED_DOF, ASSUMED_SEED_SD
from distillaw.planning.judging import Judged, Sources
from distillaw.planning.phrases import interval, say
from distillaw.planning.sensitivity import SwitchingValue
from distillaw.planning.situation import Situation
from distillaw.planning.voices import FITTED_DISCREPANCY
from distillaw.quantities import format_count, format_flop, format_seconds, times
from distillaw.runs.paired import t_quantile
from distillaw.runs.record import StudyRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Everything a verdict says in sentences."""

    sentence: str
    reasons: tuple[str, ...]
    flips_if: tuple[str, ...]
    """What would change the answer."""
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    next_runs: tuple[str, ...]
    next_command: str


def explain(
    judged: Judged,
    equal: EqualCompute | None,
    *,
    flips: Sequence[SwitchingValue],
    sources: Sources,
    supposed: Supposed | None = None,
    start: StartCall | None = None,
) -> Words:
    """Put a decision into words."""
    situation, evidence, headline, answer = judged.situation, judged.evidence, judged.headline, judged.call
    level = sources.level
    runs, command = next_runs(situation, headline, answer, sources.record)
    said = sentence(situation, headline, answer, level) + _but(answer, headline, equal)
    if (
        supposed is not None
    ):  # nobody should read a verdict on a teacher to be trained without what one at hand is worth
        is_better = supposed.call.verdict == "distil"
        said += say("with one", distil=supposed.call.distil) if is_better else say("nor with one")
    reasons = _reasons(evidence, headline, equal, level, supposed)
    if start is not None:
        compared = {"option": start.row.name, "other": start.other.name, "gain": start.gain, "share": start.pruned}
        reasons.append(say("better start", **compared))
    return Words(
        sentence=said,
        reasons=tuple(reasons),
        flips_if=tuple(_flips(headline, answer, equal, flips)),
        assumptions=tuple(assumptions(situation, evidence, headline, sources)),
        warnings=tuple(caveats(situation, evidence, headline, sources)),
        next_runs=tuple(runs),
        next_command=command,
    )


def sentence(situation: Situation, headline: Evidence, answer: Call, level: float) -> str:
    """The verdict in one sentence, with probability and interval."""
    gain = headline.gain(level)
    chances = {name: getattr(answer, name) for name in ("probability", "distil", "pretrain", "margin")}
    by = ""
    if headline.kind == "surrogate":  # a made-up set is all there is
        hangs = headline.details.get(UNSAID) and headline.is_decisive and answer.verdict == "too-close"
        by = say("by unsaid" if hangs else "by")
    said = {**chances, "by": by, "student": situation.student, "gain": stated(gain, level)}
    if answer.verdict == "distil":
        return say("distil", **said, option=headline.best.name)
    if answer.verdict == "pretrain":
        alone = headline.best_pretrain
        option = alone.name if alone.kind == "pretrain-larger" else say("alone")
        flipped = Interval(mean=-gain.mean, lower=-gain.upper, upper=-gain.lower)
        return say("pretrain", **(said | {"gain": stated(flipped, level)}), option=option)
    if not headline.is_decisive:
        return say("unknown", **said, source=headline.source, note=headline.note)
    leading = headline.best if leads_distilling(headline, answer) else headline.best_pretrain
    return say("too close", **said, leading=leading.name)


def _but(answer: Call, headline: Evidence, equal: EqualCompute | None) -> str:
    """Nobody should read the verdict without it: the same FLOP would give another answer, or one that nobody knows."""
    if equal is None:
        return ""
    if equal.call is None:
        alone = headline.best_pretrain.compute["total"]
        is_told = answer.verdict == "distil" and alone
        return say("more FLOP", ratio=equal.compute / alone) if is_told and alone else ""
    if equal.call.verdict == answer.verdict:
        return ""
    return say("at equal FLOP", words=WORDS[equal.call.verdict].at_equal_flop)


def stated(value: Interval, level: float) -> str:
    """`0.253 nats/token [0.236, 0.270] (90 % interval)`."""
    mean, band = interval(value).split(" ", 1)
    return say("stated", value=mean, band=band, level=100 * level)


def _reasons(
    evidence: Sequence[Evidence],
    headline: Evidence,
    equal: EqualCompute | None,
    level: float,
    supposed: Supposed | None,
) -> list[str]:
    best = headline.best
    how = "decided by" if headline.is_decisive else "shown"
    found = [say(how, source=headline.source, note=headline.note)]
    assert headline.pretrain is not None
    if supposed is not None and (there := supposed.row.teacher) is not None:
        trained = "" if there.tokens is None else say("trained on", tokens=there.tokens)
        found.append(say("supposed", teacher=there.called, trained=trained, gain=supposed.gain))
    if not headline.is_informative:
        return found
    alone = headline.best_pretrain.loss.mean
    assert best.teacher is not None
    teacher = best.teacher.called
    if best.teacher_loss is not None:
        teacher = say("teacher of loss", teacher=teacher, loss=best.teacher_loss)
    found.append(say("losses", distilled=best.loss.mean, teacher=teacher, alone=alone))
    judged = [row for row in headline.distil if not row.is_speculative]
    if best.share_best is not None and len(judged) > 1:
        which = "best of measured" if headline.kind == "measured" else "best of"
        found.append(say(which, count=len(judged), share=best.share_best))
    if equal is not None:
        found.append(equal_sentence(equal))
    band = headline.crossover
    if headline.is_decisive and band is not None:
        found.append(crossover_sentence(band, level))
    for other in evidence:
        if other.source != headline.source and other.speaks and other.is_decisive:
            found.append(say("put the gain", source=other.source, gain=other.gain(level)))
    return found


def equal_sentence(equal: EqualCompute) -> str:
    """What the same FLOP give, and by whose word."""
    spent = {"compute": equal.compute, "tokens": equal.pretrain_tokens, "basis": equal.basis}
    if equal.call is None or equal.gain is None:
        return say("equal unknown", **spent)
    return say("equal compute", **spent, still=WORDS[equal.call.verdict].still, gain=equal.gain)


def _flips(
    headline: Evidence, answer: Call, equal: EqualCompute | None, searched: Sequence[SwitchingValue]
) -> list[str]:
    """The nearest changes of input that change the answer."""
    if not headline.is_decisive:
        return [say("measured")]
    found = [flip.sentence for flip in searched]
    if equal is not None and equal.call is not None and equal.call.verdict != answer.verdict:
        words = WORDS[equal.call.verdict].then
        found.append(say("same FLOP", tokens=equal.pretrain_tokens, words=words, gain=equal.gain))
    if answer.verdict != "too-close":
        gain = abs(float(headline.gain_draws.mean()))
        found.append(say("did not matter", gain=gain, margin=answer.margin))
    return found


def crossover_sentence(band: Crossover, level: float) -> str:
    """Where training without a teacher catches up; or on which side of the budgets searched, and how often."""
    before, after = band.searched
    if band.median is not None:
        return say("catching up", caught_up=caught_up(band, level))
    if band.share_before > band.share_none:
        return say("ahead from", tokens=before, share=band.share_before, source=band.source)
    return say("not before", tokens=after, share=band.share_none, source=band.source)


def caught_up(band: Crossover, level: float) -> str:
    """`172B tokens [20B to beyond 20T, 90 % band], where training without a teacher catches up`, and how sure."""
    assert band.median is not None
    before, after = band.searched
    return say(
        "caught up",
        median=band.median,
        low=say("before", tokens=before) if band.lower is None else format_count(band.lower),
        high=say("beyond", tokens=after) if band.upper is None else format_count(band.upper),
        level=100 * level,
        none=say("none in", share=band.share_none) if band.share_none > 0.005 else "",
        source=band.source,
    )


SCALES = {100.0: "a hundredth", 30.0: "a thirtieth", 10.0: "a tenth", 3.0: "a third"}
"""Pilots considered, beside the target itself: its size and tokens divided by these."""
PILOT_SEEDS = 3
"""The fewest whose spread has more than one degree of freedom."""
WORTH_A_PILOT = 3.0
"""A pilot that costs more than this part of the target is none."""
MOST_SEEDS = 12
"""More repetitions than this are not proposed; a gain that needs them is not worth having."""


def next_runs(
    situation: Situation, headline: Evidence, answer: Call, record: StudyRecord | None
) -> tuple[list[str], str]:
    """Sentences on what to run next, and the likely next command."""
    if record is None:
        return _first_study(situation, headline, answer), "distillaw study new --kind teacher-choice"
    report = f"distillaw report {record.folder}"
    assert headline.pretrain is not None
    bases = {headline.pretrain.basis, headline.best.basis}
    if headline.kind != "measured" or (answer.verdict == "too-close" and bases != {"measured"}):
        return [_measure_target(situation, headline)], report
    if answer.verdict != "too-close":
        return [], report
    return [_more_seeds(situation, headline, answer, record)], report


def _first_study(situation: Situation, headline: Evidence, answer: Call) -> list[str]:
    """Nothing of the user's own has been measured: the cheapest pilot that would settle it."""
    if not headline.is_decisive:
        first = "a pilot study of your own text (`distillaw study new` lists the kinds)"
        return [first, "then the target itself, with and without a teacher, in pairs: that outweighs every law"]
    gain = abs(float(headline.gain_draws.mean()))
    if answer.verdict == "too-close" and gain < answer.margin:
        return [
            f"nothing: the expected difference ({gain:.3f}) is below what matters ({answer.margin:.3f} nats/token). "
            "Take the cheaper way, without a teacher, unless a teacher is at hand anyway"
        ]
    return [_pilot(situation, headline, gain, answer.margin)]


def _pilot(situation: Situation, headline: Evidence, gain: float, margin: float) -> str:
    """The cheapest share of the target at which pairs would decide, if the gain is what it is thought to be."""
    best, own = headline.best, headline.pretrain
    assert own is not None
    settle = [s for s in (*SCALES, 1.0) if _would_settle(s, gain, margin, own.loss.mean)]
    scale = min(settle, key=lambda s: _pilot_flop(situation, best, s)[0], default=None)
    down = scale or 1.0
    size, tokens = best.student_params / down, best.student_tokens / down
    flop, remark = _pilot_flop(situation, best, down)
    where = f"at {SCALES[down]} of the size and the tokens" if down > 1 else "of the target itself"
    ratio = "" if best.teacher_loss is None else f" of {best.teacher_loss / own.loss.mean:.2f} times its own loss"
    trend = ", and at half of both to see the trend" if down > 1 else ""
    bill_of_target = best.compute["total"]
    if bill_of_target and flop > bill_of_target / WORTH_A_PILOT:
        return (
            f"no pilot: the smallest that would settle it costs {format_flop(flop)}{remark}, "
            f"{times(flop / bill_of_target)} times the bill of the distillation. "
            "Run the target itself with and without the teacher, or let `distillaw settle` choose runs"
        )
    share = "" if not bill_of_target else f", {flop / bill_of_target:.2g} times the bill of the distillation"
    ending = f"If the gain is {gain:.3f} nats/token as thought, that settles it"
    if scale is None:
        ending = f"The gain thought of ({gain:.3f}) is hardly more than the noise of pairs: more seeds may be needed"
    return (
        f"a paired pilot {where}: {format_count(size)} on {format_count(tokens)} tokens without a teacher and from one"
        f"{ratio}, {PILOT_SEEDS} seeds{trend}: {format_flop(flop)}{remark}{share}. {ending} (distillaw study run)"
    )


def _pilot_flop(situation: Situation, best: Strategy, down: float) -> tuple[float, str]:
    """Pairs of runs with their logits and, where it is not at hand, a teacher shrunk like the student; and a remark."""
    teacher = best.teacher
    assert teacher is not None
    is_priced = teacher.params is not None and teacher.tokens is not None
    if is_priced and down > 1:
        teacher = replace(teacher, params=teacher.params / down, tokens=teacher.tokens / down)  # type: ignore[operator]
    flop = 0.0
    for part in (1.0, 2.0) if down > 1 else (1.0,):  # the target itself needs no trend
        costs = bill(situation, best.student_params / down / part, best.student_tokens / down / part, teacher)
        flop += PILOT_SEEDS * (2 * (costs["student_training"] or 0.0) + (costs["teacher_logits"] or 0.0))
    if not is_priced:
        return flop, " and what the teacher costs, whose size or tokens are not known"
    if down == 1 and teacher.exists:
        return flop, ""
    return flop + (bill(situation, best.student_params, 0.0, teacher)["teacher_training"] or 0.0), " with its teacher"


def _would_settle(scale: float, gain: float, margin: float, loss: float) -> bool:
    """Whether pairs at 1/scale of the size and tokens, extrapolated by a fitted law, would call this gain."""
    away = {"student_params": math.log(scale), "student_tokens": math.log(scale)}
    noise = ASSUMED_SEED_SD * math.sqrt(2 / PILOT_SEEDS)
    se = loss * (math.hypot(noise, FITTED_DISCREPANCY.at(away)) if scale > 1 else noise)
    return gain - max(margin, se if scale == 1 else 0.0) >= NormalDist().inv_cdf(SURE) * se


def _measure_target(situation: Situation, headline: Evidence) -> str:
    """The target was not run in full: the one or two runs that would make it measured."""
    own, best = headline.pretrain, headline.best
    assert own is not None
    missing, cost = [], 0.0
    if own.basis != "measured":
        missing.append(f"on {format_count(own.student_tokens)} tokens without a teacher")
        cost += own.compute["student_training"] or 0.0
    if best.basis != "measured":
        teacher = best.teacher.called if best.teacher else ""
        missing.append(f"on {format_count(best.student_tokens)} tokens from {teacher}")
        cost += (best.compute["student_training"] or 0.0) + (best.compute["teacher_logits"] or 0.0)
    return f"the target itself: {situation.size} {' and '.join(missing)}, {format_flop(cost)}"


def _more_seeds(situation: Situation, headline: Evidence, answer: Call, record: StudyRecord) -> str:
    """How many seeds would settle it if the gain stays as it is now; or that no number would."""
    gain = abs(float(headline.gain_draws.mean()))
    own, best = headline.pretrain, headline.best
    assert own is not None
    floor = MARGIN * own.loss.mean
    documents, other = headline.number("document_se", 0.0), headline.number("other_doubt", 0.0)
    seeds = seeds_needed(gain, floor, fixed=math.hypot(documents, other), seed_sd=headline.number("seed_sd", 0.0))
    have = int(headline.number("seeds_best", 0.0))
    teacher = best.teacher.called if best.teacher else ""
    cell = f"{situation.size} on {format_count(best.student_tokens)} tokens"
    if gain < floor:
        return (
            f"none: the gain ({gain:.3f}) is below what matters ({floor:.3f} nats/token). Take the cheaper way, "
            "without a teacher, unless the teacher is at hand anyway"
        )
    if seeds is None and other > documents:
        return (
            f"{cell} at half and at twice the learning rate, with and without the teacher (`[tuning] horizon`): "
            f"what is not known of rates and curves ({other:.3f} nats/token) is more than seeds could settle"
        )
    if seeds is None:
        return (
            "more held-out text rather than more seeds: documents, not seeds, limit this comparison "
            f"(standard error {documents:.4f} nats/token from them alone)"
        )
    extra = max(1, seeds - have)
    flop = extra * (
        (own.compute["student_training"] or 0.0)
        + (best.compute["student_training"] or 0.0)
        + (best.compute["teacher_logits"] or 0.0)
    )
    seconds = _seconds(record, [*own.run_ids, *best.run_ids]) * extra
    time = f", about {format_seconds(seconds)} of one core" if seconds > 0 else ""
    return (
        f"{extra} more seed{'s' * (extra > 1)} of {cell}, without a teacher and from {teacher} "
        f"([[replicates]] in the study file): {format_flop(flop)}{time}. If the gain stays at {gain:.3f} "
        "nats/token that settles it"
    )


def seeds_needed(gain: float, floor: float, *, fixed: float, seed_sd: float) -> int | None:
    """Fewest seeds at which a gain of this size would be called; None if what seeds do not move forbids it.

        call if gain - max(floor, se) >= t_{SURE}(2 (K - 1) + 3) se,   se^2 = fixed^2 + 2 sd^2 / K

    `floor` is the smallest gain worth having, `fixed` the standard error that no seed reduces (held-out documents,
    rates that nobody checked, curves drawn on), `seed_sd` the paired seed noise of one run, all in nats/token.
    """
    for seeds in range(2, MOST_SEEDS + 1):
        se = math.sqrt(fixed**2 + 2 * seed_sd**2 / seeds)
        if gain - max(floor, se) >= t_quantile(SURE, 2 * (seeds - 1) + ASSUMED_DOF) * se:
            return seeds
    return None


def _seconds(record: StudyRecord, run_ids: list[str]) -> float:
    """Training seconds of one seed of these runs, as measured."""
    seconds: dict[tuple[object, object], float] = {}
    for run in record.runs:
        if run.run_id in run_ids and math.isfinite(run.number("seconds")):
            seconds[run.teacher_run, run.tokens] = run.number("seconds")
    return sum(seconds.values())
