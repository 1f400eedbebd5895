"""Claims about the laws themselves: Table 6, required behaviours, the break, spot values, limits (laws.md 3-9)."""

from dataclasses import replace

import numpy as np

from benchmarks.reproduction.claim import FORWARD, Claim, LawSet, by_set, form, near, single
from distillaw.laws.distillation import KappaDistillationLaw, ReducedDistillationLaw

_LIMIT_SIZES = (1e8, 3e8, 1e9, 3e9, 1e10, 3e10, 1e11, 1e12)
_LIMIT_PRINTED = (-0.49, 0.11, 0.44, 0.51, 0.33, -0.05, -0.77, -3.8)
_RATIOS = (0.6, 0.7, 0.8, 0.9, 0.93, 1.0, 1.1)
_FULL = (0.992, 0.958, 0.829, 0.501, 0.371, 0.112, 0.0023)
_SHORT = (0.992, 0.958, 0.829, 0.499, 0.367, 0.106, 0.0015)


def table6(sets: dict[str, LawSet]) -> list[Claim]:
    """Coefficients, and what follows from them alone."""
    printed = sets["printed"]
    law, plain = (printed.law, printed.supervised)
    a = law.beta / (law.alpha + law.beta)
    budgets = np.array([1e20, 1e21, 1e22])
    optimal = [_optimal_ratio(plain, c) for c in budgets]
    return [
        single(
            "table6-a-b",
            ours=(plain.derived["a"], plain.derived["b"]),
            show=form("{:.4f}"),
            judge=near((0.5135, 0.4865), abs_=0.0005),
        ),
        single("table6-a-b-student", ours=(a, 1 - a), show=form("{:.4f}"), judge=near((0.6645, 0.3355), abs_=0.0005)),
        single(
            "m-optimal", ours=optimal, show=form("{:.1f}"), judge=lambda *m: all(20 / 1.5 <= v <= 20 * 1.5 for v in m)
        ),
        single(
            "spot",
            ours=[plain(params=n, tokens=20 * n) for n in (5.46e8, 1.821e9)],
            show=form("{:.4f}"),
            judge=near((2.515, 2.251), abs_=0.0005),
        ),
        single(
            "slopes",
            ours=[*list(plain.derived.values())[:2], law.derived["p"], law.derived["q"]],
            show=form("{:.3f}"),
            judge=near((0.184, 0.195, 0.245, 0.487), abs_=0.0006),
        ),
        single("intervals"),
        single("errors"),
        single("runs"),
        single("c1-interval", ours=[_move_of_c1(law)], show=lambda v: f"{100 * v:.3f} %", judge=lambda v: v > 0.001),
    ]


def _optimal_ratio(plain, compute: float) -> float:
    """Tokens per parameter at the lowest loss for C = 3 F(N) D."""
    N = np.geomspace(1e7, 1e12, 200001)
    D = compute / (3 * FORWARD(N))
    best = int(np.argmin(plain(params=N, tokens=D)))
    return float(D[best] / N[best])


def _move_of_c1(law) -> float:
    """Largest relative change of L_S over the fitted box when c1 halves at fixed kappa."""
    moved = replace(law, c1=law.c1 / 2)
    moved = replace(moved, d1=(moved.c1 * moved.f1 / law.kappa) ** law.f1)
    N, M, T = np.meshgrid(np.geomspace(1.43e8, 1.26e10, 7), np.geomspace(20, 320, 5), np.linspace(1.85, 2.8, 20))
    at = {"student_params": N, "student_tokens": M * N, "teacher_loss": T}
    return float(np.abs(moved(**at) / law(**at) - 1).max())


def behaviours(sets: dict[str, LawSet]) -> list[Claim]:
    """How the law behaves at its limits, and its break."""
    at = {"student_params": 1e9, "student_tokens": 2e10}
    return [
        by_set(
            sets,
            "imitation",
            measure=lambda s: [float(s.law.limit(teacher_loss=2.0)) - 2.0],
            show=form("{:.0e}"),
            judge=near((0.0,), abs_=1e-12),
        ),
        by_set(
            sets,
            "random-teacher",
            measure=lambda s: [float(s.law(**at, teacher_loss=t)) - t for t in (3.0, 4.0)],
            show=form("{:.0e}"),
            judge=lambda three, four: three < 1e-09 and four < 1e-14,
        ),
        by_set(
            sets,
            "u-shape",
            measure=_u_shape,
            show=lambda best, ok: f"best at {best:.2f}",
            judge=lambda best, ok: bool(ok),
        ),
        by_set(
            sets,
            "infinite-data",
            measure=_infinite_data,
            show=lambda *v: f"{min(v[:-1]):+.2f} to {max(v[:-1]):+.2f} % ({v[-1]:+.1f} %)",
            judge=lambda *v: max(abs(x) for x in v[:-1]) < 1,
        ),
        single(
            "infinite-data-row",
            ours=_infinite_data(sets["printed"]),
            show=form("{:.2f}"),
            judge=lambda *v: all(
                (abs(x - e) <= (0.005 if abs(e) < 1 else 0.05) for x, e in zip(v, _LIMIT_PRINTED, strict=True))
            ),
        ),
        by_set(
            sets, "never-below", measure=_weak_to_strong, show=lambda v: f"L_S - L_T >= {v:.4f}", judge=lambda v: v < 0
        ),
        by_set(
            sets,
            "weak-to-strong-limit",
            measure=lambda s: _two_students(s),
            show=form("{:.4f}"),
            judge=lambda few, many: many > few,
        ),
    ]


def _u_shape(one: LawSet) -> tuple[float, float]:
    T = np.linspace(1.25, 3.5, 4001)
    L = one.law(student_params=1.43e8, student_tokens=20 * 1.43e8, teacher_loss=T)
    best = int(np.argmin(L))
    inside = 0 < best < len(T) - 1
    return (float(T[best]), float(inside and (np.diff(L[: best + 1]) < 0).all() and (np.diff(L[best:]) > 0).all()))


def _infinite_data(one: LawSet) -> list[float]:
    teachers = np.linspace(one.supervised.E * 1.0001, 3.0, 20001)
    return [
        100 * float(one.law.limit(teacher_loss=teachers, student_params=n).min() / one.supervised.limit(params=n) - 1)
        for n in _LIMIT_SIZES
    ]


def _weak_to_strong(one: LawSet) -> list[float]:
    tokens = np.geomspace(8e9, 5.12e11, 13)
    teacher = float(one.supervised(params=5.46e8, tokens=20 * 5.46e8))
    return [float((one.law(student_params=1.82e9, student_tokens=tokens, teacher_loss=teacher) - teacher).min())]


def _two_students(one: LawSet) -> list[float]:
    teacher = float(one.supervised(params=5.46e8, tokens=20 * 5.46e8))
    tokens = np.array([8e9, 5.12e11])
    return list(one.law(student_params=1.82e9, student_tokens=tokens, teacher_loss=teacher))


def the_break(sets: dict[str, LawSet]) -> list[Claim]:
    """Section 5: where the curve bends, and the shorter forms."""
    full = sets["printed"].law
    names = ("A", "B", "alpha", "beta", "gamma", "c0", "f1")
    short = KappaDistillationLaw(**{n: getattr(full, n) for n in names}, kappa=full.kappa, supervised=full.supervised)
    s0, p = (full.gamma * np.log(full.A), full.gamma * full.alpha)
    reduced = ReducedDistillationLaw(s0=s0, p=p, c0=full.c0, kappa=full.kappa, f1=full.f1, supervised=full.supervised)
    return [
        single(
            "break-at-d1",
            ours=(full.derived["break"], float(full.break_factor(full.d1))),
            show=lambda r, f: f"{r:.3f}; {f:.0e} at d1",
            judge=lambda r, f: abs(r / full.d1 - 1) < 0.05,
        ),
        single("kappa", ours=(full.kappa, 1 / full.f1), show=form("{:.4f}"), judge=near((2.244, 11.11), abs_=0.005)),
        single(
            "factors-full",
            ours=[float(full.break_factor(r)) for r in _RATIOS],
            show=form("{:.4f}"),
            judge=near(_FULL, abs_=0.00055),
        ),
        single(
            "factors-short",
            ours=[float(short.break_factor(r)) for r in _RATIOS],
            show=form("{:.4f}"),
            judge=near(_SHORT, abs_=0.00055),
        ),
        single(
            "eight-parameters", ours=[_difference(short, full, 1e11, 0)], show=form("{:.3f} %"), judge=lambda v: v < 0.1
        ),
        single(
            "five-parameters",
            ours=[_difference(reduced, full, 1e11, 20), _difference(reduced, full, 1e11, 0)],
            show=form("{:.2f} %"),
            judge=near((0.2, 0.9), abs_=0.05),
        ),
    ]


def _difference(short, full, largest: float, fewest: float) -> float:
    """Largest relative difference of L_S in per cent over the box of 5.2, from `fewest` tokens per parameter up."""
    N, D, T = np.meshgrid(np.geomspace(1e8, largest, 13), np.geomspace(1e9, 1e14, 21), np.linspace(1.25, 3, 15))
    at = {"student_params": N, "student_tokens": D, "teacher_loss": T}
    error = np.abs(short(**at) / full(**at) - 1)
    return 100 * float(error[D >= fewest * N].max())
