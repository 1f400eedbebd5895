"""A branch test in sentences, the same on the terminal and on the page."""

from collections.abc import Mapping
from typing import Any

TOLERANCES = {
    "given": "the tolerance asked for",
    "seed-noise": "twice the noise of a run",
    "merrill2025": "the published tolerance",
    "gain-share": "a twentieth of the window's gain",
}
ANSWERS = {
    "larger": "distillation has the larger critical batch",
    "smaller": "distillation has the smaller critical batch",
    "alike within a doubling": "with and without distillation the critical batch is the same within a doubling",
    "not told apart": "the critical batches with and without distillation are not told apart",
    "undecided: not both are bracketed by the grid": "whether distillation changes the critical batch is undecided",
}
"""Does distillation change the critical batch? By the word of a comparison."""
LOSSES = {"heldout": "held-out loss", "training": "smoothed training loss"}


def decision_words(decision: Mapping[str, Any]) -> str:
    """One decision: the critical batch or what bounds it."""
    what = f"{LOSSES[decision['loss']]}, {_tolerance(decision)}"
    low, high = decision["critical_batch_interval"]
    between = f"[{low:,.0f}, {'no upper end' if high is None else f'{high:,.0f}'}], {decision['level']:.0%}"
    if decision["status"] == "NOTHING_TO_COMPARE":
        return f"{what}: {decision['remedy']}"
    if decision["status"] == "NONE_FAILS":
        said = f"no batch fails up to {decision['largest_passing']:,.0f} tokens: only a lower bound {between}"
    elif decision["status"] == "FIRST_FAILS":
        said = (f"already {decision['smallest_failing']:,.0f} tokens fail: only an upper bound; interpolated "
                f"{decision['critical_batch']:,.0f} {between}")  # fmt: skip
    else:
        said = (f"B* = {decision['largest_passing']:,.0f} tokens ({decision['smallest_failing']:,.0f} fail); "
                f"interpolated {decision['critical_batch']:,.0f} {between}")  # fmt: skip
    if decision.get("passes_after_failing"):
        said += "; a smaller batch fails too, so the losses do not rise steadily"
    return f"{what}: {said}"


def comparison_words(comparison: Mapping[str, Any]) -> list[str]:
    """Distilled against supervised, one line per tolerance."""
    lines = []
    for found in comparison["decisions"]:
        low, high = found["interval"]
        ends = f"[{'open' if low is None else f'{low:+.2f}'}, {'open' if high is None else f'{high:+.2f}'}]"
        alone, taught = found["batches"]
        lines.append(
            f"{comparison['what']}, at {_tolerance(found)}: distilled {taught:,.0f} tokens, supervised {alone:,.0f}: "
            f"{found['doublings']:+.2f} doublings {ends}; P(larger by half a doubling) {found['larger']:.0%}, "
            f"P(smaller by as much) {found['smaller']:.0%}: {found['word']}"
        )
    return lines or [f"{comparison['what']}: every branch of one loss diverged, nothing to compare"]


def excess_words(comparison: Mapping[str, Any], level: float) -> str:
    """What a larger batch costs under one loss and the other, at each multiple."""
    parts = [
        f"x{row['multiple']:g} {row['difference']:+.4f} [{row['interval'][0]:+.4f}, {row['interval'][1]:+.4f}]"
        for row in comparison["excess_difference"]
    ]
    return ("what a batch costs over the smallest, distilled minus supervised, nats/token "
            f"({level:.0%}, paired): {', '.join(parts) or 'nothing in common'}")  # fmt: skip


def noise_words(noise: Mapping[str, Any]) -> str:
    """The gradient noise scale, a diagnostic."""
    value = "not distinct from no signal" if noise["value"] is None else f"{noise['value']:,.0f} tokens"
    high = "no upper end" if noise["high"] is None else f"{noise['high']:,.0f}"
    return (f"noise scale {value} [{noise['low']:,.0f}, {high}], tr(Sigma) {noise['trace']:.3g} ± "
            f"{noise['trace_se']:.2g}, |G|^2 {noise['grad_sq']:.3g} ± {noise['grad_sq_se']:.2g} (a diagnostic, "
            f"{noise['steps']} batches of {noise['big']:,.0f})")  # fmt: skip


def _tolerance(found: Mapping[str, Any]) -> str:
    both = found["tolerances"] if "tolerances" in found else [found["tolerance"]]
    values = dict.fromkeys(f"{value:.4f}" for value in both)
    extra = ""
    if "noise" in found and found["tolerance_from"] == "seed-noise":
        extra = f", {found['noise']['dof']} degrees of freedom"
    return f"{TOLERANCES[found['tolerance_from']]} ({' and '.join(values)} nats/token{extra})"
