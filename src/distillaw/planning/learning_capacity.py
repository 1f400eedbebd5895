"""Why a stronger teacher can hurt: the two sides of the derivative of a student's loss by its teacher's.

    L_S = L_T + F,    F = L_T^(-c0) exp( -h(r) ) T(N_S, D_S),    r = L_T / Ltilde_S

    dL_S / dL_T = 1 - (F / L_T) ( c0 + h'(r) ),    h'(r) = dh / d ln r = u / ( f1 (1 + eps u) ),   u = kappa r^(1/f1)

The 1 is what a better teacher gives: a lower target. F is what the student lacks of its teacher, and grows as the
teacher improves. Where the second term passes 1, the student loses more than the target gives. The equation is
Eq. 8 of arXiv 2502.08606v2, re-parameterised (`laws/ensemble.py`); that the gap is one of learning capacity is its
reading too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distillaw.laws.base import Array, log_positive
from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.teacher_curve import teacher_loss_curve
from distillaw.quantities import format_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The terms at k teacher losses, each (k,), means over the members of an ensemble."""

    teacher_loss: Array
    ratio: Array
    """r = L_T / Ltilde_S."""
    factor: Array
    """exp(-h(r)): the share of the student's own term that is felt."""
    lacking: Array
    """F = L_S - L_T, nats/token."""
    student_loss: Array
    by_power: Array
    """c0 F / L_T: what the student loses through L_T^(-c0), per nat that the teacher gains."""
    by_break: Array
    """h' F / L_T: what it loses because it stops following, per nat."""

    @property
    def slope(self) -> Array:
        """dL_S / dL_T: positive where a better teacher makes a better student."""
        return 1 - self.by_power - self.by_break


def balance(
    ensemble: LawEnsemble, *, student_params: float, student_tokens: float, teacher_loss: ArrayLike
) -> Balance:
    """Both sides of dL_S / dL_T.

    Args:
        ensemble: laws with both halves.
        student_params: N_S.
        student_tokens: D_S.
        teacher_loss: (k,), nats/token.
    """
    c = {name: values[:, None] for name, values in ensemble.student.items()}
    t = np.atleast_1d(log_positive("teacher_loss", teacher_loss))[None]
    n, d = (log_positive(name, v).reshape(1, 1)
            for name, v in (("student_params", student_params), ("student_tokens", student_tokens)))  # fmt: skip
    x = t - ensemble.log_supervised(n, d)
    u = np.exp(c["log_kappa"] + x / c["f1"])
    student = np.exp(ensemble.log_distilled(n, d, t))
    lacking = student - np.exp(t)
    per_nat = lacking * np.exp(-t)
    has_eps = c["eps"] > 0
    h = np.where(has_eps, np.log1p(c["eps"] * u) / np.where(has_eps, c["eps"], 1.0), u)
    return Balance(
        teacher_loss=np.exp(t[0]), ratio=np.exp(x).mean(0), factor=np.exp(-h).mean(0), lacking=lacking.mean(0),
        student_loss=student.mean(0), by_power=(c["c0"] * per_nat).mean(0),
        by_break=(u / (c["f1"] * (1 + c["eps"] * u)) * per_nat).mean(0),
    )  # fmt: skip


def derivation(ensemble: LawEnsemble, *, name: str, student_params: float, student_tokens: float) -> str:
    """The derivation with this student's numbers put in, as text.

    Args:
        ensemble: laws with both halves.
        name: what to call them.
        student_params: N_S.
        student_tokens: D_S.
    """
    at = {"student_params": student_params, "student_tokens": student_tokens}
    curve = teacher_loss_curve(ensemble, **at)
    best, alone = curve.best.at, float(curve.supervised_loss.mean())
    floor = float(curve.teacher_loss[0])
    losses = sorted(
        {alone * r for r in (1.1, 1.0)} | {best * s for s in (1.1, 1.05, 1.0, 0.95, 0.9, 0.8)}, reverse=True
    )
    rows = balance(ensemble, **at, teacher_loss=[loss for loss in losses if loss > floor])
    c0, kappa, f1, eps = (float(np.median(v)) for v in (
        ensemble.student["c0"], np.exp(ensemble.student["log_kappa"]), ensemble.student["f1"], ensemble.student["eps"]
    ))  # fmt: skip
    here = balance(ensemble, **at, teacher_loss=best)
    numbers = f"{name}: c0 = {c0:.4g}, kappa = {kappa:.4g}, f1 = {f1:.4g}, eps = {eps:.3g}"
    student = f"{format_count(student_params)} on {format_count(student_tokens)} tokens"
    return "\n".join([
        *_EQUATIONS,
        f"  {numbers}, kappa^(-f1) = {float(curve.break_ratio.mean()):.3g}",
        f"  the student alone, {student}: Ltilde_S = {alone:.4f}",
        *_table(rows, best),
        *_sign(best, here, is_edge=curve.best.at_edge),
    ])  # fmt: skip


_EQUATIONS = (
    "Why a stronger teacher can hurt",
    "  L_S = L_T + F,    F = L_T^(-c0) exp(-h(r)) T(N_S, D_S),    r = L_T / Ltilde_S",
    "  L_T is the target. F is what the student lacks of it: T, which its own size and tokens decide, times a factor",
    "  exp(-h) that is small for a teacher no better than the student would be alone (it copies that one almost",
    "  exactly) and 1 for one far ahead. The teacher's size and tokens do not occur: the gap is one of loss.",
    "  Per nat that the teacher improves, the target falls by 1 and F grows by (F / L_T)(c0 + h'):",
    "      dL_S / dL_T = 1 - c0 F / L_T - h' F / L_T,    h' = u / (f1 (1 + eps u)),    u = kappa r^(1/f1)",
    "  c0 F / L_T   what the student lacks weighs as L_T^(-c0): more, the lower the target",
    "  h' F / L_T   the student stops following the teacher, fastest around r = kappa^(-f1)",
)


def _table(rows: Balance, best: float) -> list[str]:
    lines = ["       L_T      r   exp(-h)       F      L_S   c0 F/L_T   h' F/L_T   dL_S/dL_T"]
    columns = zip(rows.teacher_loss, rows.ratio, rows.factor, rows.lacking, rows.student_loss, rows.by_power,
                  rows.by_break, rows.slope, strict=True)  # fmt: skip
    for t, r, factor, lacking, student, by_power, by_break, slope in columns:
        is_best = abs(t / best - 1) < 1e-9
        lines.append(
            f"    {t:6.4f}  {r:5.3f}    {factor:6.4f}  {lacking:6.4f}   {student:6.4f}     {by_power:6.3f}     "
            f"{by_break:6.3f}      {0.0 if is_best else slope:+6.3f}{'  <- best' if is_best else ''}"
        )
    return lines


def _sign(best: float, here: Balance, *, is_edge: bool) -> list[str]:
    if is_edge:
        return [
            f"  The sign does not change above {best:.4f}: for this student every better teacher is better."
        ]
    return [
        f"  The sign changes at L_T* = {best:.4f}, where {here.by_power[0]:.3f} + {here.by_break[0]:.3f} = 1. With a "
        "weaker teacher the two terms",
        "  are below 1: improve it. With a stronger one the student loses more by not following than the target gives.",
    ]
