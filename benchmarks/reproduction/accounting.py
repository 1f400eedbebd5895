"""Claims about counts: the architecture table, FLOP, the Pareto axis, families, stored logits."""

import csv

import numpy as np

from benchmarks import ROOT
from benchmarks.reproduction.claim import FORWARD, Claim, LawSet, form, near, single
from distillaw.accounting.architecture import (
    PRINTED_UNIT,
    ParamConvention,
    Params,
    count_params,
    distillation_axis,
    training_axis,
)
from distillaw.accounting.family import FixedAspect
from distillaw.accounting.flops import forward_flops
from distillaw.accounting.memory import target_scheme
from distillaw.accounting.scenarios import family_compute
from distillaw.shapes import Shape, ffn_width

TABLE13 = ROOT / "tests" / "accounting" / "golden" / "table13_anchors.csv"
_MODELS = {
    "LLaMA-2-7B": (7e9, 2e12, 84.0),
    "ShearedLLaMA-2.7B": (2.7e9, 5e10, 0.8),
    "StableLM-3B": (3e9, 4e12, 72.0),
    "BTLM-3B": (3e9, 6.27e11, 11.3),
    "Qwen-1.8B": (1.8e9, 2.2e12, 23.8),
}
"""Size, training tokens (public model cards; all but LLaMA recalled) and the printed axis value."""


def architecture(sets: dict[str, LawSet]) -> list[Claim]:
    """Table 13 from shapes, eleven rows."""
    with TABLE13.open(newline="") as file:
        rows = list(csv.DictReader(file))
    shapes = [_shape(row) for row in rows]

    def worst(column: str, ours) -> list[float]:
        errors = [o / 1e9 / float(row[column]) - 1 for o, row in zip(ours, rows, strict=True)]
        return [100 * max(errors, key=abs)]

    at_worst = form("{:+.3f} % at worst")
    N = np.array([float(row["N_B"]) * 1e9 for row in rows])
    vocab = [(float(r["N_total_B"]) - float(r["N_B"])) * 1e9 / float(r["d_model"]) for r in rows]
    return [
        single(
            "table13-n",
            ours=worst("N_B", [count_params(s).non_embedding for s in shapes]),
            judge=near((0,), abs_=0.09),
            show=at_worst,
        ),
        single(
            "table13-ffn",
            show=lambda v: f"{v:.0f} of {len(rows)}",
            ours=[sum(s.ffn == ffn_width(s.width, multiple=128) for s in shapes)],
            judge=lambda v: v == len(rows),
        ),
        single(
            "table13-sigma",
            ours=worst("C_2N_sigma_B", [forward_flops(s).total for s in shapes]),
            judge=near((0,), abs_=0.08),
            show=at_worst,
        ),
        single(
            "table13-2n",
            ours=worst("C_2N_B", [2.0 * count_params(s).active_non_embedding for s in shapes]),
            judge=near((0,), abs_=0.09),
            show=at_worst,
        ),
        single(
            "table13-full",
            ours=worst("C_fwd_B", [forward_flops(s).full_count for s in shapes]),
            judge=near((0,), abs_=0.2),
            show=at_worst,
        ),
        single("f-of-n", ours=worst("C_fwd_B", list(FORWARD(N))), show=at_worst, judge=near((0,), abs_=0.37)),
        single(
            "two-n-small",
            show=form("{:.0f}"),
            ours=[100 * (2 * N[i] / (float(rows[i]["C_fwd_B"]) * 1e9) - 1) for i in (0, -1)],
            judge=near((-40, -7), abs_=0.6),
        ),
        single("vocabulary", ours=[float(np.mean(vocab))], show=form("{:.0f}"), judge=near((32168,), abs_=100)),
        single(
            "sigmas",
            show=lambda a, b, f: f"{a:.7f} / {b:.7f} / {f:.5e}",
            ours=[FixedAspect().sigma1, FixedAspect().sigma2, FORWARD(1e9)],
            judge=near((0.0378567, 2.2012848, 2.45439e9), rel=3e-06),
        ),
    ]


def _shape(row: dict[str, str]) -> Shape:
    layers = int(row["n_layers"])
    return Shape(
        layers=layers,
        width=int(row["d_model"]),
        ffn=int(row["d_ff"]),
        heads=layers,
        kv_heads=layers,
        head_dim=128,
        vocab=32768,
        context=4096,
    )


def axes_and_families(sets: dict[str, LawSet]) -> list[Claim]:
    """Families of students, the compute axis of plots, stored targets."""
    weights = ParamConvention.ALL_WEIGHTS
    minima = [
        distillation_axis(Params(s, weights), Params(t, weights), 1.26e11) / PRINTED_UNIT
        for s, t in ((3.02e9, 6.88e9), (3e9, 7e9))
    ]
    ours = [training_axis(Params(n, weights), d) / PRINTED_UNIT for n, d, _ in _MODELS.values()]
    printed = [v for *_, v in _MODELS.values()]
    dense = target_scheme("dense-fp32")
    return [
        single("axis-minima", ours=minima, show=form("{:.3f}"), judge=near((4.0, 4.0), abs_=0.05)),
        single("axis-models", ours=ours, show=form("{:.3g}"), judge=near(printed, rel=0.02)),
        single(
            "axis-mamba",
            ours=[training_axis(Params(2.77e9, weights), 3e11) / PRINTED_UNIT],
            show=form("{:.2f}"),
            judge=near((4.6,), rel=0.02),
        ),
        single(
            "axis-phi2",
            ours=[training_axis(Params(2.78e9, weights), 1.4e12) / PRINTED_UNIT],
            show=form("{:.1f}"),
            judge=near((159.9,), rel=0.02),
        ),
        single(
            "axis-minimix",
            ours=[training_axis(Params(3.02e9, weights), 5.07e11) / PRINTED_UNIT],
            show=form("{:.1f}"),
            judge=near((12.0,), rel=0.02),
        ),
        single(
            "family",
            ours=[*_family((1.98e8, 5.46e8, 9.75e8, 1.82e9)), _ratio((1.03e8, 1.43e8, 1.98e8, 2.66e8, 5.46e8))],
            show=form("{:.2f}"),
            judge=near((43.02, 93.99, 3.5), rel=0.015),
        ),
        single(
            "dense-bytes",
            ours=[dense.bytes_per_token(32168) / 1000.0],
            show=form("{:.1f} kB"),
            judge=near((129,), abs_=0.5),
        ),
        single(
            "petabytes",
            ours=[dense.bytes_per_token(32168) * d / 1e15 for d in (1.8e11, 2e12)],
            show=lambda c4, two: f"{c4:.0f} PB; {two:.0f} at 2e12",
            judge=lambda c4, _: abs(c4 / 260 - 1) < 0.02,
        ),
    ]


def _family(students: tuple[float, ...]) -> list[float]:
    costs = [
        family_compute(
            student_forwards=[FORWARD(n) for n in students],
            student_tokens=[1.0] * len(students),
            teacher_forward=FORWARD(7.75e9),
            shared_logits=shared,
        )
        for shared in (True, False)
    ]
    return [cost.total / 1e9 for cost in costs]


def _ratio(students: tuple[float, ...]) -> float:
    shared, separate = _family(students)
    return separate / shared
