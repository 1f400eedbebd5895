"""One question to one law, published or fitted: the loss of a student, with interval, range and warnings.

The keys are those of `distillaw predict --json`. `load_law` is how every verb turns a name or a file into a law.
"""

from pathlib import Path
from typing import Any

import numpy as np

from distillaw.errors import ConfigError, UnitError
from distillaw.fitting.observations import check_convention
from distillaw.fitting.result import FitResult, FitStatus, convention_of
from distillaw.laws.base import Box
from distillaw.laws.capacity import CapacityGapLine
from distillaw.laws.distillation import PowerTermLaw, StudentLaw
from distillaw.laws.published import PublishedLaw, laws_available, published, published_band
from distillaw.laws.supervised import SupervisedLaw
from distillaw.quantities import did_you_mean, format_count

LOSSES = (1e-3, 20.0)
"""Nats per token; a uniform guess among a million tokens costs 13.8."""
SHORT_TRAINING = 20.0
"""Tokens per parameter below which a published distillation law is flagged."""
NO_REPLICATES = "no interval: the law has no replicates, fit it again with --bootstrap 1000"
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
    student_tokens: float | None = None,
    unique_tokens: float | None = None,
    teacher_loss: float | None = None,
    teacher_params: float | None = None,
    teacher_tokens: float | None = None,
    supervised_loss: float | None = None,
    level: float = 0.9,
    params_convention: str = "non-embedding",
) -> dict[str, Any]:
    """The answer of `distillaw predict` as plain JSON values.

    Args:
        name: what to call the law in the answer.
        law: from `load_law`.
        student_params: N_S.
        student_tokens: D_S, repeats included; not needed by a capacity-gap line, which only says whether its own
            budget is another.
        unique_tokens: distinct tokens among them, for a law that corrects for repeated data.
        teacher_loss: L_T, nats per token; or the two below, from which the law's supervised half gives it.
        teacher_params: N_T.
        teacher_tokens: D_T.
        supervised_loss: Ltilde_S, the student's own loss without a teacher, where it was measured.
        level: coverage of the interval, which for a published law is the band of `laws.published_band`.
        params_convention: what the counts asked about hold; a law that says it counts others refuses.

    Raises:
        UnitError: the law counts other parameters than the question.
        ConfigError: the law lacks the half that the question needs, a number is missing or out of its range, or one
            is given that would do nothing.
    """
    optional = {"teacher_loss": teacher_loss, "teacher_params": teacher_params, "teacher_tokens": teacher_tokens}
    optional |= {"supervised_loss": supervised_loss, "unique_tokens": unique_tokens}
    given = {argument: value for argument, value in optional.items() if value is not None}
    refuse_mixed(name, law, params_convention)
    _check_question(name, law, given, level)
    if _gap_line(law) is not None:
        at = {"student_params": student_params}
        return _best_teacher(
            name, law, at if student_tokens is None else at | {"student_tokens": student_tokens}, level
        )
    own = {} if supervised_loss is None else {"supervised_loss": supervised_loss}
    if isinstance(law, FitResult) and law.curve is not None and law.curve.form == "pruned":
        if teacher_params is None or teacher_tokens is None:
            raise ConfigError(f"{name} is a law of starts: give the size and the tokens of the teacher that is cut")
        own = own or {"start_params": teacher_params, "start_tokens": teacher_tokens}
    if student_tokens is None:
        raise ConfigError("student_tokens is needed: the loss depends on it, e.g. --tokens 6B")
    supervised, warnings, inside = _supervised(law), _doubts(law), True
    if teacher_params is not None and teacher_tokens is not None:
        if supervised is None:
            raise ConfigError(f"{name} has no supervised half to turn the teacher's size into a loss; give its loss")
        teacher = {"params": teacher_params, "tokens": teacher_tokens}
        warnings += [f"teacher: {line}" for line in supervised.range.complaints(teacher)]
        inside = bool(supervised.inside(**teacher)) or not supervised.range.bounds
        teacher_loss = float(supervised(**teacher))
    cell = {"params": student_params, "tokens": student_tokens}
    alone = supervised_loss if supervised is None or supervised_loss else float(supervised(**cell))
    answer: dict[str, Any] = {"law": name, "supervised_loss": alone, "teacher_loss": teacher_loss}
    if isinstance(law, FitResult):
        answer |= _fitted(name, law, supervised, cell, teacher_loss, own, level, warnings)
    else:
        answer |= _published(name, law, cell, teacher_loss, own, unique_tokens, warnings)
    if teacher_loss is not None and supervised is not None and teacher_loss <= supervised.E:
        warnings.append(f"the teacher's loss {teacher_loss:.4g} is at or below the irreducible loss {supervised.E:.4g}")
    inside = answer["inside_range"] = bool(answer["inside_range"]) and inside
    if isinstance(law, PublishedLaw):
        part, coords = answer.pop("asked")
        interval, meaning = published_band(law, part=part, coords=coords, is_inside=inside, level=level)
        answer |= {"interval": interval and list(interval), "interval_meaning": meaning}
        answer |= {} if interval is None else {"level": level}
    return answer | {"status": _status(law, inside), "warnings": warnings}


def refuse_mixed(name: str, law: PublishedLaw | FitResult, asked: str) -> None:
    """A law that says it counts other parameters than the question."""
    check_convention("params_convention", asked)
    own = convention_of(law)
    if own is None or own == asked:
        return
    remedy = "`distillaw cost` prints both for a shape or a config"
    if isinstance(law, FitResult):
        remedy = f"or fit again on {asked} ones: distillaw fit ... --params-convention total --vocab V --width COLUMN"
    raise UnitError(
        f"{name} counts {own} parameters, the question {asked} ones, and the two differ by 5-30 %; give {own} counts "
        f"and say --params-convention {own} ({remedy})"
    )


def _check_question(name: str, law: PublishedLaw | FitResult, given: dict[str, float], level: float) -> None:
    """What contradicts itself, has an impossible value, or would silently do nothing."""
    sized = [argument for argument in ("teacher_params", "teacher_tokens") if argument in given]
    if "teacher_loss" in given and sized:
        raise ConfigError("give either teacher_loss, or teacher_params with teacher_tokens, not both")
    if len(sized) == 1:
        raise ConfigError("teacher_params and teacher_tokens belong together: they say what the teacher's loss is")
    for argument in ("teacher_loss", "supervised_loss"):
        if not LOSSES[0] <= given.get(argument, 1.0) <= LOSSES[1]:
            raise ConfigError(
                f"{argument}: got {given[argument]:g}; a loss is in nats per token, and guessing among a million "
                "tokens costs 13.8. Take the logarithm of a perplexity; multiply bits by 0.693"
            )
    if not 0 < level < 1:
        raise ConfigError(f"level: got {level:g}; give the coverage as a share between 0 and 1, e.g. 0.9")
    if given and _gap_line(law) is not None:
        raise ConfigError(
            f"{next(iter(given))}: {name} gives the best teacher's size for a student's size and takes nothing else"
        )
    if "unique_tokens" in given and (isinstance(law, FitResult) or law.repeated is None):
        raise ConfigError(
            f"unique_tokens: {name} does not correct for repeated data; muennighoff2023 does, on its own loss"
        )


def _status(law: PublishedLaw | FitResult, is_inside: bool) -> str:
    if not is_inside:
        return "EXTRAPOLATED"
    return law.status.name if isinstance(law, FitResult) else "PUBLISHED"


def _gap_line(law: PublishedLaw | FitResult) -> CapacityGapLine | None:
    if isinstance(law, PublishedLaw):
        return law.capacity_gap
    return law.law if isinstance(law.law, CapacityGapLine) else None


def _supervised(law: PublishedLaw | FitResult) -> SupervisedLaw | None:
    if isinstance(law, PublishedLaw):
        return law.supervised
    curve = law.curve
    if law.is_usable and curve is not None and curve.form == "pruned" and curve.behind is not None:
        inner = curve.behind.law(box=Box())
    else:
        inner = law.law
    if isinstance(inner, StudentLaw):
        return inner.supervised
    return inner if isinstance(inner, SupervisedLaw) else None


def _doubts(law: PublishedLaw | FitResult) -> list[str]:
    if isinstance(law, PublishedLaw):
        return list(law.warnings)
    found = [] if law.status is FitStatus.CONVERGED else [f"{law.status.name}: {law.remedy}"]
    failed = law.failed_controls
    return found + [f"controls failed in the study it was fitted on: {', '.join(failed)}"] * bool(failed)


def _taught(cell: dict[str, float], teacher_loss: float) -> dict[str, float]:
    """The coordinates of a distilled student."""
    return {"student_params": cell["params"], "student_tokens": cell["tokens"], "teacher_loss": teacher_loss}


def _published(
    name: str,
    law: PublishedLaw,
    cell: dict[str, float],
    teacher_loss: float | None,
    own: dict[str, float],
    unique_tokens: float | None,
    warnings: list[str],
) -> dict[str, Any]:
    """The answer of a published law; `asked` is what of it was evaluated at which coordinates, for its band."""
    if teacher_loss is None:
        if law.supervised is None:
            raise ConfigError(f"{name} has no supervised half; give --teacher-loss")
        warnings += law.supervised.range.complaints(cell)
        answer: dict[str, Any] = {"inside_range": bool(law.supervised.inside(**cell))}
        if unique_tokens is None:
            return answer | {"student_loss": float(law.supervised(**cell)), "asked": ("supervised", cell)}
        assert law.repeated is not None  # or _check_question has refused
        coords = cell | {"unique_tokens": unique_tokens}
        loss = float(law.repeated(**coords))
        tokens = law.repeated.correction.effective_tokens(tokens=cell["tokens"], unique_tokens=unique_tokens)
        answer |= {"supervised_loss": loss, "student_loss": loss, "effective_tokens": float(tokens)}
        return answer | {"asked": ("repeated", coords)}
    student = law.distillation
    if student is None:
        raise ConfigError(f"{name} has no distillation half; leave the teacher out or use another law")
    coords = _taught(cell, teacher_loss)
    warnings += student.range.complaints(coords)
    if cell["tokens"] < SHORT_TRAINING * cell["params"]:
        warnings.append(
            f"student_tokens is {cell['tokens'] / cell['params']:.3g} per parameter, below {SHORT_TRAINING:.0f}: "
            f"the least certain region of this law"
        )
    answer = {"inside_range": bool(student.inside(**coords)), **_share(student, cell, warnings)}
    coords |= own
    return answer | {"student_loss": float(student(**coords)), "asked": ("distillation", coords)}


def _fitted(
    name: str,
    law: FitResult,
    supervised: SupervisedLaw | None,
    cell: dict[str, float],
    teacher_loss: float | None,
    own: dict[str, float],
    level: float,
    warnings: list[str],
) -> dict[str, Any]:
    """The answer of a fitted law; of the supervised law behind a distillation law where there is no teacher."""
    curve = law.curve
    if teacher_loss is None and curve is not None and curve.is_student:
        if supervised is None:
            raise ConfigError(f"{name} has no supervised half; give --teacher-loss")
        warnings += supervised.range.complaints(cell)
        interval = None
        if len(curve.replicates):
            draws = law.supervised_draws(**cell)[:, 0]
            interval = [float(x) for x in np.percentile(draws, [50 * (1 - level), 50 * (1 + level)])]
            warnings.append("the interval of the supervised loss here is of its parameters only")
        students = {f"student_{axis}": value for axis, value in cell.items()}
        inside = supervised.inside(**cell) if supervised.range.bounds else law.fitted_range.inside(students)
        return {"student_loss": float(supervised(**cell)), "interval": interval, "inside_range": bool(inside)}
    if teacher_loss is not None and curve is not None and not (curve.is_student or curve.form == "pruned"):
        raise ConfigError(f"{name} is a supervised law; a teacher needs a distillation family")
    coords = cell if teacher_loss is None else _taught(cell, teacher_loss) | own
    prediction = law.predict(level=level, **coords)
    warnings += law.fitted_range.complaints(coords)
    return {
        "student_loss": float(prediction.mean),
        "interval": [float(prediction.lower), float(prediction.upper)],
        "level": level,
        "inside_range": bool(prediction.inside_range),
        **(_share(law.law, cell, warnings) if teacher_loss and isinstance(law.law, PowerTermLaw) else {}),
    }


def _share(student: StudentLaw, cell: dict[str, float], warnings: list[str]) -> dict[str, float]:
    """Of the data term in the student's sum, and a warning where the tokens do not inform the answer."""
    share = float(student.data_share(student_params=cell["params"], student_tokens=cell["tokens"]))
    if share < UNSEEN_DATA:
        warnings.append(
            f"the data term is {100 * share:.2g} % of the student's sum: student_tokens hardly informs this answer"
        )
    return {"data_share": share}


def budget_of(fit: FitResult) -> str:
    """The one budget of the students behind a capacity-gap law, e.g. `1B tokens`."""
    unit = str(fit.details["budget_unit"]).replace("tokens_per_param", "tokens per parameter")
    return f"{format_count(fit.details['budget'])} {unit}"


def best_teacher_interval(fit: FitResult, student_params: float, level: float) -> tuple[float, float] | None:
    """Of a capacity-gap law; None without replicates, since the optima's own scatter alone is too narrow."""
    if fit.curve is None or not len(fit.curve.replicates):
        return None
    predicted = fit.predict(level=level, student_params=student_params)
    return float(predicted.lower), float(predicted.upper)


def _best_teacher(
    name: str, law: PublishedLaw | FitResult, student: dict[str, float], level: float
) -> dict[str, object]:
    line = _gap_line(law)
    assert line is not None
    inside = bool(line.range.inside(student))
    answer: dict[str, object] = {"law": name}
    answer |= dict.fromkeys(("supervised_loss", "teacher_loss", "student_loss", "interval"))
    answer |= {
        "best_teacher_params": float(line.best_teacher(student_params=student["student_params"])),
        "best_teacher_interval": None,
        "inside_range": inside,
        "status": _status(law, inside),
    }
    warnings = _doubts(law) + line.range.complaints(student)
    if isinstance(law, PublishedLaw):
        return answer | {"warnings": warnings, "interval_meaning": f"none: {law.record.interval}"}
    if "student_tokens" not in student:
        warnings.append(f"of students on {budget_of(law)}: another budget may have another law")
    interval = best_teacher_interval(law, student["student_params"], level)
    if interval is None:
        return answer | {"warnings": warnings, "interval_meaning": NO_REPLICATES}
    return answer | {"warnings": warnings, "best_teacher_interval": list(interval), "level": level}
