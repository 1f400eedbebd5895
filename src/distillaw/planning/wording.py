"""The words of a verdict: sentence, reasons, what would flip it, what to run next. Every number comes from there.

No statistics here: decision.py and the evidence files have made all numbers before a word is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from distillaw.planning.caveats import assumptions, caveats
from distillaw.planning.decision import WORDS, Call, EqualCompute, StartCall, Supposed, leads_distilling
from distillaw.planning.evidence import UNSAID, Crossover, Evidence, Interval, Strategy
from distillaw.planning.judging import Judged, Sources
from distillaw.planning.phrases import interval, say
from distillaw.planning.pilot import next_runs
from distillaw.planning.sensitivity import SwitchingValue
from distillaw.planning.situation import Situation
from distillaw.quantities import format_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Everything a verdict says in sentences."""

    sentence: str
    reasons: tuple[str, ...]
    flips_if: tuple[str, ...]
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
    said = sentence(situation, headline, answer, level)
    return Words(
        sentence=said + _but(answer, headline, equal) + _had_one(supposed),
        reasons=(*_reasons(evidence, headline, equal, level, supposed), *_better_start(start)),
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


def _had_one(supposed: Supposed | None) -> str:
    """Nobody should read a verdict on a teacher that has to be trained without what one at hand would be worth."""
    if supposed is None:
        return ""
    if supposed.call.verdict != "distil":
        return say("nor with one")
    return say("with one", distil=supposed.call.distil)


def _supposed_sentence(supposed: Supposed) -> str:
    teacher = supposed.row.teacher
    assert teacher is not None
    trained = "" if teacher.tokens is None else say("trained on", tokens=teacher.tokens)
    return say("supposed", teacher=teacher.called, trained=trained, gain=supposed.gain)


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
    if supposed is not None:
        found.append(_supposed_sentence(supposed))
    if not headline.is_informative:
        return found
    alone = headline.best_pretrain.loss.mean
    found.append(say("losses", distilled=best.loss.mean, teacher=_teacher(best), alone=alone))
    judged = [row for row in headline.distil if not row.is_speculative]
    if best.share_best is not None and len(judged) > 1:
        which = "best of measured" if headline.kind == "measured" else "best of"
        found.append(say(which, count=len(judged), share=best.share_best))
    if equal is not None:
        found.append(equal_sentence(equal))
    band = headline.crossover
    if headline.is_decisive and band is not None:
        found.append(_no_crossover(band) if band.median is None else crossover_sentence(band, level))
    for other in evidence:
        if other.source != headline.source and other.speaks and other.is_decisive:
            found.append(say("put the gain", source=other.source, gain=other.gain(level)))
    return found


def _better_start(start: StartCall | None) -> list[str]:
    if start is None:
        return []
    said = {"option": start.row.name, "other": start.other.name, "gain": start.gain, "share": start.pruned}
    return [say("better start", **said)]


def _teacher(row: Strategy) -> str:
    assert row.teacher is not None
    if row.teacher_loss is None:
        return row.teacher.called
    return say("teacher of loss", teacher=row.teacher.called, loss=row.teacher_loss)


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


def _no_crossover(band: Crossover) -> str:
    """The middle of the draws lies outside the budgets searched: on which side, and how often."""
    before, after = band.searched
    if band.share_before > band.share_none:
        return say("ahead from", tokens=before, share=band.share_before, source=band.source)
    return say("not before", tokens=after, share=band.share_none, source=band.source)


def crossover_sentence(band: Crossover, level: float) -> str:
    """Where training without a teacher catches up; the band has a middle."""
    return say("catching up", caught_up=caught_up(band, level))


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
