"""Claims that need an optimum: who pays, and when supervised training catches up (laws.md 8, 11)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from benchmarks.reproduction.claim import EVERY_TEACHER, Claim, Judge, LawSet, by_set, form, single
from distillaw.accounting.scenarios import Scenario
from distillaw.planning.optimum import OptimalPlan, optimal_distillation

ENDS = {
    "f1": ((0.088, 0.093), (3.3e11, None)),
    "d1": ((1.302, 1.327), (None, 3.9e11)),
    "c0": ((2.425, 2.615), (3.9e11, 3.6e13)),
    "E": ((1.19, 1.247), (7.8e11, 4.1e13)),
    "alpha": ((0.319, 0.324), (1.2e12, 5.1e13)),
    "gamma": ((0.732, 0.788), (1.6e13, 1.4e12)),
    "A": ((2227.0, 2255.0), (3.7e12, 2.6e12)),
    "B": ((24084.0, 24266.0), (3e12, 3e12)),
    "beta": ((0.634, 0.64), (3e12, 3e12)),
}
"""Ends of the printed 90 % intervals, and the crossovers there as computed by hand."""


def scenarios(sets: dict[str, LawSet]) -> list[Claim]:
    """Table 3 and the shapes of the optimum under the four ways to pay."""
    return [
        _table3(sets, "table3-small-small", (1e9,), 1e20, lambda student, logits, teacher: teacher > 0.5),
        _table3(sets, "table3-small-large", (1e9,), 1e25, _is_half_and_half),
        _table3(sets, "table3-large-small", (1e10, 3e10), 1e20, lambda *v: min(v[0], v[3]) > 0.5),
        _table3(sets, "table3-large-large", (1e10, 3e10), 1e25, lambda *v: 0.2 <= min(v) and max(v) <= 0.47),
        by_set(
            sets,
            "tokens-at-bound",
            measure=lambda s: _plan(s, Scenario.INFERENCE).teacher_tokens[1::2],
            show=form("{:.0e}"),
            judge=lambda *v: min(v) > 0.99e17,
        ),
        by_set(
            sets,
            "constant-m",
            measure=lambda s: _ratios(_plan(s, Scenario.PRETRAINING)),
            show=lambda *v: f"{min(v):.1f} to {max(v):.1f}",
            judge=lambda *v: max(v) / min(v) < 1.15 and 20 / 1.5 <= min(v) and (max(v) <= 30),
        ),
        by_set(
            sets,
            "overtrained",
            measure=lambda s: _ratios(_plan(s, Scenario.PRETRAINING_INFERENCE)),
            show=lambda *v: " ".join(f"{x:.0f}" for x in v),
            judge=lambda *v: v[0] < 30 and _is_rising(v),
        ),
        by_set(
            sets,
            "rises-and-falls",
            measure=lambda s: _sizes(s),
            show=lambda *v: " ".join(f"{x:.2g}" for x in v),
            judge=lambda *v: v[0] < 1 < max(v) and 0 < int(np.argmax(v)) < len(v) - 1,
        ),
        by_set(sets, "plateau", measure=lambda s: [max(_sizes(s))], show=form("{:.2f}"), judge=lambda v: v < 1.5),
        by_set(
            sets,
            "weak-at-small",
            measure=lambda s: _plan(s, Scenario.PRETRAINING_INFERENCE).teacher_loss,
            show=form("{:.2f}"),
            judge=lambda *v: _is_rising(v[::-1]),
        ),
        by_set(
            sets,
            "never-wins",
            measure=paying_never_wins,
            show=lambda n, worst, short, m: (
                f"{n:.0f} cells, at most {worst:.4f}; M_S < 1: {short:.0f} cells, up to {m:.2f}"
            ),
            judge=lambda n, worst, short, m: worst <= 0.0031,
        ),
    ]


def _table3(sets: dict[str, LawSet], key: str, sizes: tuple[float, ...], compute: float, judge: Judge) -> Claim:
    """Shares student / logits / teacher of each size, everything paid."""

    def measure(one: LawSet) -> list[float]:
        plan = optimal_distillation(
            one.ensemble, student_params=np.array(sizes), compute=compute, shares=Scenario.PRETRAINING_INFERENCE.value
        )
        return list(np.stack([plan.student_share, plan.logits_share, plan.teacher_share], -1).ravel())

    def show(*shares: float) -> str:
        rows = [" / ".join(f"{100 * v:.0f}" for v in shares[i : i + 3]) for i in range(0, len(shares), 3)]
        return "; ".join(rows) + " %"

    return by_set(sets, key, measure=measure, show=show, judge=judge)


def _is_half_and_half(student: float, logits: float, teacher: float) -> bool:
    return abs(student - 0.5) < 0.1 and abs(logits - 0.5) < 0.1 and teacher < 0.1


def _is_rising(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def _plan(one: LawSet, scenario: Scenario) -> OptimalPlan:
    return optimal_distillation(
        one.ensemble, student_params=1e9, compute=10.0 ** np.arange(19, 26), shares=scenario.value
    )


def _ratios(plan: OptimalPlan) -> list[float]:
    return list(plan.teacher_tokens / plan.teacher_params)


def _sizes(one: LawSet) -> list[float]:
    return list(_plan(one, Scenario.PRETRAINING_INFERENCE).teacher_params / 1e9)


def paying_never_wins(one: LawSet) -> tuple[float, float, float, float]:
    """Cells that distillation wins with M_S >= 1 and by how much at most; the same with less than a token each."""
    N, C = (np.array([3e8, 1e9, 3e9, 1e10, 3e10])[:, None], 10 ** np.arange(20, 26.01, 0.5))
    won, short = ([], [])
    for scenario in (Scenario.PRETRAINING_INFERENCE, Scenario.PRETRAINING):
        plan = optimal_distillation(one.ensemble, student_params=N, compute=C, shares=scenario.value)
        is_short = plan.supervised_tokens / plan.student_params < 1
        won += list(plan.gain[(plan.gain > 0) & ~is_short])
        short += list(plan.gain[(plan.gain > 0) & is_short])
    return (float(len(won)), max(won, default=0.0), float(len(short)), max(short, default=0.0))


def crossovers(sets: dict[str, LawSet]) -> list[Claim]:
    """Section 11: the tokens at which supervised training catches up with the best teacher of all."""
    printed = sets["printed"]
    claims = [
        by_set(
            sets,
            "crossover-1b",
            measure=lambda s: [
                crossover(s.law, 1e9),
                {"busbridge2025": 3e12, "surrogate-s1": 2.6e12, "surrogate-s2": 1.1e12, "surrogate-s3": 2e12}[s.name],
            ],
            show=lambda v, _: f"{v:.2g}",
            judge=lambda v, e: abs(v / e - 1) < 0.04,
        ),
        by_set(
            sets,
            "threshold-grows",
            measure=lambda s: [crossover(s.law, n) for n in (3e8, 1e9, 3e9, 1e10)],
            show=form("{:.2g}"),
            judge=lambda *v: not np.isnan(v).any() and _is_rising(v),
        ),
        by_set(
            sets,
            "catches-up",
            measure=lambda s: [_given_teacher(s, n) for n in (2.72e9, 7.75e9, 1.26e10)],
            show=form("{:.2g}"),
            judge=lambda *v: not np.isnan(v).any(),
        ),
    ]
    claims += [
        single(
            "given-robust",
            ours=[_spread(sets, size, teacher) for size, teacher in ((1e9, 1e9), (3e9, 1e9), (1e10, 1e10))],
            show=form("{:.2f}"),
            judge=lambda *v: max(v) < 1.205,
        ),
        single(
            "given-fragile",
            ours=[_spread(sets, size, teacher) for size, teacher in ((3e8, 1e10), (1e9, 1e10), (1e9, 1.26e10))],
            show=form("{:.1f}"),
            judge=lambda *v: 2 <= min(v) and max(v) <= 5,
        ),
    ]
    for symbol, (ends, expected) in ENDS.items():
        found = [crossover(_moved(printed, symbol, end), 1e9) for end in ends]
        claims.append(
            single(
                f"crossover-{symbol}",
                ours=found,
                show=form("{:.2g}"),
                judge=lambda *v, want=expected: all(
                    (np.isnan(x) if e is None else abs(x / e - 1) < 0.03 for x, e in zip(v, want, strict=True))
                ),
            )
        )
    return claims


def _moved(one: LawSet, symbol: str, value: float):
    if symbol == "E":
        return replace(one.law, supervised=replace(one.supervised, E=value))
    return replace(one.law, **{symbol: value})


def crossover(law, size: float) -> float:
    """First tokens at which supervised training beats the best teacher; nan if none below 1e17."""
    tokens = np.geomspace(10 * size, 1e17, 1501)
    best = law.optimal_teacher_loss(
        student_params=size, student_tokens=tokens, low=law.supervised.E, high=EVERY_TEACHER["high"]
    )
    return _first(tokens, best.student_loss - law.supervised(params=size, tokens=tokens))


def _given_teacher(one: LawSet, teacher: float, size: float = 1e9) -> float:
    tokens = np.geomspace(1e9, 1e17, 2001)
    taught = one.distilled(size=size, tokens=tokens, teacher=teacher, teacher_tokens=20 * teacher)
    return _first(tokens, taught - one.supervised(params=size, tokens=tokens))


def _spread(sets: dict[str, LawSet], size: float, teacher: float) -> float:
    """Largest over smallest crossover of the four sets with one given teacher."""
    found = [_given_teacher(one, teacher, size) for one in sets.values()]
    return max(found) / min(found)


def _first(tokens: np.ndarray, ahead: np.ndarray) -> float:
    """Where supervised training first gets ahead for good, straight between points in ln tokens."""
    crossed = np.flatnonzero((ahead[:-1] <= 0) & (ahead[1:] > 0))
    if not len(crossed):
        return float(tokens[0]) if ahead[0] > 0 else float("nan")
    i = int(crossed[0])
    share = -ahead[i] / (ahead[i + 1] - ahead[i])
    return float(np.exp(np.log(tokens[i]) + share * np.log(tokens[i + 1] / tokens[i])))
