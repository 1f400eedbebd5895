"""A fit for people: validity first, numbers rounded to their error, then where they come from."""

import html
import math

from distillaw.fitting.result import FitResult
from distillaw.fitting.status import FitStatus
from distillaw.quantities import format_count, plural


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
    values = _coefficients(result)
    lines += ["", *values] if values else []
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
    lines = ["", f"  {'':<24}{'held-out error':>15}{'AIC':>10}{'parameters':>12}"]
    best = min(row["aic"] for row in table)
    for row in table:
        error = "-" if row["held_out_error"] is None else f"{100 * row['held_out_error']:.2f} %"
        lines.append(f"  {row['form']:<24}{error:>15}{row['aic'] - best:>+10.1f}{row['num_params']:>12}")
    return lines


def _coefficients(result: FitResult) -> list[str]:
    intervals = result.conf_int()
    lines = []
    for name, value in result.params.items():
        if name in intervals:
            low, high = intervals[name]
            assert low is not None and high is not None  # a bootstrap interval has both ends
            text = rounded(value, low, high)
            lines.append(f"  {name:<10}{text:>14}   [{rounded(low, low, high)}, {rounded(high, low, high)}]")
        else:
            lines.append(f"  {name:<10}{rounded(value):>14}")
    if lines:
        head = f"{100 * result.level:.0f} % interval" if intervals else "no interval"
        head = head if result.is_usable else "not a law: only to compare objectives"
        lines.insert(0, f"  {'':<10}{'estimate':>14}   {head}")
    return lines


def _ranges(result: FitResult) -> list[str]:
    return [
        f"{name} {format_count(low)} to {format_count(high)}"
        for name, low, high in result.fitted_range.bounds
    ]


def summarise_html(result: FitResult) -> str:
    """The same as a small table, for notebooks and reports."""
    intervals = result.conf_int()
    rows = []
    for name, value in result.params.items():
        low, high = intervals.get(name, (None, None))
        text = (
            "" if low is None or high is None else f"{rounded(low, low, high)} to {rounded(high, low, high)}"
        )
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td>{rounded(value, low, high)}</td><td>{text}</td></tr>"
        )
    remedy = "" if result.status is FitStatus.CONVERGED else f"<p>{html.escape(result.remedy)}</p>"
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in [*_evidence(result), *result.notes])
    return (
        f"<div class='distillaw-fit'><p><b>{html.escape(result.family)}: {result.status.name}</b>, "
        f"{_size(result)}</p>{remedy}"
        f"<table><thead><tr><th></th><th>estimate</th><th>{100 * result.level:.0f} % interval</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table><ul>{lines}</ul>"
        f"<p>fitted range: {html.escape(', '.join(_ranges(result)))}</p></div>"
    )
