"""`distillaw laws` and `distillaw predict`: the laws known, and the loss of one student under one of them."""

import math
import shlex
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from distillaw.cli.options import Count, LawName, Number, TeacherName, values_of
from distillaw.cli.output import Output
from distillaw.cli.typed import in_typed_words
from distillaw.errors import ConfigError
from distillaw.fitting.query import load_law, predict_student
from distillaw.fitting.result import FitResult
from distillaw.laws.base import COORDINATES
from distillaw.laws.published import PublishedLaw, laws_available, published
from distillaw.quantities import format_count, plural

app = App(name="laws", help="List the laws known, and show one: coefficients, source, doubts.")


@app.default
def laws(*, study: list[Path] | None = None, output: Output = Output()) -> None:
    """List the published laws, and those fitted to your runs beside them.

    Args:
        study: also the fitted laws of this study folder, or in this JSON file (repeatable).
    """
    known = [_document(published(name)) for name in laws_available()]
    known += [_fitted_document(file) for place in study or () for file in _fitted_files(place)]
    output.answer({"laws": known}, _print_list, known)
    output.suggest(f"distillaw laws show {shlex.quote(str(known[-1 if study else 0]['name']))}")


def _print_list(known: list[dict[str, object]]) -> None:
    width = max(len(str(law["name"])) for law in known)
    for law in known:
        mark = "" if law["published"] or law["obtained"] == FITTED else "  [NOT PUBLISHED]"
        mark += "  [refitted by us]" if str(law["obtained"]).startswith("refitted") else ""
        mark += "  [do not plan with it]" if law["refuse_plan"] else ""
        print(f"{law['name']:<{width}}  {law['title']}{mark}")


FITTED = "fitted to your runs"


def _fitted_files(place: Path) -> list[Path]:
    """The laws of a study folder, or the one file."""
    files = sorted(place.glob("laws/*.json")) if place.is_dir() else [place]
    if not files:
        raise ConfigError(
            f"--study {place}: no fitted law there (laws/*.json); `distillaw fit` or `study run` fits them"
        )
    return files


def _fitted_document(file: Path) -> dict[str, object]:
    """A fitted law under the keys of `_document`."""
    fit = FitResult.load(file)
    intervals, doubt = fit.conf_int(), [] if fit.status == "CONVERGED" else [fit.remedy]
    source = fit.provenance.get("source", "your runs")
    return {
        "name": str(file),
        "title": f"{fit.family}, {fit.status}: {plural(fit.nobs, 'row')} of {source}",
        "published": False,
        "source": source,
        "obtained": FITTED,
        "unit": "nats/token",
        "params_convention": fit.params_convention,
        "interval_kind": f"{100 * fit.level:g} % bootstrap by run",
        "coefficients": {
            fit.family: {name: {"value": v, "interval": intervals.get(name)} for name, v in fit.params.items()}
        },
        "derived": {fit.family: fit.derived},
        "range": {fit.family: fit.fitted_range.as_dict()},
        "known_problems": [*doubt, *fit.notes],
        "refuse_plan": not fit.is_usable,
    }


@app.command
def show(name: LawName, *, output: Output = Output()) -> None:
    """Show one law: coefficients with intervals, source, range of validity, known problems.

    Args:
        name: a name that `distillaw laws` lists, or the JSON file of a fitted law.
    """
    if name.endswith(".json"):
        result = FitResult.load(Path(name))
        output.answer({"law": result.to_json()}, print, result.summary())
        return
    law = published(name)
    output.answer(_document(law), _print_law, law)
    record = law.record
    box = _ranges(law).get("supervised", {})
    params = _typical(box.get("params"), 1e9)
    tokens = "" if law.capacity_gap else f" --tokens {_typical(box.get('tokens'), 30e9)}"
    convention = " --params-convention total" if record.params_convention.startswith("total") else ""
    output.suggest(f"distillaw predict --law {name} --student {params}{tokens}{convention}")


def _print_law(law: PublishedLaw) -> None:
    record = law.record
    print(f"{law.name}: {record.title}")
    for problem in record.known_problems:
        print(f"  WARNING: {problem}")
    for label, text in (
        ("source", record.source),
        ("obtained", record.obtained),
        ("unit", record.unit),
        ("parameters", record.params_convention),
        ("tokenizer", record.tokenizer),
        ("data", record.data),
        ("intervals", record.interval),
    ):
        print(f"  {label:<11}{text}")
    for part, coefficients in record.coefficients:
        print(f"\n  {part}: {_equation(law, part)}")
        for c in coefficients:
            interval = "" if c.low is None or c.high is None else f"   [{c.low:g}, {c.high:g}]"
            print(f"    {c.symbol:<13}{c.value!r:>20}{interval}")
        for symbol, value in _derived(law).get(part, {}).items():
            print(f"    {symbol:<13}{value:>20.4g}   ({_DERIVED[symbol]})")
        for coordinate, (low, high) in _ranges(law).get(part, {}).items():
            print(f"    valid for {COORDINATES.get(coordinate, coordinate)} {low:.4g} to {high:.4g}")
    for error in record.errors:
        around = f" around the span of this set with {', '.join(error.span)}" if error.span else ""
        print(f"\n  error of {error.part} predictions: {100 * error.relative:.3g} %{around}; {error.source}")


def _typical(range_: tuple[float, float] | None, usual: float) -> str:
    """A size to ask about: the usual one where the law has seen it, else the middle of what it has seen."""
    if range_ is None or range_[0] <= usual <= range_[1]:
        return format_count(usual)
    return format_count(float(f"{math.sqrt(range_[0] * range_[1]):.0e}"))


_EQUATIONS = {
    "SupervisedLaw": "L = E + ( A/N^alpha + B/D^beta )^gamma",
    "DistillationLaw": "L_S = L_T + L_T^(-c0) [ 1 + (L_T/(Ltilde_S d1))^(1/f1) ]^(-c1 f1) "
    "( A/N_S^alpha + B/D_S^beta )^gamma",
    "KappaDistillationLaw": "L_S = L_T + L_T^(-c0) exp( -kappa (L_T/Ltilde_S)^(1/f1) ) "
    "( A/N_S^alpha + B/D_S^beta )^gamma",
    "CapacityGapLine": "T* = slope S + intercept, in millions of parameters",
    "RepetitionCorrection": "D' = U + U R (1 - exp(-(D/U - 1)/R)), R = repeat_scale; N' alike with excess_scale",
}
_DERIVED = {
    "p": "gamma alpha: slope of the reducible loss in ln N",
    "q": "gamma beta: slope of the reducible loss in ln D",
    "a": "N* ~ C^a",
    "b": "D* ~ C^b",
    "break": "L_T / Ltilde_S at which the factor is 1/e: the effective break, not d1",
    "kappa": "c1 f1 d1^(-1/f1): what is identified of c1 and d1",
    "eps": "1/(c1 f1); 0 is the eight-parameter form",
}


def _equation(law: PublishedLaw, part: str) -> str:
    return _EQUATIONS[type(getattr(law, part)).__name__]


def _derived(law: PublishedLaw) -> dict[str, dict[str, float]]:
    """Combinations that the data pin down better than the coefficients, by part."""
    found = {}
    if law.supervised is not None:
        found["supervised"] = law.supervised.derived
    if law.distillation is not None:
        printed = {c.symbol for c in dict(law.record.coefficients)["distillation"]}
        derived = {"kappa": law.distillation.coefficients["kappa"]} | law.distillation.derived
        found["distillation"] = {symbol: value for symbol, value in derived.items() if symbol not in printed}
    return found


def _document(law: PublishedLaw) -> dict[str, object]:
    record = law.record
    return {
        "name": law.name,
        **values_of(record, "title published source obtained unit params_convention tokenizer data refuse_plan"),
        "interval_kind": record.interval,
        "coefficients": {
            part: {
                c.symbol: {"value": c.value, "interval": None if c.low is None else [c.low, c.high]}
                for c in coefficients
            }
            for part, coefficients in record.coefficients
        },
        "forms": {part: _equation(law, part) for part, _ in record.coefficients},
        "derived": _derived(law),
        "errors": {e.part: {"relative": e.relative, "span": list(e.span), "source": e.source} for e in record.errors},
        "range": {part: {k: list(v) for k, v in box.items()} for part, box in _ranges(law).items()},
        "golden": [asdict(g) | {"coords": dict(g.coords)} for g in record.goldens],
        "known_problems": list(record.known_problems),
    }


def _ranges(law: PublishedLaw) -> dict[str, dict[str, tuple[float, float]]]:
    parts = {"supervised": law.supervised, "distillation": law.distillation, "capacity_gap": law.capacity_gap}
    return {name: part.range.as_dict() for name, part in parts.items() if part is not None}


def predict(
    *,
    law: LawName,
    student: Annotated[Count, Parameter(alias="--student-params")],
    tokens: Annotated[Count | None, Parameter(alias="--student-tokens")] = None,
    unique_tokens: Count | None = None,
    teacher: TeacherName | None = None,
    teacher_loss: Number | None = None,
    teacher_params: Count | None = None,
    teacher_tokens: Count | None = None,
    supervised_loss: Number | None = None,
    level: float = 0.9,
    params_convention: Literal["non-embedding", "total"] = "non-embedding",
    output: Output = Output(),
) -> None:
    """Predict the loss of one student, distilled or not.

    Args:
        law: a name from `distillaw laws`, or the JSON file that `distillaw fit --out` wrote.
        student: parameters of the student, e.g. 300M; non-embedding unless --params-convention says otherwise.
        tokens: tokens it is trained on, e.g. 6B; repeats included.
        unique_tokens: distinct tokens among them, where the data are repeated and the law corrects for it.
        teacher: name of a real model (`distillaw teachers` lists them), whose loss the law estimates from its size and
            tokens; or the next, or the two after it.
        teacher_loss: the teacher's loss in nats per token; or give its size and tokens.
        teacher_params: parameters of the teacher, counted like the student's.
        teacher_tokens: tokens the teacher was trained on.
        supervised_loss: the student's own loss without a teacher, where it was measured.
        level: coverage of the interval.
        params_convention: what the counts given here hold; must be that of the law.
    """
    given = {"teacher_loss": teacher_loss, "teacher_params": teacher_params, "teacher_tokens": teacher_tokens}
    answer = predict_student(
        law,
        load_law(law),
        student_params=student,
        student_tokens=tokens,
        unique_tokens=unique_tokens,
        **(given if teacher is None else _named(teacher, given)),
        supervised_loss=supervised_loss,
        level=level,
        params_convention=params_convention,
    )
    if teacher is not None:
        answer["warnings"].append(
            f"the loss of {teacher} ({answer['teacher_loss']:.3f}) is what the law makes of its size and tokens alone: "
            "measure it on your text, distillaw scout"
        )
    if tokens is not None and answer.get("teacher_loss") is not None:
        from distillaw.planning.voices import asked_for

        if asked_for(law).beyond(student, tokens, answer["teacher_loss"]).any():
            answer["warnings"].append("so far outside `distillaw plan` decides nothing by this law: a guess")
    answer["warnings"] = [in_typed_words(each) for each in answer["warnings"]]
    output.answer(answer, _print, answer, output)
    output.suggest(f"distillaw laws show {shlex.quote(law)}")


def _named(name: str, given: dict[str, float | None]) -> dict[str, float | None]:
    """Size and tokens of a real model; what else says of the teacher would contradict them."""
    for argument, value in given.items():
        if value is not None:
            raise ConfigError(f"--teacher {name} says its size and tokens; leave {argument} out, or --teacher")
    from distillaw.planning.question import named_teacher

    found = named_teacher(name)
    return {"teacher_params": found.params, "teacher_tokens": found.tokens}


def _print(answer: dict, output: Output) -> None:
    where = f" ... (whole text: distillaw laws show {shlex.quote(answer['law'])})"
    for warning in answer["warnings"]:
        output.say(f"WARNING: {textwrap.shorten(warning, 160 + len(where), placeholder=where)}")
    if not answer["inside_range"]:
        print("EXTRAPOLATED: outside the range of the runs behind this law")
    if "best_teacher_params" in answer:
        interval = answer["best_teacher_interval"]
        band = f"   [{format_count(interval[0])}, {format_count(interval[1])}]" if interval else ""
        print(f"best teacher size   {format_count(answer['best_teacher_params'])} parameters{band}")
        return
    if "effective_tokens" in answer:
        print(f"{'effective tokens':<20}{format_count(answer['effective_tokens'], digits=4)}")
    for label, key in (("teacher loss", "teacher_loss"), ("supervised loss", "supervised_loss")):
        if answer[key] is not None:
            print(f"{label:<20}{answer[key]:.4f} nats/token")
    interval = answer["interval"]
    band = f"   [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "   (no interval)"
    print(f"{'student loss':<20}{answer['student_loss']:.4f} nats/token{band}")
    if "interval_meaning" in answer:
        print(f"  interval: {answer['interval_meaning']}")
    if answer["teacher_loss"] is not None and answer["supervised_loss"] is not None:
        gain = answer["supervised_loss"] - answer["student_loss"]
        print(f"{'gain of distilling':<20}{gain:+.4f} nats/token")
    if "data_share" in answer:
        print(f"{'data term':<20}{100 * answer['data_share']:.2g} % of the student's sum of size and data")
