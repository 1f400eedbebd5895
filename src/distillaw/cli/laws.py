"""`distillaw laws`: the coefficient sets known, and everything about one of them."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from distillaw.cli.app import print_json
from distillaw.laws.published import PublishedLaw, laws_available, published

app = App(name="laws", help="The published and fitted laws known: coefficients, source, doubts.")


@app.default
def laws(*, json_: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """List the published laws.

    Args:
        json_: print one JSON object instead.
    """
    known = [published(name) for name in laws_available()]
    if json_:
        print_json({"laws": [_document(law) for law in known]})
        return
    width = max(len(law.name) for law in known)
    for law in known:
        mark = "" if law.record.published else "  [NOT PUBLISHED]"
        mark += "  [do not plan with it]" if law.record.refuse_plan else ""
        print(f"{law.name:<{width}}  {law.record.title}{mark}")
    print("\nnext: distillaw laws show NAME")


@app.command
def show(name: str, *, json_: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Show one law: coefficients with intervals, source, range of validity, known problems.

    Args:
        name: a name that `distillaw laws` lists, or the JSON file of a fitted law.
        json_: print one JSON object instead.
    """
    if name.endswith(".json"):
        from distillaw.fitting.result import FitResult

        result = FitResult.load(Path(name))
        print_json({"law": result.to_json()}) if json_ else print(result.summary())
        return
    law = published(name)
    if json_:
        print_json(_document(law))
        return
    record = law.record
    print(f"{name}: {record.title}")
    for problem in record.known_problems:
        print(f"  WARNING: {problem}")
    for label, text in (("source", record.source), ("obtained", record.obtained), ("unit", record.unit),
                        ("parameters", record.params_convention), ("tokenizer", record.tokenizer),
                        ("data", record.data), ("intervals", record.interval)):  # fmt: skip
        print(f"  {label:<11}{text}")
    for part, coefficients in record.coefficients:
        print(f"\n  {part}")
        for c in coefficients:
            interval = "" if c.low is None or c.high is None else f"   [{c.low:g}, {c.high:g}]"
            print(f"    {c.symbol:<13}{c.value!r:>20}{interval}")
        for coordinate, (low, high) in _ranges(law).get(part, {}).items():
            print(f"    valid for {coordinate} {low:.4g} to {high:.4g}")
    print(f"\nnext: distillaw predict --law {name} --student-params 300M --student-tokens 6B")


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
    }  # fmt: skip


def _ranges(law: PublishedLaw) -> dict[str, dict[str, tuple[float, float]]]:
    parts = {"supervised": law.supervised, "distillation": law.distillation, "capacity_gap": law.capacity_gap}
    return {name: part.range.as_dict() for name, part in parts.items() if part is not None}
