"""`distillaw.plan` and `distillaw.fit` on the pilots that `settle` ran: the same evidence, other readers."""

import numpy as np

import distillaw as dl
from benchmarks.settle.scores import is_false, regret
from benchmarks.verdict.run import PLAIN, fits_of
from benchmarks.verdict.studies import Study
from benchmarks.verdict.truths import TRUTHS
from distillaw.errors import DistillawError
from distillaw.settling.question import NONE

BOOTSTRAP = 40
FAMILIES = ("supervised", "distillation-auto")


def planned(decision, study, record, *, vocab, context):
    """What the planner says of this study, and whether it is so.

    Args:
        decision: question, true losses, and the candidates as teachers.
        study: has the `table` that laws are fitted to.
        record: the same runs as a study folder.
        vocab: for counting FLOP.
        context: for counting FLOP.
    """
    question, losses = decision.question, decision.losses
    others = [name for name in TRUTHS if name not in (decision.family, "farseer")]
    fits = list(fits_of(study, BOOTSTRAP).values())
    try:
        verdict = dl.plan(
            question.target.params,
            student_tokens=question.tokens,
            teachers=list(decision.teachers),
            study=record,
            law=fits or None,
            published=others,
            scenario="best-case",
            vocab=vocab,
            context=context,
            seed=decision.number,
            **PLAIN,
        )
    except DistillawError as error:
        return {"refused": str(error)}
    best = verdict.headline.best.teacher.name
    first = next(s for s in verdict.strategies if s.kind in ("pretrain", "distil"))
    close = first.teacher.name if first.teacher else NONE
    chosen = {"distil": best, "pretrain": NONE, "too-close": close}[verdict.verdict]
    gain = losses[NONE] - losses[best]
    return {
        "verdict": verdict.verdict,
        "chosen": chosen,
        "regret": regret(losses, chosen),
        "source": verdict.headline.kind,
        "false": is_false(verdict.verdict, losses, chosen, question.margin, 0.0),
        "gain_in": verdict.gain.lower <= gain <= verdict.gain.upper,
        "probability": verdict.call.distil,
        "came": gain > verdict.margin,
        "half_width": (verdict.gain.upper - verdict.gain.lower) / 2,
        "fits": [fit.status.name for fit in fits],
    }


def fitted(decision, table):
    """Per family: how the fit ended, and whether the interval of the loss at the target holds the truth."""
    question, losses = decision.question, decision.losses
    teacher = min(decision.teachers, key=lambda t: t.loss)
    size = {"params": question.target.params, "tokens": question.tokens}
    taught = {f"student_{k}": v for k, v in size.items()} | {"teacher_loss": teacher.loss}
    asked = {"supervised": (size, losses[NONE]), "distillation-auto": (taught, losses[teacher.name])}
    return {family: one_fit(table, family, *asked[family]) for family in FAMILIES}


def one_fit(table, family, at, truth):
    """How one fit ended."""
    try:
        fit = dl.fit(table, family=family, bootstrap=BOOTSTRAP, check=False)
        if not fit.is_usable:
            return {"status": fit.status.name}
        said = fit.predict(**at)
    except DistillawError as error:
        return {"status": f"refused: {type(error).__name__}", "why": str(error)}
    lower, upper = float(said.lower), float(said.upper)
    return {
        "status": said.status.name,
        "in": lower <= truth <= upper,
        "error": float(said.mean) / truth - 1,
        "half_width": (upper - lower) / 2 / truth,
    }


def simulated_study(decision, runs):
    """The pilots as a study of benchmarks/verdict/studies.py, which makes tables and records of them."""
    rows = [teacher_row(t) for t in decision.teachers]
    by_name = {t.name: t for t in decision.teachers}
    for run in {r.run_id: r for r in runs if np.isfinite(r.loss)}.values():
        teacher = by_name.get(run.candidate)
        rows.append(
            {
                "params": run.params,
                "tokens": run.tokens,
                "loss": run.loss,
                "teacher": run.candidate,
                "teacher_loss": teacher.loss if teacher else np.nan,
                "seed": run.seed,
                "group": f"{run.params:g}-{run.candidate}-{run.seed}",
            }
        )
    table = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    sizes, budgets = (np.unique([getattr(r, key) for r in runs]) for key in ("params", "tokens"))
    return Study(table, sizes, budgets, decision.teachers, decision.vocab, decision.context)


def teacher_row(teacher):
    """A teacher is a run without a teacher."""
    return {
        "params": teacher.params,
        "tokens": teacher.tokens,
        "loss": teacher.loss,
        "teacher": "",
        "teacher_loss": np.nan,
        "seed": 0,
        "group": teacher.run_id,
    }
