"""The words of a verdict: sentence, reasons, what would flip it, what to run next. Every number comes from there.

No statistics here: decision.py and the evidence files have made all numbers before a word is written.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distillaw.planning.crossover import Crossover
from distillaw.planning.decision import Call, EqualCompute, Verdict
from distillaw.planning.evidence import Evidence, Interval, Strategy
from distillaw.planning.pilot import next_runs
from distillaw.planning.record import StudyRecord, budget_text
from distillaw.planning.situation import Situation
from distillaw.quantities import format_count, format_flop


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
    situation: Situation, evidence: Sequence[Evidence], headline: Evidence, answer: Call, equal: EqualCompute | None, *,
    record: StudyRecord | None, level: float, law: str | None,
) -> Words:  # fmt: skip
    """Put a decision into words."""
    runs, command = next_runs(situation, headline, answer, record)
    return Words(
        sentence=sentence(situation, headline, answer, level) + _but(answer, equal),
        reasons=tuple(_reasons(evidence, headline, answer, equal, level)),
        flips_if=tuple(_flips(headline, answer, equal, level)),
        assumptions=tuple(_assumptions(situation, headline)),
        warnings=tuple(_warnings(situation, evidence, headline, law)),
        next_runs=tuple(runs), next_command=command,
    )  # fmt: skip


def percent(probability: float) -> str:
    """A probability as people say it; never 0 or 100 %."""
    if probability > 0.995:
        return "over 99 %"
    if probability < 0.005:
        return "under 1 %"
    return f"{100 * probability:.0f} %"


def nats(value: float, noise: float | None = None) -> str:
    """A loss or gain with the digits its noise supports: three, or four where they mean something."""
    digits = 4 if noise is not None and noise < 0.002 else 3
    return f"{value:.{digits}f}"


def interval(value: Interval) -> str:
    """`0.253 [0.236, 0.270]`."""
    half = (value.upper - value.lower) / 2
    return f"{nats(value.mean, half)} [{nats(value.lower, half)}, {nats(value.upper, half)}]"


def student(situation: Situation) -> str:
    """`a 0.1M student on 0.5M tokens` or `... within 1e21 FLOP`."""
    size = situation.size
    if situation.student_tokens is not None:
        return f"a {size} student on {budget_text(situation.student_tokens)} tokens"
    assert situation.compute is not None
    return f"a {size} student within {format_flop(situation.compute)}"


def sentence(situation: Situation, headline: Evidence, answer: Call, level: float) -> str:
    """The verdict in one sentence, with probability and interval."""
    gain = Interval.of(headline.gain_draws, level)
    name = headline.best.name
    if answer.verdict == "distil":
        return (
            f"{name[0].upper()}{name[1:]}: {percent(answer.probability)} likely to beat pretraining by more than "
            f"{nats(answer.margin)} nats/token for {student(situation)}; gain {stated(gain, level)}"
        )
    if answer.verdict == "pretrain":
        flipped = Interval(mean=-gain.mean, lower=-gain.upper, upper=-gain.lower)
        return (
            f"Pretrain without a teacher: {percent(answer.probability)} likely to beat every teacher considered by "
            f"more than {nats(answer.margin)} nats/token for {student(situation)}; gain {stated(flipped, level)} "
            "over the best of them"
        )
    if not headline.is_decisive:
        return (
            f"Too close to call for {student(situation)}: no evidence reaches it. {headline.source[0].upper()}"
            f"{headline.source[1:]} are all there is: {headline.note}"
        )
    return (
        f"Too close to call for {student(situation)}: {percent(answer.distil)} that distilling is better by more than "
        f"{nats(answer.margin)} nats/token, {percent(answer.pretrain)} that pretraining is; the gain of the best "
        f"teacher is {stated(gain, level)}"
    )


def _but(answer: Call, equal: EqualCompute | None) -> str:
    """Nobody should read the verdict without it: the same FLOP would give another answer."""
    if equal is None or equal.call is None or equal.call.verdict == answer.verdict:
        return ""
    words = {
        "distil": "distilling is better",
        "pretrain": "pretraining is better",
        "too-close": "it is too close to call",
    }
    return f"; at equal FLOP {words[equal.call.verdict]}"


def stated(value: Interval, level: float) -> str:
    """`0.253 nats/token [0.236, 0.270] (90 % interval)`."""
    mean, band = interval(value).split(" ", 1)
    return f"{mean} nats/token {band} ({100 * level:.0f} % interval)"


def _reasons(
    evidence: Sequence[Evidence], headline: Evidence, answer: Call, equal: EqualCompute | None, level: float
) -> list[str]:
    best = headline.best
    found = [f"Decided by {headline.source}: {headline.note}."]
    assert headline.pretrain is not None
    if not headline.is_informative:
        return found
    found.append(
        f"Student loss {nats(best.loss.mean)} nats/token from the {_teacher(best)}, "
        f"{nats(headline.pretrain.loss.mean)} without a teacher."
    )
    if best.share_best is not None and len(headline.distil) > 1:
        found.append(
            f"Best of {len(headline.distil)} teachers with probability {percent(best.share_best)}; the gain is shrunk "
            "towards their mean, because the best of several noisy measurements looks better than it is."
            if headline.kind == "measured"
            else f"Best of {len(headline.distil)} teachers with probability {percent(best.share_best)}."
        )
    if equal is not None:
        found.append(_equal_sentence(equal))
    band = headline.crossover
    if headline.is_decisive and band is not None and band.median is None:
        found.append(
            f"Training without a teacher does not catch up before {format_count(band.searched[1])} tokens in "
            f"{percent(band.share_none)} of the draws ({band.source})."
        )
    for other in evidence:
        if other is not headline and other.speaks and other.is_decisive:
            found.append(
                f"{other.source[0].upper()}{other.source[1:]} put the gain at "
                f"{interval(Interval.of(other.gain_draws, level))}."
            )
    return found


def _teacher(row: Strategy) -> str:
    assert row.teacher is not None
    if row.teacher_loss is None:
        return row.teacher.name
    return f"{row.teacher.name} (loss {nats(row.teacher_loss)})"


def _equal_sentence(equal: EqualCompute) -> str:
    tokens = format_count(equal.pretrain_tokens)
    spent = f"At equal compute ({format_flop(equal.compute)}; pretraining then gets {tokens} tokens)"
    if equal.call is None or equal.gain is None:
        return f"{spent} nobody knows: {equal.basis}."
    words = {
        "distil": "distilling is still better",
        "pretrain": "pretraining is better",
        "too-close": "it is too close",
    }
    return f"{spent} {words[equal.call.verdict]}: gain of distilling {interval(equal.gain)} ({equal.basis})."


def _flips(headline: Evidence, answer: Call, equal: EqualCompute | None, level: float) -> list[str]:
    """The nearest changes of input that change the answer."""
    found = []
    gain = float(headline.gain_draws.mean())
    if not headline.is_decisive:
        return [
            "the student was measured: a pair of runs with and without a teacher outweighs everything said here"
        ]
    band = headline.crossover
    if band is not None and band.median is not None and answer.verdict != "pretrain":
        found.append(_crossover_sentence(band, level))
    if equal is not None and equal.call is not None and equal.call.verdict != answer.verdict:
        found.append(
            f"pretraining may spend the same FLOP, that is {format_count(equal.pretrain_tokens)} tokens: then "
            f"{equal.call.verdict} (gain of distilling {interval(equal.gain)})"  # type: ignore[arg-type]
        )
    best = headline.best
    training = best.compute.get("teacher_training")
    if answer.verdict == "distil" and training and best.compute["total"]:
        share = training / best.compute["total"]
        found.append(
            f"the teacher had to be trained for this student alone: {format_flop(training)} more, "
            f"{share:.2g} times the present bill"
        )
    if answer.verdict == "distil" and len(headline.distil) > 1:
        worst = min(headline.distil, key=lambda row: row.gain.mean if row.gain else math.inf)
        if worst.gain is not None and worst.gain.mean < answer.margin:
            found.append(
                f"only the {worst.teacher.name if worst.teacher else ''} was at hand: gain {interval(worst.gain)}"
            )
    if answer.verdict != "too-close":
        found.append(
            f"a difference of {nats(abs(gain))} nats/token did not matter to you (this verdict asks for more than "
            f"{nats(answer.margin)})"
        )
    return found


def _crossover_sentence(band: Crossover, level: float) -> str:
    assert band.median is not None
    low = format_count(band.lower) if band.lower is not None else format_count(band.searched[0])
    high = format_count(band.upper) if band.upper is not None else f"beyond {format_count(band.searched[1])}"
    none = f"; none in {percent(band.share_none)} of the draws" if band.share_none > 0.005 else ""
    return (
        f"the student saw more than {format_count(band.median)} tokens [{low} to {high}, {100 * level:.0f} % band], "
        f"where training without a teacher catches up{none} ({band.source})"
    )


def _assumptions(situation: Situation, headline: Evidence) -> list[str]:
    paid = {
        "best-case": "the teacher and its logits are free",
        "inference": "the teacher exists; its logits are computed for this student and counted",
        "pretraining": "the teacher is trained for this; its logits are free",
        "pretraining-inference": "the teacher is trained for this and its logits are counted",
    }[situation.scenario]
    found = [
        "The verdict is about held-out loss in nats/token on text like the validation split, not about skill.",
        f"Compared at {situation.comparison.replace('-', ' ')}; cost scenario {situation.scenario}: {paid}.",
    ]
    if any(t.teacher is not None and not t.teacher.exists for t in headline.distil):
        found.append(
            "Teachers that do not exist yet must be trained: that is in the bill, shared by "
            f"{situation.students_served} student{'s' * (situation.students_served != 1)}."
        )
    if situation.label:
        found.append(f"The {situation.label} student has {situation.student_params:,.0f} parameters exactly.")
    if headline.kind == "measured":
        found.append(
            "The next runs are like those measured: same text, tokenizer, recipe and tuned learning rate."
        )
    else:
        found.append(
            f"FLOP are counted for a vocabulary of {situation.vocab} and a context of {situation.context} where no run "
            "counted them; parameters exclude embeddings."
        )
    return found


def _warnings(
    situation: Situation, evidence: Sequence[Evidence], headline: Evidence, law: str | None
) -> list[str]:
    found = list(headline.warnings)
    asked = next((e for e in evidence if e.source == law), None)
    if asked is not None and asked is not headline:
        found.insert(0, f"{law} was asked for and may not carry a plan ({asked.status}: {asked.note})")
    if not headline.is_decisive and headline.status == "REFUSED":
        found.insert(
            0, f"REFUSED as a basis: {headline.source} may not carry a plan; the verdict is left open."
        )
    elif not headline.is_decisive:
        found.insert(
            0, f"Nothing in range speaks for this student; {headline.source} is shown, not believed."
        )
    assert headline.pretrain is not None
    own = headline.pretrain.loss.mean
    for row in headline.distil:
        if headline.kind != "measured" and row.teacher_loss is not None and row.teacher_loss >= own:
            found.append(
                f"the {_teacher(row)} is no better than the student by itself ({nats(own)}): "
                "expect it to hold the student back"
            )
        size = row.teacher.params if row.teacher is not None else None
        if headline.kind != "measured" and size and size < situation.student_params / 1.25:
            found.append(
                f"{row.name}: a teacher smaller than the student; no law here can describe a student that "
                "beats its teacher"
            )
    for other in evidence:
        if (
            other is not headline
            and not other.speaks
            and other.kind == "fitted"
            and other.status != "NOT_FITTED"
        ):
            found.append(f"{other.source}: {other.status}: {other.note}")
    return list(dict.fromkeys(found))


def summary(verdict: Verdict) -> str:
    """The verdict for people: five lines to decide by, then what it rests on."""
    name = {"distil": "DISTIL", "pretrain": "PRETRAIN", "too-close": "TOO CLOSE TO CALL"}[verdict.verdict]
    lines = [f"{name}  {verdict.sentence}"]
    lines += verdict.reasons[:2]
    if verdict.equal_compute is not None:
        lines.append(_equal_sentence(verdict.equal_compute))
    if verdict.flips_if:
        lines.append(f"Changes if {verdict.flips_if[0]}.")
    return "\n".join(lines)
