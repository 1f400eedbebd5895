"""A verdict for machines: the keys of `plan`, the bound on regret, and the history of stages."""

from typing import TYPE_CHECKING

from distillaw.cli.settle_words import assumptions, finite, flips, name_of, rate_doubts, warnings
from distillaw.planning.evidence import Interval
from distillaw.settling.conclusion import Conclusion, conclude
from distillaw.settling.question import NONE, Stage, runs_of, stage_flops
from distillaw.settling.standing import Standing
from distillaw.sweep.exposure import Exposure

if TYPE_CHECKING:
    from distillaw.cli.settle_run import Settled


def verdict_json(settled: "Settled") -> dict[str, object]:
    """The whole answer, at full precision."""
    now, question = settled.now, settled.question
    end = conclude(question, now)
    return {
        "verdict": end.verdict,
        "probability": _probability(now, end),
        "margin": question.margin,
        "sentence": end.sentence,
        "is_final": settled.is_final,
        "folder": str(settled.setting.pilots.study.path),
        "strategies": _strategies(settled, end.choice),
        "gain": _best_gain(now, end.choice).to_json(),
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
        "learning_rates": {arm: rates.smallest[0] for arm, rates in settled.tuned.rates.items()},
        "rates": _rates(settled),
        "teachers_text": {one.name: _read(one) for one in settled.setting.exposures},
        "batch_tokens": settled.tuned.batch_tokens,
        "student_params": question.target.params,
        "student_tokens": question.tokens,
        "stages": [_stage(settled, i) for i in range(len(settled.stages))],
        "dropped": dict(now.dropped),
    }


def _rates(settled: "Settled") -> dict[str, object]:
    """By arm: the rate of the smallest pilots, its fall, up to where both were checked, and what they may cost."""
    costs = rate_doubts(settled, settled.question.tokens)
    found = {}
    for (arm, rates), cost in zip(settled.tuned.rates.items(), costs.values(), strict=True):
        check = settled.tuned.checks[arm]
        peak, power = rates.smallest
        found[arm] = {"peak_lr": peak, "rate_power": power, "searched_tokens": check.searched,
                      "checked_tokens": check.checked, "doubt_at_target": cost}  # fmt: skip
    return found


def _read(one: Exposure) -> dict[str, float] | None:
    """Shares of documents that a teacher has read; None where nobody can tell."""
    return None if one.shared is None else {"students": one.shared.student, "heldout": one.shared.validation}


def _probability(now: Standing, end: Conclusion) -> float:
    """That the choice between distilling and pretraining is right."""
    alone = now.probability[NONE]
    return alone if end.choice == NONE else 1 - alone


def _best_gain(now: Standing, choice: str) -> Interval:
    """Of the chosen teacher, else of the one with the largest."""
    return now.gains[choice if choice != NONE else now.best_teacher]


def _strategies(settled: "Settled", choice: str) -> list[dict[str, object]]:
    """The choice first, then the others by their mean loss."""
    now, question = settled.now, settled.question
    names = sorted(now.losses, key=lambda name: (name != choice, now.losses[name].mean))
    training = question.target_flops
    rows = []
    for name in names:
        teacher = None if name == NONE else question.candidate(name)
        logits = 0.0 if teacher is None else teacher.flops * question.tokens
        rows.append({
            "name": "pretrain" if teacher is None else f"distil from {name}",
            "teacher": None if teacher is None else {"name": name, "loss": teacher.loss},
            "student_params": question.target.params, "student_tokens": question.tokens,
            "teacher_params": None, "teacher_tokens": None,
            "teacher_loss": None if teacher is None else teacher.loss,
            "compute": {"student_training": training, "teacher_logits": logits, "teacher_training": 0.0,
                        "total": training + logits},
            "loss": now.losses[name].to_json(),
            "gain": None if teacher is None else now.gains[name].to_json(),
            "probability_best": now.probability[name], "dropped": now.dropped.get(name),
        })  # fmt: skip
    return rows


def _is_inside(settled: "Settled") -> bool:
    """Whether a pilot reached the target's size and tokens: a settlement extrapolates, and says so."""
    question = settled.question
    return any(
        question.size(stage.size).params >= question.target.params and max(stage.tokens) >= question.tokens
        for stage in settled.stages
    )


def _stage(settled: "Settled", index: int) -> dict[str, object]:
    """What ran, what had been expected of it, what came, and where things stood after."""
    stage: Stage = settled.stages[index]
    now = settled.history[index]
    return {
        "student_params": settled.question.size(stage.size).params, "sizes": list(stage.labels),
        "tokens": list(stage.tokens),
        "teachers": list(stage.candidates), "seeds": list(stage.seeds),
        "compute": stage_flops(settled.question, stage),
        "predicted": [check.to_json() for check in settled.now.predicted if check.stage == index],
        "runs": [
            {"run_id": run.run_id, "teacher": name_of(run.candidate), "tokens": run.tokens, "seed": run.seed,
             "loss": finite(run.loss), "gain_se": finite(run.gain_se)}
            for run in runs_of(settled.question, stage, settled.runs)
        ],
        "leader": name_of(now.leader), "gains": {name: gain.to_json() for name, gain in now.gains.items()},
        "regret_bound": finite(now.regret), "dropped": dict(now.dropped), "compute_spent": now.spent,
    }  # fmt: skip
