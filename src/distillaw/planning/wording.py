"""The words of a verdict: sentence, reasons, what would flip it, what to run next. Every number comes from there.

No statistics here: decision.py and the evidence files have made all numbers before a word is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from distillaw.planning.caveats import assumptions, caveats
from distillaw.planning.decision import WORDS, Call, EqualCompute, Supposed, leads_distilling
from distillaw.planning.evidence import Crossover, Evidence, Interval, Strategy, nats
from distillaw.planning.judging import Judged, Sources
from distillaw.planning.pilot import next_runs
from distillaw.planning.sensitivity import SwitchingValue
from distillaw.planning.situation import Situation
from distillaw.quantities import format_count, format_flop, times


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
) -> Words:
    """Put a decision into words."""
    situation, evidence, headline, answer = judged.situation, judged.evidence, judged.headline, judged.call
    level = sources.level
    runs, command = next_runs(situation, headline, answer, sources.record)
    said = sentence(situation, headline, answer, level)
    return Words(
        sentence=said + _but(answer, headline, equal) + _had_one(supposed),
        reasons=tuple(_reasons(evidence, headline, equal, level, supposed)),
        flips_if=tuple(_flips(headline, answer, equal, flips)),
        assumptions=tuple(assumptions(situation, evidence, headline, sources)),
        warnings=tuple(caveats(situation, evidence, headline, sources)),
        next_runs=tuple(runs),
        next_command=command,
    )


def percent(probability: float) -> str:
    """A probability as people say it; never 0 or 100 %."""
    if probability > 0.995:
        return "over 99 %"
    if probability < 0.005:
        return "under 1 %"
    return f"{100 * probability:.0f} %"


def interval(value: Interval) -> str:
    """`0.253 [0.236, 0.270]`."""
    half = (value.upper - value.lower) / 2
    return f"{nats(value.mean, half)} [{nats(value.lower, half)}, {nats(value.upper, half)}]"


def sentence(situation: Situation, headline: Evidence, answer: Call, level: float) -> str:
    """The verdict in one sentence, with probability and interval."""
    gain = headline.gain(level)
    name = headline.best.name
    if answer.verdict == "distil":
        return (
            f"{name[0].upper()}{name[1:]}: {percent(answer.probability)} likely to beat pretraining by more than "
            f"{nats(answer.margin)} nats/token for {situation.student}; gain {stated(gain, level)}"
        )
    if answer.verdict == "pretrain":
        supervised = headline.best_pretrain
        larger = supervised.kind == "pretrain-larger"
        how = f"{supervised.name[0].upper()}{supervised.name[1:]}" if larger else "Pretrain without a teacher"
        flipped = Interval(mean=-gain.mean, lower=-gain.upper, upper=-gain.lower)
        return (
            f"{how}: {percent(answer.probability)} likely to beat the best teacher considered by "
            f"more than {nats(answer.margin)} nats/token for {situation.student}; gain {stated(flipped, level)} "
            "over the best of them"
        )
    leading = headline.best if leads_distilling(headline, answer) else headline.best_pretrain
    if not headline.is_decisive:
        return (
            f"Unknown for {situation.student}: no evidence reaches it. {headline.source[0].upper()}"
            f"{headline.source[1:]} are all there is: {headline.note}"
        )
    return (
        f"Too close to call for {situation.student}: {percent(answer.distil)} that distilling is better by more "
        f"than {nats(answer.margin)} nats/token, {percent(answer.pretrain)} that pretraining is; the gain of the best "
        f"teacher is {stated(gain, level)}. If you must choose now: {leading.name}"
    )


def _but(answer: Call, headline: Evidence, equal: EqualCompute | None) -> str:
    """Nobody should read the verdict without it: the same FLOP would give another answer, or one that nobody knows."""
    if equal is None:
        return ""
    if equal.call is None:
        supervised = headline.best_pretrain.compute["total"]
        if answer.verdict != "distil" or not supervised:
            return ""
        more = times(equal.compute / supervised)
        return f"; it takes {more} times the FLOP, for which nobody knows what pretraining gives"
    if equal.call.verdict == answer.verdict:
        return ""
    return f"; at equal FLOP {WORDS[equal.call.verdict].at_equal_flop}"


def _had_one(supposed: Supposed | None) -> str:
    """Nobody should read a verdict on a teacher that has to be trained without what one at hand would be worth."""
    if supposed is None:
        return ""
    if supposed.call.verdict != "distil":
        return "; nor is it clear with a teacher already trained, at equal tokens"
    likely = percent(supposed.call.distil)
    return f"; with a teacher already trained, at equal tokens, {likely} that distilling is better"


def _supposed_sentence(supposed: Supposed) -> str:
    assert supposed.row.teacher is not None
    teacher = supposed.row.teacher
    trained = "" if teacher.tokens is None else f" on {format_count(teacher.tokens)} tokens"
    return (
        f"Were {teacher.called}{trained} already trained, at no cost of this student, the gain of distilling from it "
        f"at equal tokens would be {interval(supposed.gain)} (--teacher names one that you have)."
    )


def stated(value: Interval, level: float) -> str:
    """`0.253 nats/token [0.236, 0.270] (90 % interval)`."""
    mean, band = interval(value).split(" ", 1)
    return f"{mean} nats/token {band} ({100 * level:.0f} % interval)"


def _reasons(
    evidence: Sequence[Evidence],
    headline: Evidence,
    equal: EqualCompute | None,
    level: float,
    supposed: Supposed | None,
) -> list[str]:
    best = headline.best
    how = "Decided by" if headline.is_decisive else "Shown, not believed:"
    found = [f"{how} {headline.source}: {headline.note}."]
    assert headline.pretrain is not None
    if supposed is not None:
        found.append(_supposed_sentence(supposed))
    if not headline.is_informative:
        return found
    found.append(
        f"Student loss {nats(best.loss.mean)} nats/token from {_teacher(best)}, "
        f"{nats(headline.best_pretrain.loss.mean)} without a teacher."
    )
    judged = [row for row in headline.distil if not row.is_speculative]
    if best.share_best is not None and len(judged) > 1:
        found.append(
            f"Best of {len(judged)} teachers with probability {percent(best.share_best)}; how likely it is "
            "to win counts that the best of several noisy measurements looks better than it is."
            if headline.kind == "measured"
            else f"Best of {len(judged)} teachers with probability {percent(best.share_best)}."
        )
    if equal is not None:
        found.append(equal_sentence(equal))
    band = headline.crossover
    if headline.is_decisive and band is not None:
        found.append(_no_crossover(band) if band.median is None else crossover_sentence(band, level))
    for other in evidence:
        if other.source != headline.source and other.speaks and other.is_decisive:
            found.append(
                f"{other.source[0].upper()}{other.source[1:]} put the gain at {interval(other.gain(level))}."
            )
    return found


def _teacher(row: Strategy) -> str:
    assert row.teacher is not None
    if row.teacher_loss is None:
        return row.teacher.called
    return f"{row.teacher.called} (loss {nats(row.teacher_loss)})"


def equal_sentence(equal: EqualCompute) -> str:
    """What the same FLOP give, and by whose word."""
    tokens = format_count(equal.pretrain_tokens)
    spent = f"At equal compute ({format_flop(equal.compute)}; pretraining then gets {tokens} tokens)"
    if equal.call is None or equal.gain is None:
        return f"{spent} nobody knows: {equal.basis}."
    still = WORDS[equal.call.verdict].still
    return f"{spent} {still}: gain of distilling {interval(equal.gain)} ({equal.basis})."


def _flips(
    headline: Evidence, answer: Call, equal: EqualCompute | None, searched: Sequence[SwitchingValue]
) -> list[str]:
    """The nearest changes of input that change the answer."""
    if not headline.is_decisive:
        return [
            "the student was measured: a pair of runs with and without a teacher outweighs everything said here"
        ]
    found = [flip.sentence for flip in searched]
    if equal is not None and equal.call is not None and equal.call.verdict != answer.verdict:
        found.append(
            f"pretraining may spend the same FLOP, that is {format_count(equal.pretrain_tokens)} tokens: then "
            f"{WORDS[equal.call.verdict].then} (gain of distilling {interval(equal.gain)})"  # type: ignore[arg-type]
        )
    if answer.verdict != "too-close":
        gain = abs(float(headline.gain_draws.mean()))
        found.append(
            f"a difference of {nats(gain)} nats/token did not matter to you (this verdict asks for more than "
            f"{nats(answer.margin)})"
        )
    return found


def _no_crossover(band: Crossover) -> str:
    """The middle of the draws lies outside the budgets searched: on which side, and how often."""
    if band.share_before > band.share_none:
        return (
            f"Training without a teacher is ahead from {format_count(band.searched[0])} tokens on, where the search "
            f"begins, in {percent(band.share_before)} of the draws ({band.source})."
        )
    return (
        f"Training without a teacher does not catch up before {format_count(band.searched[1])} tokens in "
        f"{percent(band.share_none)} of the draws ({band.source})."
    )


def crossover_sentence(band: Crossover, level: float) -> str:
    """Where training without a teacher catches up; the band has a middle."""
    return f"Catching up: at {caught_up(band, level)}."


def caught_up(band: Crossover, level: float) -> str:
    """`172B tokens [20B to beyond 20T, 90 % band], where training without a teacher catches up`, and how sure."""
    assert band.median is not None
    low = format_count(band.lower) if band.lower is not None else f"before {format_count(band.searched[0])}"
    high = format_count(band.upper) if band.upper is not None else f"beyond {format_count(band.searched[1])}"
    none = f"; none in {percent(band.share_none)} of the draws" if band.share_none > 0.005 else ""
    return (
        f"{format_count(band.median)} tokens [{low} to {high}, {100 * level:.0f} % band], "
        f"where training without a teacher catches up{none} ({band.source})"
    )
