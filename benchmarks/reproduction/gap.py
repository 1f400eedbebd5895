"""Claims of the capacity-gap paper, and the distillation law's answer to the same question."""

import numpy as np

from benchmarks.reproduction.claim import Claim, LawSet, by_set, form, near, single
from distillaw.accounting.architecture import count_params
from distillaw.laws.published import published
from distillaw.planning.teacher_curve import teacher_curve
from distillaw.shapes import Shape

_LLAMA = Shape(layers=32, width=4096, ffn=11008, heads=32, kv_heads=32, head_dim=128, vocab=49216, context=4096)
_MINIMA = Shape(layers=24, width=3072, ffn=8192, heads=24, kv_heads=24, head_dim=128, vocab=49216, context=4096)
_STUDENTS = (2e8, 1e9, 5e9)


def the_line(sets: dict[str, LawSet]) -> list[Claim]:
    """The published line, and the paper's own realisation of it."""
    line = published("zhang2023-capacity-gap").capacity_gap
    assert line is not None
    teacher, student = (count_params(_LLAMA), count_params(_MINIMA))
    ratios = (teacher.total / student.total, teacher.non_embedding / student.non_embedding)
    sizes = np.array([1e8, 1e9, 3e9])
    return [
        single(
            "line-values",
            ours=line(student_params=sizes) / 1e9,
            show=form("{:.3f}"),
            judge=near((0.238, 2.49, 7.48), rel=0.0025),
        ),
        single(
            "line-is-ratio",
            ours=line(student_params=sizes) / sizes,
            show=form("{:.3f}"),
            judge=near((2.5,) * 3, rel=0.05),
        ),
        single("line-r2"),
        single("minima-ratio", ours=ratios, show=form("{:.2f}"), judge=near((2.5, 2.5), rel=0.05)),
        single(
            "minima-inverse",
            ours=[float(line.best_student(teacher_params=teacher.total)) / 1e9, student.total / 1e9],
            show=lambda s, m: f"{s:.2f}B, MiniMA has {m:.2f}B",
            judge=lambda s, m: abs(s - 2.76) < 0.005,
        ),
        single("h1-h3"),
    ]


def against_the_law(sets: dict[str, LawSet]) -> list[Claim]:
    """The best ratio under the distillation law, students from random weights."""
    return [
        by_set(
            sets,
            "ratio-160",
            measure=lambda s: [best_ratio(s, n, 160 * n) for n in _STUDENTS],
            show=form("{:.1f}"),
            judge=near((2.5,) * 3, rel=0.25),
        ),
        by_set(
            sets,
            "ratio-20",
            measure=lambda s: [best_ratio(s, n, 20 * n) for n in _STUDENTS],
            show=form("{:.1f}"),
            judge=near((2.5,) * 3, rel=0.25),
        ),
        by_set(
            sets,
            "ratio-overtrained",
            measure=lambda s: [best_ratio(s, n, 160 * n, teacher_tokens=1e15) for n in _STUDENTS],
            show=form("{:.1f}"),
            judge=near((2.5,) * 3, rel=0.25),
        ),
        *(
            by_set(
                sets,
                f"proportional-{m}",
                show=form("{:.1f}"),
                measure=lambda s, m=m: [best_ratio(s, n, m * n) for n in _STUDENTS],
                judge=lambda *v: max(v) / min(v) < 1.5,
            )
            for m in (160, 10000)
        ),
        by_set(
            sets,
            "3b-check",
            measure=_minima_like,
            show=lambda a, b, c, gain, last: (
                f"{_name(a, b, c)} (spread {100 * (max(a, b, c) / min(a, b, c) - 1):.2f} %)"
            ),
            judge=lambda a, b, c, *_: a < b and a < c,
        ),
        by_set(
            sets,
            "3b-gain",
            measure=lambda s: [*_minima_like(s)[3:], float(s.name == "surrogate-s2")],
            show=lambda gain, last, _: f"{gain:.2f} / {last:.2f}",
            judge=lambda gain, last, s2: 0.85 < gain < 2.05 and (last < 0) == bool(s2),
        ),
        by_set(
            sets,
            "flatness",
            measure=_flatness,
            show=lambda *v: form("{:.1f}")(*v[:-1]),
            judge=lambda *v: None if v[-1] else near((0.5, 0.2, 1.4, 2.1, 8.7), abs_=0.05)(*v[:-1]),
        ),
        by_set(
            sets,
            "too-small",
            measure=lambda s: _flatness(s)[:2],
            show=form("{:.2f}"),
            judge=lambda half, twice: half > twice,
        ),
    ]


def best_ratio(one: LawSet, size: float, tokens: float, *, teacher_tokens: float | None = None) -> float:
    """Best teacher size over the student's."""
    schedule = {"teacher_tokens_per_param": 20.0} if teacher_tokens is None else {"teacher_tokens": teacher_tokens}
    curve = teacher_curve(one.ensemble, student_params=size, student_tokens=tokens, **schedule)
    return curve.best.at / size


def _minima_like(one: LawSet) -> list[float]:
    """Losses from 6.5B, 12.7B and 68B, then the gains of the best and of the last over none, in per cent."""
    losses = one.distilled(size=2.7e9, tokens=1.26e11, teacher=np.array([6.5e9, 1.27e10, 6.8e10]), teacher_tokens=2e12)
    alone = float(one.supervised(params=2.7e9, tokens=1.26e11))
    return [*losses, 100 * (1 - float(losses.min()) / alone), 100 * (1 - float(losses[2]) / alone)]


def _name(*losses: float) -> str:
    return ("7B", "13B", "70B")[int(np.argmin(losses))]


def _flatness(one: LawSet) -> list[float]:
    curve = teacher_curve(one.ensemble, student_params=1e9, student_tokens=1.6e11, teacher_tokens_per_param=20.0)
    cost = {c.name: c.per_cent for c in curve.costs}
    order = ("half the best", "twice the best", "100 x the student", "2.5 x the student", "1 x the student")
    return [*(cost[name] for name in order), float(one.name != "busbridge2025")]
