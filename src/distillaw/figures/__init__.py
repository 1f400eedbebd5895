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
    from distillaw.figures.study import (
        capacity_gap,
        compute_spent,
        frozen_predictions,
        predicted_measured,
        searches,
        token_curves,
        weight_distances,
    )

# name -> module that defines it
_PUBLIC = {
    "save": "distillaw.figures.files",
    "capacity_gap": "distillaw.figures.study",
    "compute_spent": "distillaw.figures.study",
    "frozen_predictions": "distillaw.figures.study",
    "predicted_measured": "distillaw.figures.study",
    "searches": "distillaw.figures.study",
    "token_curves": "distillaw.figures.study",
    "weight_distances": "distillaw.figures.study",
}

__all__ = [
    "capacity_gap",
    "compute_spent",
    "frozen_predictions",
    "predicted_measured",
    "save",
    "searches",
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
