"""What a settlement says: the keys of `plan` with the bound on regret and the history, and a line per stage.

Everything follows from the question, the stages and their runs, so it holds whenever one stops.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from distillaw.planning.phrases import interval, nats
from distillaw.planning.wording import stated
from distillaw.quantities import finite, format_count, format_flop, plural
from distillaw.runs.record import read_searches
from distillaw.settling.noise import RateCheck
from distillaw.settling.pilots import Tuned
from distillaw.settling.question import NONE, PilotQuestion, PilotRun, Stage, runs_of, stage_flops
from distillaw.settling.setting import Setting
from distillaw.settling.standing import Standing, conclude


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
        "inside_range": any(
            question.size(stage.size).params >= question.target.params and max(stage.tokens) >= question.tokens
            for stage in settled.stages
        ),
        "warnings": warnings(settled),
        "regret_bound": finite(end.bound),
        "leader": end.choice or "none",
        "level": question.level,
        "budget": question.budget,
        "compute_spent": now.spent,
        "share_of_target": now.spent / question.target_flops,
        "search_compute": question.spent,
        "learning_rates": {check.arm: check.rate(check.searched or 0) for check in settled.tuned.rates},
        "rates": {
            check.arm: {
                "peak_lr": check.rate(check.searched or 0),
                "searched_tokens": check.searched,
                "checked_peak_lr": None if check.checked is None else check.rate(check.checked),
                "checked_tokens": check.checked,
                "doubt_at_target": check.cost(question.target.params, question.tokens),
            }
            for check in settled.tuned.rates
        },
        "teachers_text": {
            one.name: None if one.shared is None else {"students": one.shared.student, "heldout": one.shared.validation}
            for one in settled.setting.exposures
        },
        "batch_tokens": settled.tuned.batch_tokens,
        "student_params": question.target.params,
        "student_tokens": question.tokens,
        "stages": [_stage(settled, i) for i in range(len(settled.stages))],
        "dropped": dict(now.dropped),
    }


def _strategies(settled: Settled, choice: str) -> list[dict[str, object]]:
    """The choice first, then the others by their mean loss."""
    now, question = settled.now, settled.question
    rows: list[dict[str, object]] = []
    for name in sorted(now.losses, key=lambda name: (name != choice, now.losses[name].mean)):
        teacher = None if name == NONE else question.candidate(name)
        training, logits = question.target_flops, teacher.flops * question.tokens if teacher else 0.0
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


def _stage(settled: Settled, index: int) -> dict[str, object]:
    """What ran, what had been expected of it, what came, and where things stood after."""
    stage, now = settled.stages[index], settled.history[index]
    return {
        "student_params": settled.question.size(stage.size).params,
        "sizes": list(stage.labels),
        "tokens": list(stage.tokens),
        "teachers": list(stage.candidates),
        "seeds": list(stage.seeds),
        "compute": stage_flops(settled.question, stage),
        "predicted": [asdict(check) for check in settled.now.predicted if check.stage == index],
        "runs": [
            {
                "run_id": run.run_id,
                "teacher": run.candidate or "none",
                "tokens": run.tokens,
                "seed": run.seed,
                "loss": finite(run.loss),
                "gain_se": finite(run.gain_se),
            }
            for run in runs_of(settled.question, stage, settled.runs)
        ],
        **{name: said for name, said in belief_json(now).items() if name != "losses"},
        "compute_spent": now.spent,
    }


def belief_json(now: Standing) -> dict[str, object]:
    """What is believed before or after a stage: gains and losses at the target, who leads, what is at stake."""
    return {
        "leader": now.leader or "none",
        "gains": {name: gain.to_json() for name, gain in now.gains.items()},
        "losses": {name or "none": loss.to_json() for name, loss in now.losses.items()},
        "regret_bound": finite(now.regret),
        "dropped": dict(now.dropped),
    }


def look(question: PilotQuestion, stage: Stage, now: Standing, *, number: int) -> str:
    """One plain line after a stage: who leads, by how much, what is at stake, what it has cost, who is out."""
    best = stated(now.gains[now.leader or now.best_teacher], question.level)
    lead = f"no teacher leads; the best gain is that of {now.best_teacher}, {best}"
    if now.leader:
        lead = f"{now.leader} leads, gain {best}"
    out = "".join(f"; {name} is out: {now.dropped[name]}" for name in stage.candidates if name in now.dropped)
    tokens = ", ".join(format_count(t) for t in stage.tokens)
    return (
        f"stage {number} ({', '.join(stage.labels)} parameters on {tokens} tokens, "
        f"{plural(len(stage.seeds), 'seed')}): {lead}; at most {nats(now.regret)} nats/token are at stake; "
        f"{now.spent / question.target_flops:.2%} of the target's training spent{out}"
    )


def assumptions(settled: Settled) -> list[str]:
    """What the bound rests on."""
    question, data, tuned = settled.question, settled.setting.spec.data, settled.tuned
    alone, taught = (rate_words(check) for check in tuned.rates)
    rates = f"the file's, {alone} at batch {tuned.batch_tokens}, with and without a teacher (not searched)"
    if tuned.flops:
        rates = (
            f"{alone} without and {taught} with a teacher at batch {tuned.batch_tokens}, searched at "
            f"{question.sizes[0].label} parameters; those of other sizes and budgets are foreseen from them"
        )
    shares = settled.now.belief.misfits
    chances = np.cumsum(list(shares.values()))  # half of what is believed of it lies between
    low, high = (f"{list(shares)[int(np.searchsorted(chances, p))]:.1%}" for p in (0.25, 0.75))
    found = [
        f"the target is trained as the pilots were: text ({data.source}), recipe, single epoch, "
        f"{format_count(question.tokens)} tokens with every teacher and with none; their forward passes are not held "
        "against them",
        f"rates: {rates}",
        f"gains at the target lie where laws of the usual form allow them, given {len(settled.runs)} pilots, but for a "
        f"misfit of {low if low == high else f'{low} to {high}'} of the loss, learnt from other studies and from what "
        "the pilots leave over",
    ]
    if any(c.flops == 0 for c in question.candidates):
        found.append("a teacher without forward passes costs nothing: its targets are stored")
    return found


def rate_words(check: RateCheck) -> str:
    """`0.011 on 20k tokens, 0.0078 on 160k`: rates of the smallest pilots of an arm, where they were searched."""
    near = f"{check.rate(check.searched or 0):g}"
    if check.searched is None or check.checked is None:
        return near
    far = f"{check.rate(check.checked):g} on {format_count(check.checked)}"
    return f"{near} on {format_count(check.searched)} tokens, {far}"


def _rate_warning(settled: Settled) -> str | None:
    """What is not known of the rates of the pilots, or of the target's."""
    rates, question = settled.tuned.rates, settled.question
    reach = min(check.reach for check in rates)
    longest = max((stage.tokens[-1] for stage in settled.stages), default=0)
    alone, taught = (nats(check.cost(question.target.params, question.tokens)) for check in rates)
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
    if lost := [run.candidate for run in settled.runs if not math.isfinite(run.loss)]:
        found.append(
            f"{plural(len(lost), 'pilot')} diverged ({', '.join(sorted(set(lost)))}): what is said of a teacher rests "
            "on the others alone"
        )
    if (documents := settled.setting.spec.data.validation_documents) < 60:
        found.append(f"only {documents} held-out documents: errors over documents are themselves uncertain")
    largest = max((question.size(stage.size).params for stage in settled.stages), default=math.inf)
    if (factor := question.target.params / largest) > 30:
        found.append(f"the target is {factor:.0f} times the largest pilot")
    if now.spent > question.budget * 1.001:
        found.append(
            f"{format_flop(now.spent)} were spent, more than the budget: the search went on for longer than usual"
        )
    return found


def flips(settled: Settled, verdict: str, choice: str, bound: float) -> list[str]:
    """What would change the answer."""
    now, question = settled.now, settled.question
    if verdict == "distil":
        gain = now.gains[choice]
        first = (
            f"a difference of {nats(gain.lower)} to {nats(gain.upper)} nats/token did not matter to you (the margin is "
            f"{nats(question.margin)})"
        )
    elif verdict == "pretrain":
        first = (
            f"less than {nats(bound)} nats/token mattered to you (the margin is {nats(question.margin)}): the best "
            f"teacher, {now.best_teacher}, has a gain of {interval(now.gains[now.best_teacher])}"
        )
    elif choice != NONE and bound <= question.margin:
        first = (
            f"it were known whether {choice} is better than no teacher at all: its gain is "
            f"{interval(now.gains[choice])}, and choosing it loses no more than the margin, {nats(question.margin)}"
        )
    else:
        first = (
            f"the margin were {nats(bound)} nats/token or more (it is {nats(question.margin)}), or the budget larger"
        )
    return [
        first,
        f"the target were another than {question.target.label} on {format_count(question.tokens)} tokens: gains shrink "
        "and teachers change places as students grow and read more",
    ]
