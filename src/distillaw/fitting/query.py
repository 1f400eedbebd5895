"""One question to one law, published or fitted: the loss of a student, with interval, range and warnings.

The keys are those of `predict` in interface.md. `load_law` is how every verb turns a name or a file into a law.
"""

from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError, UnitError
from distillaw.fitting.problem import check_convention
from distillaw.fitting.result import FitResult, convention_of
from distillaw.laws.capacity import CapacityGapLine
from distillaw.laws.distillation import StudentLaw
from distillaw.laws.published import PublishedLaw, laws_available, published
from distillaw.laws.supervised import SupervisedLaw
from distillaw.quantities import did_you_mean

SHORT_TRAINING = 20.0
"""Tokens per parameter below which a published distillation law is flagged (spec laws.md section 8.3)."""
UNSEEN_DATA = 0.02
"""Share of the data term below which the student's tokens do not inform the answer."""


def load_law(name: str) -> PublishedLaw | FitResult:
    """A published law by its name, or a fitted one from the file that `FitResult.save` wrote.

    Raises:
        ConfigError: neither a known name nor a file.
    """
    path = Path(name)
    if name in laws_available():
        return published(name)
    if path.is_file():
        return FitResult.load(path)
    known = laws_available()
    raise ConfigError(
        f"law: {name!r} is neither a published law{did_you_mean(name, known)} nor a file; "
        f"known: {', '.join(known)}; or a JSON file from `distillaw fit --out`"
    )


def predict_student(
    name: str,
    law: PublishedLaw | FitResult,
    *,
    student_params: float,
    student_tokens: float | None,
    teacher_loss: float | None = None,
    teacher_params: float | None = None,
    teacher_tokens: float | None = None,
    supervised_loss: float | None = None,
    level: float = 0.9,
    params_convention: str = "non-embedding",
) -> dict[str, object]:
    """The answer of `distillaw predict` as plain JSON values.

    Args:
        name: what to call the law in the answer.
        law: from `load_law`.
        student_params: N_S.
        student_tokens: D_S; not needed by a capacity-gap line.
        teacher_loss: L_T, nats per token; or the two below, from which the law's supervised half gives it.
        teacher_params: N_T.
        teacher_tokens: D_T.
        supervised_loss: Ltilde_S, the student's own loss without a teacher, where it was measured.
        level: coverage of the interval; published laws have none.
        params_convention: what the counts asked about hold; a law fitted in another one refuses.

    Raises:
        UnitError: the law was fitted on another count of parameters.
        ConfigError: the law lacks the half that the question needs, or a number is missing.
    """
    mixed = _mixed_conventions(name, law, params_convention)
    if _gap_line(law) is not None:
        return _best_teacher(name, law, student_params, level)
    if student_tokens is None:
        raise ConfigError("student_tokens is needed: the loss depends on it, e.g. --student-tokens 6B")
    supervised = _supervised(law)
    warnings = list(law.warnings) if isinstance(law, PublishedLaw) else _doubts(law)
    warnings += mixed
    inside = True
    if teacher_params is not None and teacher_tokens is not None:
        if supervised is None:
            raise ConfigError(
                f"{name} has no supervised half to turn the teacher's size into a loss; give its loss"
            )
        teacher_loss = float(supervised.supervised(params=teacher_params, tokens=teacher_tokens))
        inside = (
            bool(supervised.inside(params=teacher_params, tokens=teacher_tokens))
            or not supervised.range.bounds
        )
        complaints = supervised.range.complaints({"params": teacher_params, "tokens": teacher_tokens})
        warnings += [f"teacher: {line}" for line in complaints]
    cell = {"params": student_params, "tokens": student_tokens}
    answer: dict[str, object] = {
        "law": name,
        "supervised_loss": supervised_loss
        if supervised is None or supervised_loss
        else float(supervised(**cell)),
        "teacher_loss": teacher_loss,
    }
    if teacher_loss is None:
        answer |= _plain_loss(law, supervised, cell, level, warnings, name)
    else:
        answer |= _distilled_loss(law, cell, teacher_loss, supervised_loss, level, warnings, name)
        if supervised is not None and teacher_loss <= supervised.E:
            warnings.append(
                f"the teacher's loss {teacher_loss:.4g} is at or below the irreducible loss {supervised.E:.4g}"
            )
    answer["inside_range"] = bool(answer["inside_range"]) and inside
    status = law.status.name if isinstance(law, FitResult) else "PUBLISHED"
    return answer | {"status": status if answer["inside_range"] else "EXTRAPOLATED", "warnings": warnings}


def _mixed_conventions(name: str, law: PublishedLaw | FitResult, asked: str) -> list[str]:
    """A warning for a published law of another convention; a fitted one refuses."""
    check_convention("params_convention", asked)
    own = convention_of(law)
    if own is None or own == asked:
        return []
    text = f"{name} counts {own} parameters, the question {asked} ones"
    if isinstance(law, FitResult):
        raise UnitError(
            f"{text}; give {own} counts and say --params-convention {own}, or fit again on {asked} ones "
            f"(distillaw fit ... --params-convention total --vocab V --width COLUMN converts)"
        )
    return [f"{text}; give {own} counts and say --params-convention {own}"]


def _gap_line(law: PublishedLaw | FitResult) -> CapacityGapLine | None:
    if isinstance(law, PublishedLaw):
        return law.capacity_gap
    return law.law if isinstance(law.law, CapacityGapLine) else None


def _supervised(law: PublishedLaw | FitResult) -> SupervisedLaw | None:
    if isinstance(law, PublishedLaw):
        return law.supervised
    inner = law.law
    return (
        inner.supervised
        if isinstance(inner, StudentLaw)
        else (inner if isinstance(inner, SupervisedLaw) else None)
    )


def _doubts(result: FitResult) -> list[str]:
    from distillaw.fitting.status import FitStatus

    return [] if result.status is FitStatus.CONVERGED else [f"{result.status.name}: {result.remedy}"]


def _plain_loss(
    law: PublishedLaw | FitResult, supervised: SupervisedLaw | None, cell: dict[str, float], level: float,
    warnings: list[str], name: str,
) -> dict[str, object]:  # fmt: skip
    if isinstance(law, FitResult) and (law.curve is None or not law.curve.is_student):
        return _fitted(law, level, warnings, **cell)
    if supervised is None:
        raise ConfigError(f"{name} has no supervised half; give --teacher-loss")
    warnings += supervised.range.complaints(cell)
    interval = None
    if isinstance(law, FitResult) and law.curve is not None and len(law.curve.replicates):
        draws = law.supervised_draws(**cell)[:, 0]
        interval = [float(x) for x in np.percentile(draws, [50 * (1 - level), 50 * (1 + level)])]
        warnings.append("the interval of the supervised loss here is of its parameters only")
    inside = bool(supervised.inside(**cell)) if supervised.range.bounds else _cell_inside(law, cell)
    return {
        "student_loss": float(supervised.supervised(**cell)),
        "interval": interval,
        "inside_range": inside,
    }


def _cell_inside(law: PublishedLaw | FitResult, cell: dict[str, float]) -> bool:
    if isinstance(law, PublishedLaw):
        return False
    return bool(law.fitted_range.inside({f"student_{k}": v for k, v in cell.items()}))


def _distilled_loss(
    law: PublishedLaw | FitResult, cell: dict[str, float], teacher_loss: float, supervised_loss: float | None,
    level: float, warnings: list[str], name: str,
) -> dict[str, object]:  # fmt: skip
    coords = {
        "student_params": cell["params"],
        "student_tokens": cell["tokens"],
        "teacher_loss": teacher_loss,
    }
    own = {} if supervised_loss is None else {"supervised_loss": supervised_loss}
    if isinstance(law, FitResult):
        if law.curve is not None and not law.curve.is_student:
            raise ConfigError(f"{name} is a supervised law; a teacher needs a distillation family")
        return _fitted(law, level, warnings, **coords, **own)
    student = law.distillation
    if student is None:
        raise ConfigError(f"{name} has no distillation half; leave the teacher out or use another law")
    warnings += student.range.complaints(coords)
    if cell["tokens"] < SHORT_TRAINING * cell["params"]:
        warnings.append(
            f"student_tokens is {cell['tokens'] / cell['params']:.3g} per parameter, below {SHORT_TRAINING:.0f}: "
            f"the least certain region of this law"
        )
    share = float(student.data_share(student_params=cell["params"], student_tokens=cell["tokens"]))
    if share < UNSEEN_DATA:
        warnings.append(
            f"the data term is {100 * share:.2g} % of the student's sum: student_tokens hardly informs this answer"
        )
    return {
        "student_loss": float(student.distillation(**coords, **own)),
        "interval": None,
        "inside_range": bool(student.inside(**coords)),
        "data_share": share,
    }


def _fitted(law: FitResult, level: float, warnings: list[str], **coords: float) -> dict[str, object]:
    prediction = law.predict(level=level, **coords)
    warnings += law.fitted_range.complaints(coords)
    return {
        "student_loss": float(prediction.mean),
        "interval": [float(prediction.lower), float(prediction.upper)],
        "level": level,
        "inside_range": bool(prediction.inside_range),
    }


def _best_teacher(
    name: str, law: PublishedLaw | FitResult, student_params: float, level: float
) -> dict[str, object]:
    line = _gap_line(law)
    assert line is not None
    warnings = list(law.warnings) if isinstance(law, PublishedLaw) else _doubts(law)
    warnings += line.range.complaints({"student_params": student_params})
    interval = None
    if isinstance(law, FitResult):
        prediction = law.predict(level=level, student_params=student_params)
        interval = [float(prediction.lower), float(prediction.upper)]
    return {
        "law": name, "supervised_loss": None, "teacher_loss": None, "student_loss": None, "interval": None,
        "best_teacher_params": float(line.best_teacher(student_params=student_params)),
        "best_teacher_interval": interval,
        "inside_range": bool(line.inside(student_params=student_params)), "warnings": warnings,
    }  # fmt: skip
