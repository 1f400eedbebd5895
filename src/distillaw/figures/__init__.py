"""Figures for papers: everything the report and the maps draw, as `matplotlib.figure.Figure`.

    import distillaw as dl

    figure = dl.figures.capacity_gap("out/quickstart", width="single")
    dl.figures.save(figure, "gap.pdf")

No pyplot and no global state: a figure is yours to change (`figure.axes`) and to save (`figure.savefig`).
`save` leaves the date out, so that the same numbers give the same bytes. Names are imported on first use; matplotlib
comes with `pip install "distillaw[report]"`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distillaw.figures.files import save
    from distillaw.figures.law import (
        loss_over_teacher_loss,
        loss_over_teacher_size,
        loss_over_tokens,
    )
    from distillaw.figures.others import (
        branch,
        large_batch,
        large_batch_distances,
        models,
        plan_map,
        recipe_arms,
        strategies,
    )
    from distillaw.figures.study import (
        calibration,
        capacity_gap,
        compute_spent,
        coverage,
        frozen_predictions,
        hold_outs,
        isoflop,
        pareto,
        predicted_measured,
        searches,
        token_curves,
        weight_distances,
    )

# name -> module that defines it
_PUBLIC = {
    "save": "distillaw.figures.files",
    "loss_over_teacher_loss": "distillaw.figures.law",
    "loss_over_teacher_size": "distillaw.figures.law",
    "loss_over_tokens": "distillaw.figures.law",
    "branch": "distillaw.figures.others",
    "large_batch": "distillaw.figures.others",
    "large_batch_distances": "distillaw.figures.others",
    "models": "distillaw.figures.others",
    "plan_map": "distillaw.figures.others",
    "recipe_arms": "distillaw.figures.others",
    "strategies": "distillaw.figures.others",
    "calibration": "distillaw.figures.study",
    "capacity_gap": "distillaw.figures.study",
    "compute_spent": "distillaw.figures.study",
    "coverage": "distillaw.figures.study",
    "frozen_predictions": "distillaw.figures.study",
    "hold_outs": "distillaw.figures.study",
    "isoflop": "distillaw.figures.study",
    "pareto": "distillaw.figures.study",
    "predicted_measured": "distillaw.figures.study",
    "searches": "distillaw.figures.study",
    "token_curves": "distillaw.figures.study",
    "weight_distances": "distillaw.figures.study",
}

__all__ = [
    "branch",
    "calibration",
    "capacity_gap",
    "compute_spent",
    "coverage",
    "frozen_predictions",
    "hold_outs",
    "isoflop",
    "large_batch",
    "large_batch_distances",
    "loss_over_teacher_loss",
    "loss_over_teacher_size",
    "loss_over_tokens",
    "models",
    "pareto",
    "plan_map",
    "predicted_measured",
    "recipe_arms",
    "save",
    "searches",
    "strategies",
    "token_curves",
    "weight_distances",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'distillaw.figures' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
