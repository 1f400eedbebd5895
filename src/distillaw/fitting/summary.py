"""A fit for people, from its document: validity first, numbers rounded to their error, then where they come from."""

import html
import math
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from distillaw.fitting.uncertainty import UNTRIED
from distillaw.quantities import format_count, plural
from distillaw.table import Table, number, text

UNUSABLE = ("TOO_FEW_RUNS", "ONE_COMPUTE_LEVEL", "NO_LINE")
"""Names of the statuses with which no prediction may be made."""


def rounded(value: float, low: float | None = None, high: float | None = None) -> str:
    """A value with as many digits as its interval supports: two digits of the half width."""
    if not math.isfinite(value):
        return str(value)
    width = abs(high - low) / 2 if low is not None and high is not None else 0.0
    if not math.isfinite(width) or width <= 0 or value == 0:
        return f"{value:.4g}"
    digits = max(2, math.floor(math.log10(abs(value))) - math.floor(math.log10(width)) + 2)
    return f"{value:.{min(digits, 8)}g}"


def summarise(fit: Mapping[str, Any]) -> str:
    """Plain text for a terminal, from `FitResult.to_json`."""
    lines = [f"{fit['family']}: {fit['status']}"]
    if fit["status"] != "CONVERGED":
        lines.append(f"  {fit['remedy']}")
    lines.append(f"  {_size(fit)}")
    lines += [f"  {line}" for line in _evidence(fit)]
    if fit["params"]:
        lines += ["", *coefficient_table(fit).lines(indent=2)]
    budgets = fit["details"].get("budgets", ())
    for budget in budgets:
        lines += ["", *_budget(budget, apart=budget["budget"] != fit["details"]["budget"])]
    lines += _comparison(fit)
    ranges = _ranges(fit)
    lines += ["", "fitted range: " + ", ".join(ranges)] if ranges else []
    lines += [f"note: {note}" for note in fit["notes"]]
    return "\n".join(lines)


def summarise_html(fit: Mapping[str, Any]) -> str:
    """The same as a small table, for notebooks and reports."""
    remedy = "" if fit["status"] == "CONVERGED" else f"<p>{html.escape(fit['remedy'])}</p>"
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in [*_evidence(fit), *fit["notes"]])
    return (
        f"<div class='distillaw-fit'><p><b>{html.escape(fit['family'])}: {fit['status']}</b>, "
        f"{_size(fit)}</p>{remedy}"
        f"{coefficient_table(fit).notebook()}<ul>{lines}</ul>"
        f"<p>fitted range: {html.escape(', '.join(_ranges(fit)))}</p></div>"
    )


def _size(fit: Mapping[str, Any]) -> str:
    return f"{plural(fit['nobs'], 'row')} in {plural(fit['ngroups'], 'independent run')}"


def _evidence(fit: Mapping[str, Any]) -> list[str]:
    lines = []
    if fit["objective"] is not None:
        lines.append(f"objective {fit['objective']:.6g} (sum of Huber terms, delta {fit['delta']:.3g})")
        lines.append(f"residual scale {100 * fit['noise']:.2g} % of the loss")
    if (seeds := fit["details"].get("seed_noise")) is not None:
        cells = plural(seeds["num_cells"], "repeated cell")
        noise = f"noise between runs of one cell {100 * seeds['sd']:.2g} % ({cells})"
        lines.append(f"{noise}; the rest is misfit")
    if (gap := fit["solver_disagreement"]) is not None:
        verdict = "agree" if abs(gap) <= 1e-6 else "DISAGREE"
        lines.append(f"two independent solvers {verdict}: relative difference {gap:.1e}")
    if fit["condition_number"] is not None:
        lines.append(f"condition number {fit['condition_number']:.1e}")
    if fit["status"] not in UNUSABLE and fit["family"] != "capacity-gap":
        lines += _calibration(fit["calibration"], with_teachers=fit["family"].startswith("distillation"))
    return lines


def _slopes(found: Mapping[str, Any], *, with_teachers: bool) -> str:
    """What the misspecification grows by along each axis; of older files along compute alone."""
    by_axis = [found["per_decade"], found.get("per_params"), found.get("per_tokens")]
    sizes = [f"{100 * slope:.2g}" for slope in by_axis if slope is not None]
    said = f"{' / '.join(sizes)} % per decade of {' / '.join(('compute', 'size', 'tokens')[: len(sizes)])}"
    if found.get("tried"):
        said += f", from where hold-outs ended at least {100 * UNTRIED:.2g} %"
    if not with_teachers and (excess := found.get("per_excess")):
        said += f", {100 * excess:.2g} % of what a run lies above the best of its compute"
    if with_teachers and (loss := found.get("per_loss")):
        said += f", {10 * loss:.2g} % per 0.1 of ln L_T outside the teachers"
    return said


def _calibration(found: Mapping[str, Any], *, with_teachers: bool) -> list[str]:
    slopes = _slopes(found, with_teachers=with_teachers)
    lines = [f"misspecification {100 * found['at_edge']:.2g} % at the edge of the runs + {slopes} ({found['label']})"]
    if found["obtained"] is not None and found["obtained_without"] is not None:
        lines.append(
            f"held-out runs inside their {100 * found['nominal']:.0f} % interval: "
            f"{100 * found['obtained']:.0f} % (without that term {100 * found['obtained_without']:.0f} %)"
        )
    return lines


def _comparison(fit: Mapping[str, Any]) -> list[str]:
    """Families or forms by their error on held-out runs, AIC beside it."""
    table = fit["details"].get("comparison") or fit["details"].get("ladder")
    if not table:
        return []
    best = min(row["aic"] for row in table)
    columns = [
        text("", of=itemgetter("form")),
        number("held-out error", _percent, of=itemgetter("held_out_error"), missing="-"),
        number("AIC", "+.1f", of=lambda row: row["aic"] - best),
        number("parameters", of=itemgetter("num_params")),
    ]
    return ["", *Table.of(columns, table).lines(indent=2)]


def _budget(found: Mapping[str, Any], *, apart: bool) -> list[str]:
    """The best teachers of one budget and what a line through them says; `apart`: it is not the one that leads."""
    unit = "tokens" if found["budget_unit"] == "tokens" else "tokens per parameter"
    why = f"{found['status']}: {found['remedy']}" if apart else found["status"]
    lines = [f"students of {format_count(found['budget'])} {unit}: {why}"]
    if (tests := found.get("tests")) is not None:
        ends = f"{tests['elasticity_low']:.2f} to {tests['elasticity_high']:.2f}, 90 %"
        lines.append(
            f"  T rises as S to the {tests['elasticity']:.2f} ({ends}); probability of no rise "
            f"{tests['no_dependence']:.2g}; constant ratio: two-sided p {tests['constant_ratio']:.2g}"
        )
        lines.append(
            f"  optima lie within a factor {math.exp(found['scatter']):.2f} of the line; R^2 of ln T "
            f"{found['r_squared']:.3f}; noise between runs {found['noise']:.4f} nats"
        )
    for name, (low, high) in found["conf_int"].items() if apart else ():
        ends = f"{rounded(low, low, high)} to {rounded(high, low, high)}"
        lines.append(f"  {name} {rounded(found['params'][name], low, high)} ({ends})")
    columns = [
        number("student", format_count, of=itemgetter("student_params")),
        text("best teacher (90 %)", of=_best),
        number(
            "ratio",
            ".3g",
            of=lambda o: o["best_teacher_params"] and o["best_teacher_params"] / o["student_params"],
            missing="-",
        ),
        number("nats above it at the ends", of=_depths, missing="-"),
        text("within noise", of=lambda o: _span(o["within_noise"])),
        text("within 0.5 %", of=lambda o: _span(o["within_half_per_cent"])),
        number("teachers", of=itemgetter("num_teachers")),
    ]
    return [*lines, *Table.of(columns, found["optima"]).lines(indent=2)]


def _best(optimum: Mapping[str, Any]) -> str:
    low, high = optimum["interval"]
    if optimum["best_teacher_params"] is not None:
        return f"{format_count(optimum['best_teacher_params'])} ({_span([low, high])})"
    return f">{format_count(low)}" if low is not None else f"<{format_count(high)}" if high is not None else "unknown"


def _depths(optimum: Mapping[str, Any]) -> str | None:
    ends = [optimum["depth_below"], optimum["depth_above"]]
    return None if None in ends else ", ".join(f"{nats:.3f}" for nats in ends)


def _span(ends: list[float | None]) -> str:
    return " to ".join("..." if end is None else format_count(end) for end in ends)


def _percent(error: float) -> str:
    return f"{100 * error:.2f} %"


def coefficient_table(fit: Mapping[str, Any]) -> Table:
    """Estimates with their intervals, rounded to the error."""
    head = f"{100 * fit['level']:.0f} % interval" if fit["conf_int"] else "no interval"
    head = head if fit["status"] not in UNUSABLE else "not a law: only to compare objectives"
    rows = []
    for name, value in fit["params"].items():
        ends = fit["conf_int"].get(name, ())
        span = f"[{', '.join(rounded(end, *ends) for end in ends)}]" if ends else ""
        rows.append((name, rounded(value, *ends), span))
    return Table([text(""), number("estimate"), text(head)], rows)


def _ranges(fit: Mapping[str, Any]) -> list[str]:
    ranges = fit["fitted_range"].items()
    return [f"{name} {format_count(low)} to {format_count(high)}" for name, (low, high) in ranges]
