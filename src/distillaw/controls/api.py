"""All controls of a study: for `distillaw study check FOLDER`, the report, and the doubt that laws carry along."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from distillaw.controls import design, extra, law_checks, tuning
from distillaw.controls.control import STATUSES, Control
from distillaw.controls.study_runs import StudyRuns
from distillaw.fitting.result import FitResult
from distillaw.planning.verdict import Verdict
from distillaw.runs.record import StudyRecord

_DESIGN: tuple[Callable[[StudyRuns], Control], ...] = (
    tuning.check_rate,
    tuning.check_batch,
    tuning.check_horizon,
    tuning.check_steps,
    design.check_disjoint,
    extra.check_union,
    extra.check_seen,
    extra.check_flop,
    design.check_epoch,
    design.check_seeds,
    design.check_errors,
    design.check_range,
    design.check_pairs,
    law_checks.check_share,
    law_checks.check_conventions,
    design.check_lambda,
    design.check_temperature,
)
_LAWS = (law_checks.check_c0, law_checks.check_ratio)


def check_design(record: StudyRecord) -> list[Control]:
    """The controls that need runs alone: before a law is fitted."""
    return _check(record, _DESIGN)


def check_controls(record: StudyRecord) -> list[Control]:
    """All controls, those of the stored laws' precision included; empty without a finished student."""
    return _check(record, (*_DESIGN, *_LAWS))


def _check(record: StudyRecord, checks: Sequence[Callable[[StudyRuns], Control]]) -> list[Control]:
    spec, runs = record.info.get("spec"), StudyRuns(record.thinned())
    left_out = (spec.get("without_controls") if isinstance(spec, Mapping) else None) or ()
    found = [check(runs) for check in checks] if runs.grid else []
    return [
        control.answer("not applicable", f"left out by the study file ({control.found})", **control.numbers)
        if control.name in left_out
        else control
        for control in found
    ]


def summary(controls: Sequence[Control]) -> str:
    """`6 passed, 1 failed, 3 not done`, what applies only."""
    order = ("passed", "failed", "undecided", "not done")
    counts = {status: sum(c.status == status for c in controls) for status in order}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "none applies"


def doubts(controls: Sequence[Control], concern: str) -> dict[str, list[str]]:
    """Status -> names of the controls of laws or gains that did not pass, worst first; what a law's file carries."""
    found: dict[str, list[str]] = {}
    for status in STATUSES[:3]:
        if names := [c.name for c in controls if c.status == status and concern in c.concerns]:
            found[status] = names
    return found


def caveat(found: Mapping[str, Sequence[str]]) -> str:
    """The doubts in one sentence; empty where no control failed."""
    if failed := ", ".join(found.get("failed", ())):
        return f"controls failed: {failed} (distillaw study check FOLDER says what they mean)"
    return ""


def doubted_law(fit: FitResult, controls: Sequence[Control]) -> FitResult:
    """The law with what was not controlled in `details["controls"]`, and a note where a control failed."""
    found = doubts(controls, "laws")
    notes = (*fit.notes, note) if (note := caveat(found)) else fit.notes
    return replace(fit, details={**fit.details, "controls": found}, notes=notes)


def doubted_verdict(verdict: Verdict, controls: Sequence[Control]) -> Verdict:
    """The verdict with a warning where a control of gains failed."""
    note = caveat(doubts(controls, "gains"))
    return replace(verdict, warnings=(*verdict.warnings, f"measured gains: {note}")) if note else verdict
