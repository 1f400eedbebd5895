"""`distillaw laws`: the coefficient sets known, and everything about one of them."""

import math
from pathlib import Path

from cyclopts import App

from distillaw.cli.app import print_json
from distillaw.cli.names import LawName
from distillaw.cli.output import Output
from distillaw.laws.base import COORDINATES
from distillaw.laws.published import PublishedLaw, laws_available, published
from distillaw.quantities import format_count

app = App(name="laws", help="List the laws known, and show one: coefficients, source, doubts.")


@app.default
def laws(*, output: Output = Output()) -> None:
    """List the published laws."""
    known = [published(name) for name in laws_available()]
    if output.json:
        print_json({"laws": [_document(law) for law in known]})
        return
    width = max(len(law.name) for law in known)
    for law in known:
        mark = "" if law.record.published else "  [NOT PUBLISHED]"
        mark += "  [refitted by us]" if law.record.obtained.startswith("refitted") else ""
        mark += "  [do not plan with it]" if law.record.refuse_plan else ""
        print(f"{law.name:<{width}}  {law.record.title}{mark}")
    output.suggest(f"distillaw laws show {known[0].name}")


@app.command
def show(name: LawName, *, output: Output = Output()) -> None:
    """Show one law: coefficients with intervals, source, range of validity, known problems.

    Args:
        name: a name that `distillaw laws` lists, or the JSON file of a fitted law.
    """
    if name.endswith(".json"):
        from distillaw.fitting.result import FitResult

        result = FitResult.load(Path(name))
        print_json({"law": result.to_json()}) if output.json else print(result.summary())
        return
    law = published(name)
    if output.json:
        print_json(_document(law))
        return
    record = law.record
    print(f"{name}: {record.title}")
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
        print(f"\n  {part}: {_EQUATIONS[_form(law, part)]}")
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
    box = _ranges(law).get("supervised", {})
    params = _typical(box.get("params"), 1e9)
    tokens = "" if law.capacity_gap else f" --tokens {_typical(box.get('tokens'), 30e9)}"
    convention = " --params-convention total" if record.params_convention.startswith("total") else ""
    output.suggest(f"distillaw predict --law {name} --student {params}{tokens}{convention}")


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


def _form(law: PublishedLaw, part: str) -> str:
    return type(getattr(law, part)).__name__


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
        "title": record.title,
        "published": record.published,
        "source": record.source,
        "obtained": record.obtained,
        "unit": record.unit,
        "params_convention": record.params_convention,
        "tokenizer": record.tokenizer,
        "data": record.data,
        "interval_kind": record.interval,
        "coefficients": {
            part: {
                c.symbol: {"value": c.value, "interval": None if c.low is None else [c.low, c.high]}
                for c in coefficients
            }
            for part, coefficients in record.coefficients
        },
        "forms": {part: _EQUATIONS[_form(law, part)] for part, _ in record.coefficients},
        "derived": _derived(law),
        "errors": {
            e.part: {"relative": e.relative, "span": list(e.span), "source": e.source} for e in record.errors
        },
        "range": {part: {k: list(v) for k, v in box.items()} for part, box in _ranges(law).items()},
        "golden": [
            {
                "target": g.target,
                "coords": dict(g.coords),
                "value": g.value,
                "tolerance": g.tolerance,
                "source": g.source,
            }
            for g in record.goldens
        ],
        "known_problems": list(record.known_problems),
        "refuse_plan": record.refuse_plan,
    }


def _ranges(law: PublishedLaw) -> dict[str, dict[str, tuple[float, float]]]:
    parts = {"supervised": law.supervised, "distillation": law.distillation, "capacity_gap": law.capacity_gap}
    return {name: part.range.as_dict() for name, part in parts.items() if part is not None}
