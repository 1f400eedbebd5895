"""What `study next` says of its question: the answer as it stands, the batch that is proposed, and what comes of it.

A study with runs has one answer, that of `distillaw plan --study`: the same call, so the same probability. Batches are
chosen by a model of the runs that can price runs which do not exist yet (settling/); where there is no study to plan
on, a table or no run at all, what that model believes is all there is.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distillaw.errors import ConfigError, DistillawError
from distillaw.laws.base import EDGE
from distillaw.planning.decision import leads_distilling
from distillaw.planning.evidence import Interval
from distillaw.planning.phrases import percent
from distillaw.planning.verdict import Verdict
from distillaw.quantities import format_count, parse_count
from distillaw.runs.config import to_table, toml_value
from distillaw.runs.files import csv_text
from distillaw.runs.places import GENERATOR
from distillaw.sequential.question import Setup
from distillaw.settling.propose import ExpectedVerdict, Proposal, expect, gains_by_tokens
from distillaw.settling.question import NONE, Stage
from distillaw.settling.standing import Standing, conclude
from distillaw.sweep.spec import NONE as NO_TEACHER
from distillaw.sweep.spec import DesignSpec, StudentsSpec, StudySpec

BEYOND = "drawn on beyond the runs: take it as a direction, not as a number"


@dataclass(frozen=True, slots=True, kw_only=True)
class NextAnswer:
    """The question as it stands."""

    by: str
    """`plan`, or `model`: the one that batches are chosen by."""
    verdict: str
    choice: str
    """A teacher's label, or `none`."""
    sentence: str
    gains: Mapping[str, Interval]
    """By teacher, over no teacher at the target, nats/token; empty where nobody knows."""
    probability_best: Mapping[str, float]
    """Of each teacher; the model's has `none` among them."""
    distil: float | None = None
    """P(gain > margin), by `plan` alone; one half where nobody knows."""
    pretrain: float | None = None
    inside_range: bool
    """Whether the target lies among the runs and laws that say so."""
    is_known: bool = True
    """Whether anything that may decide reaches the target."""
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people; the sentence apart."""
        rows = []
        for name, gain in sorted(self.gains.items(), key=lambda item: -item[1].mean):
            row = f"  {name:<24} gain {gain.mean:+z.3f} [{gain.lower:+z.3f}, {gain.upper:+z.3f}]"
            if name in self.probability_best:
                who = "best teacher" if self.by == "plan" else "best"
                row += f"   {who} with {percent(self.probability_best[name])}"
            rows.append(row)
        return [*rows, *(f"  {note}" for note in self.notes)]

    def to_json(self) -> dict[str, object]:
        """Keys of the answer."""
        return {
            "decided_by": self.by,
            "verdict": self.verdict,
            "choice": self.choice,
            "sentence": self.sentence,
            "probability_distil": self.distil,
            "probability_pretrain": self.pretrain,
            "gains": {name: gain.to_json() for name, gain in self.gains.items()},
            "probability_best": dict(self.probability_best),
            "inside_range": self.inside_range,
        }


def answer_now(setup: Setup, now: Standing, verdict: Verdict | None) -> NextAnswer:
    """The planner's where a study has runs (`planned`), else the model's."""
    return _of_model(setup, now) if verdict is None else _of_plan(setup, now, verdict)


def planned(setup: Setup) -> Verdict | None:
    """What `distillaw plan --study FOLDER` says; None where it has nothing to say."""
    if setup.record is None or not setup.runs:
        return None
    from distillaw.planning.api import plan

    target = parse_count(setup.question.target.label)
    try:
        return plan(target, student_tokens=setup.question.tokens, study=setup.record, with_flips=False)
    except ConfigError:
        return None


def _of_plan(setup: Setup, now: Standing, verdict: Verdict) -> NextAnswer:
    """Where nobody knows, what the model draws on is shown as that, without a probability."""
    head = verdict.headline
    is_known = head.is_decisive
    rows = {
        setup.labels.get(row.teacher.run_id or "", row.teacher.name): row
        for row in head.distil
        if row.teacher is not None and row.gain is not None and not row.is_speculative
    }
    distils = verdict.verdict == "distil"
    if verdict.verdict == "too-close":
        distils = leads_distilling(head, verdict.call)
    best = next((label for label, row in rows.items() if row is head.best), "none")
    gains = {label: row.gain for label, row in rows.items() if row.gain is not None}
    shares = {label: row.share_best if row.share_best is not None else 1.0 for label, row in rows.items()}
    return NextAnswer(
        by="plan",
        verdict=verdict.verdict,
        choice=best if distils and is_known else "none",
        sentence=f"{verdict.title}  {verdict.sentence}",
        gains=gains if is_known else now.gains,
        probability_best=shares if is_known else {},
        distil=verdict.call.distil,
        pretrain=verdict.call.pretrain,
        inside_range=is_known and verdict.inside_range,
        is_known=is_known,
        notes=tuple(_notes(verdict)) if is_known else (f"by a model of these runs, {BEYOND}",),
    )


def _notes(verdict: Verdict) -> Iterator[str]:
    """Whether the runs and laws reach the target; where along the tokens the best teacher ceases to help."""
    if not verdict.inside_range:
        yield BEYOND
    band = verdict.crossover
    if band is not None and band.median is not None:
        low = f"below {format_count(band.searched[0])}" if band.lower is None else format_count(band.lower)
        high = f"beyond {format_count(band.searched[1])}" if band.upper is None else format_count(band.upper)
        yield f"training without a teacher catches up at {format_count(band.median)} tokens [{low} to {high}]"


def _of_model(setup: Setup, now: Standing) -> NextAnswer:
    end = conclude(setup.question, now)
    inside = bool(setup.runs) and _reaches(setup)
    notes = [f"{'none':<24} {'':<30} best with {percent(now.probability[NONE])}"]
    notes += [BEYOND] if setup.runs and not inside else []
    rows = gains_by_tokens(now) if setup.runs else []
    if len(rows) > 1:  # along the tokens that were run
        said = (
            f"{format_count(row['tokens'])} {row['gain']:+.3f} [{row['lower']:+.3f}, {row['upper']:+.3f}]"
            for row in rows
        )
        notes.append(f"gain of {now.best_teacher} by tokens: {', '.join(said)}")
    return NextAnswer(
        by="model",
        verdict=end.verdict,
        choice=end.choice or "none",
        sentence=end.sentence,
        gains=now.gains,
        probability_best={name or "none": p for name, p in now.probability.items()},
        inside_range=inside,
        notes=tuple(notes),
    )


def _reaches(setup: Setup) -> bool:
    """Whether the runs go as far as the target, in size and in tokens, but for the last part of a batch."""
    params, tokens = (max(getattr(run, name) for run in setup.runs) for name in ("params", "tokens"))
    least = 1 - EDGE
    return params >= least * setup.question.target.params and tokens >= least * setup.question.tokens


def snippet(stage: Stage) -> str:
    """What to paste into the study's file."""
    return "\n".join(_lines({"cells": [to_table(_cells_of(stage))]}, ""))


def _cells_of(stage: Stage) -> DesignSpec:
    """A stage as an entry of [[cells]]; seeds that were run before are not run again."""
    return DesignSpec(
        params=stage.labels, tokens=stage.tokens, teachers=(NO_TEACHER, *stage.candidates), seeds=max(stage.seeds) + 1
    )


def extended(spec: StudySpec, stage: Stage, *, is_first: bool) -> StudySpec:
    """The study with the batch: as its grid if nothing was run yet, else as cells beside it."""
    if is_first:
        return dataclasses.replace(spec, students=StudentsSpec(params=stage.labels, tokens=stage.tokens), replicates=())
    return dataclasses.replace(spec, cells=(*spec.cells, _cells_of(stage)))


def flops_beside(setup: Setup, said: Proposal) -> float | None:
    """FLOP of what `study run` trains of the batch's file besides the batch: searches, teachers, unfinished runs.

    None for a table, where nothing is proposed, or where a teacher from outside is not at hand.
    """
    if setup.spec is None or said.stage is None:
        return None
    from distillaw.sweep.cost import study_cost, study_vocab
    from distillaw.sweep.study import cost_left

    spec = extended(setup.spec, said.stage, is_first=not setup.runs)
    try:
        if setup.record is None:
            cost = study_cost(spec, study_vocab(spec))
        else:
            cost = cost_left(spec, setup.record.folder)
    except DistillawError:
        return None
    return max(0.0, cost.flops - said.flops)


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    """A table's own keys, then the tables in it."""
    inner = {key: value for key, value in table.items() if _is_table(value)}
    yield from (f"{key} = {toml_value(value)}" for key, value in table.items() if key not in inner)
    for key, value in inner.items():
        name = f"{path}{key}"
        for entry in value if isinstance(value, list) else [value]:
            yield f"\n[[{name}]]" if isinstance(value, list) else f"\n[{name}]"
            yield from _lines(entry, f"{name}.")


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def rows_of(setup: Setup, stage: Stage) -> list[dict[str, object]]:
    """One row per run that a stage lacks."""
    question = setup.question
    done = {(run.params, round(run.tokens), run.candidate, run.seed) for run in setup.runs}
    return [
        {
            "student": label,
            "student_params": question.size(label).params,
            "student_tokens": tokens,
            "teacher": name or "none",
            "teacher_loss": question.candidate(name).loss if name else None,
            "seed": seed,
        }
        for label in stage.labels
        for tokens in stage.tokens
        for name in (NONE, *stage.candidates)
        for seed in stage.seeds
        if (question.size(label).params, tokens, name, seed) not in done
    ]


def expectations(said: Proposal) -> tuple[ExpectedVerdict, ExpectedVerdict] | None:
    """The verdict now and as it should be after the stage; None where nothing is proposed."""
    if said.outlook is None or said.after is None:
        return None
    return expect(said.outlook, said.now), expect(said.after, said.now)


def batch_file(setup: Setup, stage: Stage) -> str:
    """The study with the batch, or the rows of the batch as CSV; both say that our next call may replace them."""
    if setup.spec is not None:
        study = extended(setup.spec, stage, is_first=not setup.runs)
        toml = "\n".join(_lines(to_table(study), "")).strip()  # settings at their defaults are left out
        return f"# generator: {GENERATOR}, study next: its next call may replace this file\n\n{toml}\n"
    return csv_text({**row, "generator": f"generator: {GENERATOR}"} for row in rows_of(setup, stage))


def answer_json(source: str, setup: Setup, said: Proposal, answer: NextAnswer) -> Mapping[str, object]:
    """All of it for `--json`."""
    question, now = setup.question, said.now
    both = (expectations(said) if answer.is_known else None) or (None, None)
    # the model's own chance of the right choice only where the planner has not said its own
    left_out = () if answer.by == "model" else ("probability_best",)
    before, after = (one and {k: v for k, v in dataclasses.asdict(one).items() if k not in left_out} for one in both)
    rows = gains_by_tokens(now) if setup.runs and answer.by == "model" else []
    return {
        "source": source,
        "target": {"student_params": question.target.params, "student_tokens": question.tokens},
        "margin": question.margin,
        "level": question.level,
        "num_runs": len(setup.runs),
        "flops_spent": setup.spent,
        "guessed_teachers": list(setup.untrained),
        **answer.to_json(),
        "regret_bound": conclude(question, now).bound,
        "dropped": dict(now.dropped),
        "gains_by_tokens": rows,
        "now": before,
        "after": after,
        "runs": rows_of(setup, said.stage) if said.stage else [],
        "flops": said.flops,
        "flops_beside": flops_beside(setup, said),
        "worth": {"regret": said.worth, "flops": said.worth_flops} if answer.is_known else None,
        "is_worth_it": said.stage is not None and not said.why,
        "why_not": said.why,
        "toml": snippet(said.stage).strip() if setup.spec is not None and said.stage is not None else None,
    }
