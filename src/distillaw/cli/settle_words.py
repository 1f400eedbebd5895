"""The words of a settlement: a line per stage, and what a verdict assumes, warns of, and would change with."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distillaw.planning.wording import interval, nats, stated
from distillaw.quantities import format_count, format_flop
from distillaw.settling.question import NONE, Question, Stage
from distillaw.settling.standing import Standing

if TYPE_CHECKING:
    from distillaw.cli.settle_run import Settled


def finite(value: float) -> float | None:
    """For JSON, which has no infinity."""
    return value if math.isfinite(value) else None


def name_of(candidate: str) -> str:
    """A candidate as text; none is none."""
    return candidate or "none"


def stage_words(stage: Stage) -> str:
    """`25k parameters on 20k, 40k tokens, 2 seeds`."""
    tokens = ", ".join(format_count(t) for t in stage.tokens)
    seeds = f"{len(stage.seeds)} seed{'s' if len(stage.seeds) > 1 else ''}"
    return f"{', '.join(stage.labels)} parameters on {tokens} tokens, {seeds}"


def look(question: Question, stage: Stage, now: Standing, *, number: int) -> str:
    """One plain line after a stage: who leads, by how much, what is at stake, what it has cost, who is out."""
    gain = now.gains.get(now.leader)
    lead = (
        f"{now.leader} leads, gain {stated(gain, question.level)}"
        if gain is not None
        else f"no teacher leads; {_best_gain(question, now)}"
    )
    new = [name for name in stage.candidates if name in now.dropped]
    out = "".join(f"; {name} is out: {now.dropped[name]}" for name in new)
    share = now.spent / question.target_flops
    return (
        f"stage {number} ({stage_words(stage)}): {lead}; at most {nats(now.regret)} nats/token are at stake; "
        f"{share:.2%} of the target's training spent{out}"
    )


def _best_gain(question: Question, now: Standing) -> str:
    name = now.best_teacher
    return f"the best gain is that of {name}, {stated(now.gains[name], question.level)}"


def assumptions(settled: "Settled") -> list[str]:
    """What the bound rests on."""
    question, data = settled.question, settled.setting.spec.data
    found = [
        f"the target is trained as the pilots were: text ({data.source}), recipe, single epoch, "
        f"{format_count(question.tokens)} tokens with every teacher and with none; their forward passes are not held "
        "against them",
        f"rates: {_rates(settled)}",
        f"gains at the target lie where laws of the usual form allow them, given {len(settled.runs)} pilots; how far "
        "later stages were off what earlier ones predicted widens the bounds",
    ]
    if any(c.flops == 0 for c in question.candidates):
        found.append("a teacher without forward passes costs nothing: its targets are stored")
    return found


def _rates(settled: "Settled") -> str:
    rates, batch = settled.tuned.rates, settled.tuned.batch_tokens
    if not settled.tuned.flops:
        return (
            f"the file's, {rates['supervised']:g} at batch {batch}, with and without a teacher (not searched)"
        )
    return (
        f"{rates['supervised']:g} without and {rates['distilled']:g} with a teacher at batch {batch}, searched at "
        f"{settled.question.sizes[0].label} parameters and carried to larger ones by width"
    )


def warnings(settled: "Settled") -> list[str]:
    """What makes it weaker than it looks."""
    now, question = settled.now, settled.question
    found = []
    if not settled.tuned.flops:
        found.append(
            "learning rates were not searched (the budget had too little to spare): a rate that suits one arm alone "
            "makes a gain of its own"
        )
    if ends := _at_end(settled.tuned.tuning):
        found.append(f"the search for a rate ended at the edge of what it tried ({', '.join(ends)})")
    if lost := [run for run in settled.runs if not math.isfinite(run.loss)]:
        names = ", ".join(sorted({run.candidate for run in lost}))
        found.append(
            f"{len(lost)} pilot{'s' if len(lost) > 1 else ''} diverged ({names}): what is said of a teacher rests on "
            "the others alone"
        )
    if (documents := settled.setting.spec.data.validation_documents) < 60:
        found.append(f"only {documents} held-out documents: errors over documents are themselves uncertain")
    if settled.stages:
        largest = max(question.size(stage.size).params for stage in settled.stages)
        factor = question.target.params / largest
        if factor > 30:
            found.append(f"the target is {factor:.0f} times the largest pilot")
    if now.spent > question.budget * 1.001:
        found.append(
            f"{format_flop(now.spent)} were spent, more than the budget: the search went on for longer than usual"
        )
    return found


def _at_end(tuning: Mapping[str, Any]) -> list[str]:
    """Arms whose best rate was not between others that were tried."""
    return [row["arm"] for row in tuning["arms"] if not row["learning_rate"]["interior"]]


def flips(settled: "Settled", verdict: str, choice: str, bound: float) -> list[str]:
    """What would change the answer."""
    now, question = settled.now, settled.question
    found = []
    if verdict == "distil":
        gain = now.gains[choice]
        found.append(
            f"a difference of {nats(gain.lower)} to {nats(gain.upper)} nats/token did not matter to you (the margin is "
            f"{nats(question.margin)})"
        )
    elif verdict == "pretrain":
        found.append(
            f"less than {nats(bound)} nats/token mattered to you (the margin is {nats(question.margin)}): the best "
            f"teacher, {now.best_teacher}, has a gain of {interval(now.gains[now.best_teacher])}"
        )
    elif choice != NONE and bound <= question.margin:
        found.append(
            f"it were known whether {choice} is better than no teacher at all: its gain is "
            f"{interval(now.gains[choice])}, and choosing it loses no more than the margin, {nats(question.margin)}"
        )
    else:
        found.append(
            f"the margin were {nats(bound)} nats/token or more (it is {nats(question.margin)}), or the budget larger"
        )
    found.append(
        f"the target were another than {question.target.label} on {format_count(question.tokens)} tokens: gains shrink "
        "and teachers change places as students grow and read more"
    )
    return found
