"""The words of a settlement: a line per stage, and what a verdict assumes, warns of, and would change with."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distillaw.planning.phrases import interval, nats
from distillaw.planning.wording import stated
from distillaw.quantities import format_count, format_flop
from distillaw.settling.question import NONE, Question, Stage
from distillaw.settling.standing import Standing

if TYPE_CHECKING:
    from distillaw.cli.settle_run import Settled
    from distillaw.sweep.pilots import Tuned


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


def rate_words(tuned: "Tuned", arm: str) -> str:
    """`0.011, falling as tokens^-0.32`: the rate of the smallest pilots of an arm."""
    rates = tuned.rates[arm]
    rate, power = rates.smallest
    return f"{rate:g}, falling as tokens^-{power:.2g}" if power > 0 else f"{rate:g}"


def _rates(settled: "Settled") -> str:
    tuned, batch = settled.tuned, settled.tuned.batch_tokens
    alone, taught = (rate_words(tuned, arm) for arm in ("supervised", "distilled"))
    if not tuned.flops:
        return f"the file's, {alone} at batch {batch}, with and without a teacher (not searched)"
    reach = [check.checked or check.searched or 0 for check in tuned.checks.values()]
    return (
        f"{alone} without and {taught} with a teacher at batch {batch}, searched at "
        f"{settled.question.sizes[0].label} parameters on up to {format_count(min(reach))} tokens, carried to larger "
        "ones by width"
    )


def rate_doubts(settled: "Settled", tokens: float) -> dict[str, float]:
    """What the rate may cost a run, nats/token: root mean square by kind of arm."""
    question = settled.question
    if question.rates is None:
        return {}
    return {kind: question.rates.cost(arm, tokens, first=question.least_tokens)
            for arm, kind in enumerate(("without", "with"))}  # fmt: skip


def _rate_warning(settled: "Settled") -> str | None:
    """What is not known of the rates of the pilots, or of the target's."""
    checks, question = settled.tuned.checks, settled.question
    reach = min(check.checked or check.searched or 0 for check in checks.values())
    longest = max((stage.tokens[-1] for stage in settled.stages), default=0)
    doubt = rate_doubts(settled, question.tokens)
    cost = " and ".join(f"{nats(value)} nats/token {kind} a teacher" for kind, value in doubt.items())
    if settled.tuned.flops and reach >= max(longest, question.tokens) / 2:
        return None
    if not settled.tuned.flops:
        what = "learning rates were not searched (the budget had too little to spare)"
    elif reach * 2 > longest:
        what = (f"rates were checked on up to {format_count(reach)} tokens, as far as the pilots read; the target "
                f"reads {format_count(question.tokens)}")  # fmt: skip
    else:
        what = (f"rates were checked on up to {format_count(reach)} tokens only; pilots read up to "
                f"{format_count(longest)}, the target {format_count(question.tokens)}")  # fmt: skip
    return f"{what}. A rate that does not suit may cost it {cost}, which is in the intervals: search them again there"


def warnings(settled: "Settled") -> list[str]:
    """What makes it weaker than it looks."""
    now, question = settled.now, settled.question
    found = []
    if doubt := _rate_warning(settled):
        found.append(doubt)
    if unknown := [one.name for one in settled.setting.exposures if not one.is_known]:
        found.append(
            f"it is unknown what {', '.join(unknown)} ha{'s' if len(unknown) == 1 else 've'} read: a teacher that has "
            "read the students' text or the held-out one looks better than it is (one from study run or train tells)"
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
    """Arms whose best rate, or its fall, was not between others that were tried."""
    arms = tuning.get("arms", [])
    return [
        row["arm"]
        for row in arms
        if not all(row[key]["interior"] for key in ("learning_rate", "horizon") if key in row)
    ]


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
