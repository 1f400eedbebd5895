"""A fit for people: validity first, numbers rounded to their error, then where they come from."""

import html
import math
from operator import itemgetter

from distillaw.fitting.result import FitResult
from distillaw.fitting.status import FitStatus
from distillaw.quantities import format_count, plural
from distillaw.table import Table, number, text


def rounded(value: float, low: float | None = None, high: float | None = None) -> str:
    """A value with as many digits as its interval supports: two digits of the half width."""
    if not math.isfinite(value):
        return str(value)
    width = abs(high - low) / 2 if low is not None and high is not None else 0.0
    if not math.isfinite(width) or width <= 0 or value == 0:
        return f"{value:.4g}"
    digits = max(2, math.floor(math.log10(abs(value))) - math.floor(math.log10(width)) + 2)
    return f"{value:.{min(digits, 8)}g}"


def summarise(result: FitResult) -> str:
    """Plain text for a terminal."""
    lines = [f"{result.family}: {result.status.name}"]
    if result.status is not FitStatus.CONVERGED:
        lines.append(f"  {result.remedy}")
    lines.append(f"  {_size(result)}")
    lines += [f"  {line}" for line in _evidence(result)]
    if result.params:
        lines += ["", *coefficient_table(result).lines(indent=2)]
    lines += _comparison(result)
    ranges = _ranges(result)
    lines += ["", "fitted range: " + ", ".join(ranges)] if ranges else []
    lines += [f"note: {note}" for note in result.notes]
    return "\n".join(lines)


def _size(result: FitResult) -> str:
    return f"{plural(result.nobs, 'row')} in {plural(result.ngroups, 'independent run')}"


def _evidence(result: FitResult) -> list[str]:
    lines = []
    if result.objective is not None:
        lines.append(f"objective {result.objective:.6g} (sum of Huber terms, delta {result.delta:.3g})")
        lines.append(f"residual scale {100 * result.noise:.2g} % of the loss")
    if (seeds := result.details.get("seed_noise")) is not None:
        cells = plural(seeds["num_cells"], "repeated cell")
        lines.append(
            f"noise between runs of one cell {100 * seeds['sd']:.2g} % ({cells}); the rest is misfit"
        )
    if result.solver_disagreement is not None:
        verdict = "agree" if abs(result.solver_disagreement) <= 1e-6 else "DISAGREE"
        lines.append(
            f"two independent solvers {verdict}: relative difference {result.solver_disagreement:.1e}"
        )
    if result.condition_number is not None:
        lines.append(f"condition number {result.condition_number:.1e}")
    if result.is_usable and result.family != "capacity-gap":
        calibration = result.calibration
        lines.append(
            f"misspecification {100 * calibration.at_edge:.2g} % at the edge of the runs + "
            f"{100 * calibration.per_decade:.2g} % per decade of compute ({calibration.label})"
        )
        if calibration.obtained is not None and calibration.obtained_without is not None:
            lines.append(
                f"held-out runs inside their {100 * calibration.nominal:.0f} % interval: "
                f"{100 * calibration.obtained:.0f} % (without that term {100 * calibration.obtained_without:.0f} %)"
            )
    return lines


def _comparison(result: FitResult) -> list[str]:
    """Families or forms by their error on held-out runs, AIC beside it."""
    table = result.details.get("comparison") or result.details.get("ladder")
    if not table:
        return []
    best = min(row["aic"] for row in table)
    columns = [
        text("", of=itemgetter("form")),
        number(
            "held-out error",
            lambda error: f"{100 * error:.2f} %",
            of=itemgetter("held_out_error"),
            missing="-",
        ),
        number("AIC", "+.1f", of=lambda row: row["aic"] - best),
        number("parameters", of=itemgetter("num_params")),
    ]
    return ["", *Table.of(columns, table).lines(indent=2)]


def coefficient_table(result: FitResult) -> Table:
    """Estimates with their intervals, rounded to the error."""
    intervals = result.conf_int()
    head = f"{100 * result.level:.0f} % interval" if intervals else "no interval"
    rows = []
    for name, value in result.params.items():
        low, high = intervals.get(name, (None, None))
        span = (
            "" if low is None or high is None else f"[{rounded(low, low, high)}, {rounded(high, low, high)}]"
        )
        rows.append((name, rounded(value, low, high), span))
    is_law = result.is_usable
    return Table(
        [text(""), number("estimate"), text(head if is_law else "not a law: only to compare objectives")],
        rows,
    )


def _ranges(result: FitResult) -> list[str]:
    return [
        f"{name} {format_count(low)} to {format_count(high)}"
        for name, low, high in result.fitted_range.bounds
    ]


def summarise_html(result: FitResult) -> str:
    """The same as a small table, for notebooks and reports."""
    remedy = "" if result.status is FitStatus.CONVERGED else f"<p>{html.escape(result.remedy)}</p>"
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in [*_evidence(result), *result.notes])
    return (
        f"<div class='distillaw-fit'><p><b>{html.escape(result.family)}: {result.status.name}</b>, "
        f"{_size(result)}</p>{remedy}"
        f"{coefficient_table(result).notebook()}<ul>{lines}</ul>"
        f"<p>fitted range: {html.escape(', '.join(_ranges(result)))}</p></div>"
    )
