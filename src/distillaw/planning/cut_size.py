"""How large a student to cut out of a teacher: a law of capacity gap turned round.

The published constant holds for students cut out of the teacher they learn from, and so must a fitted one: a law of
fresh students, or of students cut out of one reference, says nothing of a cut (docs/gap.md).
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from distillaw.errors import ConfigError, UnitError
from distillaw.fitting.query import NO_REPLICATES, budget_of, load_law
from distillaw.fitting.result import FitResult
from distillaw.laws.capacity import CapacityGapLine
from distillaw.laws.published import PublishedLaw, laws_available, published
from distillaw.planning.gap import WHOSE_SIZES
from distillaw.quantities import format_count

PUBLISHED = "zhang2023-constant-ratio"
"""Zhang et al. 2023, arXiv 2311.07052: the teacher over 2.5."""
_LEVEL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSize:
    """The student of which a teacher is the best one."""

    law: str
    teacher_params: float
    params: float
    """Non-embedding parameters of the student."""
    interval: tuple[float, float | None] | None
    """90 %; the upper end is None where the law does not bound it; None for a published law, and for a fit without
    replicates."""
    inside_range: bool
    """Whether the student, and its tokens where they are known, lie among those the law was fitted on."""
    note: str
    """The law in words, with what it leaves open."""

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self)


def size_of_cut(
    teacher_params: float,
    law: str | Path | FitResult | PublishedLaw = PUBLISHED,
    *,
    student_tokens: float | None = None,
) -> CutSize:
    """The student to cut out of a teacher of this size.

    Args:
        teacher_params: non-embedding parameters.
        law: a capacity-gap law of students cut out of their teachers: a published name, or a fit or its file.
        student_tokens: what the student will read, to hold against the budget of a fit; None where it is not known.

    Raises:
        ConfigError: another law, one of another arm, or one that makes the student no smaller than its teacher.
        UnitError: a law that counts other parameters.
    """
    found = load_law(str(law)) if isinstance(law, str | Path) else law
    name = str(law) if isinstance(law, str | Path) else f"this {type(law).__name__}"
    line = found.capacity_gap if isinstance(found, PublishedLaw) else found.law
    if not isinstance(line, CapacityGapLine):
        known = [each for each in laws_available() if published(each).capacity_gap is not None]
        why = "not a law of capacity gap"
        if isinstance(found, FitResult) and found.family == "capacity-gap":
            why = f"{found.status.name}: {found.remedy.rstrip('.')}"
        raise ConfigError(
            f"{name}: {why}. Give {' or '.join(known)}, or the file of "
            "`distillaw fit RUNS --law capacity-gap --arm pruned --out FILE`"
        )
    if isinstance(found, FitResult):
        _check_fit(found, name)
    params = float(line.best_student(teacher_params=teacher_params))
    if params >= teacher_params:
        raise ConfigError(
            f"{name}: a teacher of {format_count(teacher_params)} would be the best one of a student of "
            f"{format_count(params)}, which cannot be cut out of it; give the size (--student or --keep)"
        )
    student = {"student_params": params} | ({} if student_tokens is None else {"student_tokens": student_tokens})
    inside = bool(line.range.inside(student))
    interval, rule, whose = None, f"teacher = {line.slope:.4g} x student", ""
    if isinstance(found, FitResult):
        interval, whose = _interval(found, line, teacher_params, params), f" on {budget_of(found)}"
        rule += f" {line.intercept:+.3g}M: {format_count(params)}"
        if interval is None:
            rule += f" ({NO_REPLICATES})"
        else:
            high = "more than the law bounds" if interval[1] is None else format_count(interval[1])
            rule += f" ({format_count(interval[0])} to {high}, 90 %)"
    else:
        rule += f" (arXiv 2311.07052; no interval is published; {WHOSE_SIZES})"
    where = "" if inside else "; outside the students it was fitted on: " + "; ".join(line.range.complaints(student))
    note = f"{rule}, for students cut out of their teacher{whose}, says {name}{where}"
    return CutSize(
        law=name, teacher_params=teacher_params, params=params, interval=interval, inside_range=inside, note=note
    )


def _check_fit(fit: FitResult, name: str) -> None:
    if fit.params_convention != "non-embedding":
        raise UnitError(f"{name} counts {fit.params_convention} parameters, a cut non-embedding ones; fit it on those")
    if (arm := fit.provenance.get("arm")) != "pruned":
        raise ConfigError(
            f"{name} was fitted on {arm or 'unnamed'} starts, and a cut is a pruned one; "
            "distillaw fit RUNS --law capacity-gap --arm pruned --out FILE"
        )


def _interval(
    fit: FitResult, line: CapacityGapLine, teacher: float, params: float
) -> tuple[float, float | None] | None:
    """Replicates turned round, and the scatter of optima about the line as a scatter of students.

    Beyond the students that were fitted the widest of line and power (`FittedCurve.line_and_power`).
    """
    assert fit.curve is not None
    if not len(fit.curve.replicates):
        return None
    tail = [0.5 - _LEVEL / 2, 0.5 + _LEVEL / 2]
    forms = fit.curve.students_of(np.log(teacher), fit.fitted_range.as_dict()["student_params"])
    ends = np.exp([np.quantile(each, tail, method="nearest") for each in forms])
    own = NormalDist().inv_cdf(0.5 + _LEVEL / 2) * fit.noise * teacher / (line.slope * params)
    low = params * np.exp(-np.hypot(np.log(params / min(ends[:, 0].min(), params)), own))
    high = params * np.exp(np.hypot(np.log(max(ends[:, 1].max(), params) / params), own))
    return float(low), float(high) if np.isfinite(high) and high < teacher else None
