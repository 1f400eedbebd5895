"""What a settlement says: the keys of `plan` with the bound on regret and the history, and a line per stage.

Everything follows from the question, the stages and their runs, so it holds whenever one stops.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.planning.phrases import interval, nats
from distillaw.planning.wording import stated
from distillaw.quantities import finite, format_count, format_flop
from distillaw.runs.record import read_searches
from distillaw.settling.noise import RateCheck
from distillaw.settling.pilots import Tuned
from distillaw.settling.question import NONE, PilotQuestion, PilotRun, Stage, runs_of, stage_flops
from distillaw.settling.setting import Setting
from distillaw.settling.standing import Standing, conclude
from distillaw.sweep.exposure import Exposure


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Where a settlement ended, and how it came there."""

    setting: Setting
    question: PilotQuestion
    tuned: Tuned
    stages: Sequence[Stage]
    runs: Sequence[PilotRun]
    history: Sequence[Standing]
    """After each stage; of nothing but beliefs where there was none."""
    is_final: bool
    """Whether nothing more would be run."""

    @property
    def now(self) -> Standing:
        """The last look."""
        return self.history[-1]


def verdict_json(settled: Settled) -> dict[str, object]:
    """The whole answer, at full precision."""
    now, question = settled.now, settled.question
    end, pretrain = conclude(question, now), now.probability[NONE]
    best = now.gains[end.choice if end.choice != NONE else now.best_teacher]
    return {
        "verdict": end.verdict,
        "probability": pretrain if end.choice == NONE else 1 - pretrain,
        "margin": question.margin,
        "sentence": end.sentence,
        "is_final": settled.is_final,
        "folder": str(settled.setting.pilots.study.path),
        "strategies": _strategies(settled, end.choice),
        "gain": best.to_json(),
        "crossover_tokens": {"lower": None, "median": None, "upper": None},
        "flips_if": flips(settled, end.verdict, end.choice, end.bound),
        "assumptions": assumptions(settled),
        "inside_range": _is_inside(settled),
        "warnings": warnings(settled),
        "regret_bound": finite(end.bound),
        "leader": name_of(end.choice),
        "level": question.level,
        "budget": question.budget,
        "compute_spent": now.spent,
        "share_of_target": now.spent / question.target_flops,
        "search_compute": question.spent,
        "learning_rates": {check.arm: check.rate(check.searched or 0) for check in settled.tuned.rates},
        "rates": _rates_json(settled),
        "teachers_text": {one.name: _read(one) for one in settled.setting.exposures},
        "batch_tokens": settled.tuned.batch_tokens,
        "student_params": question.target.params,
        "student_tokens": question.tokens,
        "stages": [_stage(settled, i) for i in range(len(settled.stages))],
        "dropped": dict(now.dropped),
    }


def _rates_json(settled: Settled) -> dict[str, object]:
    """By arm: rates of the smallest pilots at the budgets searched, and what the target's may cost it."""
    return {
        check.arm: {
            "peak_lr": check.rate(check.searched or 0),
            "searched_tokens": check.searched,
            "checked_peak_lr": None if check.checked is None else check.rate(check.checked),
            "checked_tokens": check.checked,
            "doubt_at_target": check.cost(settled.question.tokens),
        }
        for check in settled.tuned.rates
    }


def _read(one: Exposure) -> dict[str, float] | None:
    """Shares of documents that a teacher has read; None where nobody can tell."""
    return None if one.shared is None else {"students": one.shared.student, "heldout": one.shared.validation}


def _strategies(settled: Settled, choice: str) -> list[dict[str, object]]:
    """The choice first, then the others by their mean loss."""
    now, question = settled.now, settled.question
    names = sorted(now.losses, key=lambda name: (name != choice, now.losses[name].mean))
    training = question.target_flops
    rows: list[dict[str, object]] = []
    for name in names:
        teacher = None if name == NONE else question.candidate(name)
        logits = 0.0 if teacher is None else teacher.flops * question.tokens
        rows.append(
            {
                "name": "pretrain" if teacher is None else f"distil from {name}",
                "teacher": None if teacher is None else {"name": name, "loss": teacher.loss},
                "student_params": question.target.params,
                "student_tokens": question.tokens,
                "teacher_params": None,
                "teacher_tokens": None,
                "teacher_loss": None if teacher is None else teacher.loss,
                "compute": {
                    "student_training": training,
                    "teacher_logits": logits,
                    "teacher_training": 0.0,
                    "total": training + logits,
                },
                "loss": now.losses[name].to_json(),
                "gain": None if teacher is None else now.gains[name].to_json(),
                "probability_best": now.probability[name],
                "dropped": now.dropped.get(name),
            }
        )
    return rows


def _is_inside(settled: Settled) -> bool:
    """Whether a pilot reached the target's size and tokens: a settlement extrapolates, and says so."""
    question = settled.question
    return any(
        question.size(stage.size).params >= question.target.params and max(stage.tokens) >= question.tokens
        for stage in settled.stages
    )


def _stage(settled: Settled, index: int) -> dict[str, object]:
    """What ran, what had been expected of it, what came, and where things stood after."""
    stage: Stage = settled.stages[index]
    now = settled.history[index]
    return {
        "student_params": settled.question.size(stage.size).params,
        "sizes": list(stage.labels),
        "tokens": list(stage.tokens),
        "teachers": list(stage.candidates),
        "seeds": list(stage.seeds),
        "compute": stage_flops(settled.question, stage),
        "predicted": [check.to_json() for check in settled.now.predicted if check.stage == index],
        "runs": [
            {
                "run_id": run.run_id,
                "teacher": name_of(run.candidate),
                "tokens": run.tokens,
                "seed": run.seed,
                "loss": finite(run.loss),
                "gain_se": finite(run.gain_se),
            }
            for run in runs_of(settled.question, stage, settled.runs)
        ],
        "leader": name_of(now.leader),
        "gains": {name: gain.to_json() for name, gain in now.gains.items()},
        "regret_bound": finite(now.regret),
        "dropped": dict(now.dropped),
        "compute_spent": now.spent,
    }


def belief_json(now: Standing) -> Mapping[str, object]:
    """What is believed before a stage: gains and losses at the target, who leads, what is at stake."""
    return {
        "gains": {name: gain.to_json() for name, gain in now.gains.items()},
        "losses": {name or "none": loss.to_json() for name, loss in now.losses.items()},
        "leader": now.leader or "none",
        "regret_bound": finite(now.regret),
        "dropped": dict(now.dropped),
    }


def name_of(candidate: str) -> str:
    """A candidate as text; none is none."""
    return candidate or "none"


def stage_words(stage: Stage) -> str:
    """`25k parameters on 20k, 40k tokens, 2 seeds`."""
    tokens = ", ".join(format_count(t) for t in stage.tokens)
    seeds = f"{len(stage.seeds)} seed{'s' if len(stage.seeds) > 1 else ''}"
    return f"{', '.join(stage.labels)} parameters on {tokens} tokens, {seeds}"


def look(question: PilotQuestion, stage: Stage, now: Standing, *, number: int) -> str:
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


def _best_gain(question: PilotQuestion, now: Standing) -> str:
    name = now.best_teacher
    return f"the best gain is that of {name}, {stated(now.gains[name], question.level)}"


def assumptions(settled: Settled) -> list[str]:
    """What the bound rests on."""
    question, data = settled.question, settled.setting.spec.data
    found = [
        f"the target is trained as the pilots were: text ({data.source}), recipe, single epoch, "
        f"{format_count(question.tokens)} tokens with every teacher and with none; their forward passes are not held "
        "against them",
        f"rates: {_rates(settled)}",
        f"gains at the target lie where laws of the usual form allow them, given {len(settled.runs)} pilots, but for a "
        f"misfit of {_misfit(settled.now)} of the loss, learnt from other studies and from what the pilots leave over",
    ]
    if any(c.flops == 0 for c in question.candidates):
        found.append("a teacher without forward passes costs nothing: its targets are stored")
    return found


def _misfit(now: Standing) -> str:
    """Half of what is believed of it lies between."""
    shares = now.belief.misfits
    sizes, chances = np.array(list(shares)), np.cumsum(list(shares.values()))
    low, high = (sizes[int(np.searchsorted(chances, p))] for p in (0.25, 0.75))
    return f"{low:.1%}" if low == high else f"{low:.1%} to {high:.1%}"


def rate_words(check: RateCheck) -> str:
    """`0.011 on 20k tokens, 0.0078 on 160k`: rates of the smallest pilots of an arm, where they were searched."""
    near = f"{check.rate(check.searched or 0):g}"
    if check.searched is None or check.checked is None:
        return near
    far = f"{check.rate(check.checked):g} on {format_count(check.checked)}"
    return f"{near} on {format_count(check.searched)} tokens, {far}"


def _rates(settled: Settled) -> str:
    tuned, batch = settled.tuned, settled.tuned.batch_tokens
    supervised, distilled = (rate_words(check) for check in tuned.rates)
    if not tuned.flops:
        return f"the file's, {supervised} at batch {batch}, with and without a teacher (not searched)"
    return (
        f"{supervised} without and {distilled} with a teacher at batch {batch}, searched at "
        f"{settled.question.sizes[0].label} parameters; those of other sizes and budgets are foreseen from them"
    )


def _rate_warning(settled: Settled) -> str | None:
    """What is not known of the rates of the pilots, or of the target's."""
    rates, question = settled.tuned.rates, settled.question
    reach = min(check.reach for check in rates)
    longest = max((stage.tokens[-1] for stage in settled.stages), default=0)
    alone, taught = (nats(check.cost(question.tokens)) for check in rates)
    cost = f"{alone} nats/token without and {taught} with a teacher"
    if settled.tuned.flops and reach >= max(longest, question.tokens) / 2:
        return None
    if not settled.tuned.flops:
        what = "learning rates were not searched (the budget had too little to spare)"
    elif reach * 2 > longest:
        what = (
            f"rates were checked on up to {format_count(reach)} tokens, as far as the pilots read; the target "
            f"reads {format_count(question.tokens)}"
        )
    else:
        what = (
            f"rates were checked on up to {format_count(reach)} tokens only; pilots read up to "
            f"{format_count(longest)}, the target {format_count(question.tokens)}"
        )
    return f"{what}. A rate that does not suit may cost it {cost}, which is in the intervals: search them again there"


def warnings(settled: Settled) -> list[str]:
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
    searches = read_searches(settled.tuned.tuning)
    if ends := dict.fromkeys(one.arm for one in searches if one.what != "batch" and not one.interior):
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


def flips(settled: Settled, verdict: str, choice: str, bound: float) -> list[str]:
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
