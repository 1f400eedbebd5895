"""Claims of figures, text and findings about students and teachers (by hand)."""

import numpy as np

from benchmarks.reproduction.claim import FORWARD, Claim, LawSet, by_set, form, near, single

TEACHERS = {
    "546M": 5.46e8,
    "975M": 9.75e8,
    "1.82B": 1.82e9,
    "2.72B": 2.72e9,
    "4.82B": 4.82e9,
    "7.75B": 7.75e9,
    "12.6B": 1.26e10,
}
_FIG18 = {3e8: 2.2, 5e8: 2.1, 1e9: 2.0, 3e9: 1.8}


def comparison(sets: dict[str, LawSet]) -> list[Claim]:
    """Section 8.1, row by row."""
    ratios = form("{:.3f}")
    return [
        by_set(
            sets,
            "efficiency-500m",
            measure=lambda s: efficiency(s, 5e8, 2.4),
            show=ratios,
            judge=near((2 / 3, 3 / 4), rel=0.2),
        ),
        by_set(
            sets,
            "efficiency-10b",
            measure=lambda s: efficiency(s, 1e10, 2.2),
            show=ratios,
            judge=near((0.5, 0.5), rel=0.2),
        ),
        *(
            by_set(
                sets,
                f"fig18-{size:.0e}",
                measure=lambda s, n=size: [_best_case(s, n, 1e20)],
                show=form("{:.2f}"),
                judge=near((label,), abs_=0.1),
            )
            for size, label in _FIG18.items()
        ),
        by_set(
            sets,
            "fig4",
            measure=lambda s: _fig4(s),
            show=lambda best, rise: f"best {best / 1e9:.3g}B, then {1000.0 * rise:+.1f} mnats",
            judge=lambda best, rise: best < 1.2e10,
        ),
        by_set(
            sets,
            "table7-forward",
            measure=lambda s: [_table7(s)],
            show=form("{:.3f}"),
            judge=near((2.42,), abs_=0.005, rel=0.01),
        ),
        single("table7-reverse"),
        by_set(
            sets,
            "7b-teacher",
            measure=lambda s: [_isoflop_student(s)],
            show=lambda v: f"{v / 1e9:.3g}B",
            judge=lambda v: 1.43e8 <= v <= 1.26e10,
        ),
        by_set(
            sets,
            "50b",
            measure=lambda s: [float(s.best(size=5e10, tokens=1e20 / (3 * FORWARD(5e10))).student_loss)],
            show=form("{:.2f}"),
            judge=lambda v: None,
        ),
        single("contour-labels"),
        by_set(
            sets,
            "absurd",
            measure=lambda s: [float(s.best(size=1e10, tokens=1.5e9).student_loss)],
            show=form("{:.2f}"),
            judge=lambda v: v > 2.2,
        ),
        by_set(
            sets,
            "data-share",
            measure=_shares_of_data,
            show=lambda low, high: f"{100 * low:.2g}-{100 * high:.2g} %",
            judge=lambda low, high: low > 0.02,
        ),
    ]


def efficiency(one: LawSet, size: float, loss: float) -> tuple[float, float]:
    """Tokens and compute of distillation over supervised training to a loss; teachers trained without limit."""
    alone = float(one.supervised.tokens_for_loss(params=size, loss=loss))
    teachers = np.geomspace(1e8, 3e13, 400)
    quality = one.supervised(params=teachers, tokens=1e17)
    tokens = one.law.tokens_for_loss(student_params=size, teacher_loss=quality, student_loss=loss)
    compute = (3 * FORWARD(size) + FORWARD(teachers)) * tokens
    best = int(np.argmin(compute))
    return (float(tokens[best] / alone), float(compute[best] / (3 * FORWARD(size) * alone)))


def _best_case(one: LawSet, size: float, compute: float) -> float:
    return float(one.best(size=size, tokens=compute / (3 * FORWARD(size))).teacher_loss)


def _fig4(one: LawSet) -> tuple[float, float]:
    sizes = np.array(list(TEACHERS.values()))
    losses = one.distilled(size=1.43e8, tokens=20 * 1.43e8, teacher=sizes, teacher_tokens=20 * sizes)
    return (float(sizes[int(np.argmin(losses))]), float(losses[-1] - losses.min()))


def _table7(one: LawSet) -> float:
    return float(one.distilled(size=5.46e8, tokens=20 * 5.46e8, teacher=1.821e9, teacher_tokens=20 * 1.821e9))


def _isoflop_student(one: LawSet) -> float:
    sizes = np.geomspace(1e7, 1e13, 6001)
    losses = one.distilled(size=sizes, tokens=3e19 / (3 * FORWARD(sizes)), teacher=7.75e9, teacher_tokens=20 * 7.75e9)
    return float(sizes[int(np.argmin(losses))])


def _shares_of_data(one: LawSet) -> tuple[float, float]:
    sizes = np.geomspace(1.43e8, 1.26e10, 9)
    share = one.law.data_share(student_params=sizes, student_tokens=20 * sizes)
    return (float(share.min()), float(share.max()))


def findings(sets: dict[str, LawSet]) -> list[Claim]:
    """Findings of the experiments, as far as a law can tell."""
    return [
        single("only-loss"),
        single("kl-rises"),
        single("ablations"),
        by_set(
            sets,
            "198m-wins",
            measure=lambda s: [*_isoflop_gains(s, 1.98e8), _worst_shape(s)],
            show=lambda *g: form("{:+.3f}")(*g[:4]) + f"; worst shape {g[4]:+.2f}",
            judge=lambda *g: True if g[4] > 0 else None if min(g[:4]) > 0 else False,
        ),
        by_set(
            sets,
            "1.8b-wins",
            measure=lambda s: _isoflop_gains(s, 1.82e9),
            show=form("{:+.3f}"),
            judge=lambda *g: max(g[:3]) < 0 < g[3],
        ),
        by_set(
            sets,
            "lt-falls-with-d",
            measure=_best_by_tokens,
            show=_threes,
            judge=lambda *v: all(v[i] > v[i + 1] > v[i + 2] for i in (0, 3, 6)),
        ),
        by_set(
            sets,
            "lt-falls-late",
            measure=lambda s: _best_by_tokens(s, (640, 5000, 50000)),
            show=_threes,
            judge=lambda *v: all(v[i] > v[i + 1] > v[i + 2] for i in (0, 3, 6)),
        ),
        by_set(
            sets,
            "lt-power-law",
            measure=_best_by_size,
            show=lambda *v: f"slope {v[0]:.3f} to {v[-1]:.3f}",
            judge=lambda *v: max(v) < 0 and v[-1] < v[0],
        ),
        by_set(
            sets, "supervised-near-limit", measure=_near_limit, show=form("{:.2f}"), judge=lambda *v: v[0] < 1 < v[-1]
        ),
    ]


def _isoflop_gains(one: LawSet, size: float) -> list[float]:
    """Gain over supervised from the lowest-loss teacher of each budget, student at M = 20."""
    alone = float(one.supervised(params=size, tokens=20 * size))
    gains = []
    for compute in (3e19, 1e20, 3e20, 1e21):
        N = np.geomspace(1e8, 2e10, 2001)
        teacher = float(one.supervised(params=N, tokens=compute / (3 * FORWARD(N))).min())
        gains.append(alone - float(one.law(student_params=size, student_tokens=20 * size, teacher_loss=teacher)))
    return gains


def _worst_shape(one: LawSet) -> float:
    """Smallest gain of a 198M student from any teacher of 143M to 12.6B on those budgets."""
    N, C = (np.geomspace(1.43e8, 1.26e10, 201), np.array([3e19, 1e20, 3e20, 1e21])[:, None])
    taught = one.distilled(size=1.98e8, tokens=20 * 1.98e8, teacher=N, teacher_tokens=C / (3 * FORWARD(N)))
    return float(one.supervised(params=1.98e8, tokens=20 * 1.98e8) - taught.max())


def _best_by_tokens(one: LawSet, per_param: tuple[float, ...] = (20, 80, 320)) -> list[float]:
    return [float(one.best(size=n, tokens=m * n).teacher_loss) for n in (1.98e8, 1e9, 3e9) for m in per_param]


def _threes(*values: float) -> str:
    return "; ".join(" ".join(f"{x:.3f}" for x in values[i : i + 3]) for i in range(0, len(values), 3))


def _best_by_size(one: LawSet) -> list[float]:
    sizes = np.geomspace(1e8, 1e10, 9)
    best = one.best(size=sizes, tokens=1e11).teacher_loss
    return list(np.diff(np.log(best)) / np.diff(np.log(sizes)))


def _near_limit(one: LawSet) -> list[float]:
    limit = float(one.supervised.limit(params=1e9))
    return [efficiency(one, 1e9, limit + above)[1] for above in (0.3, 0.1, 0.03, 0.01)]
