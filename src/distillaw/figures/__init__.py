"""Figures for papers: everything the report and the maps draw, as `matplotlib.figure.Figure`.

    import distillaw as dl

    figure = dl.figures.capacity_gap("out/quickstart", width="single")
    dl.figures.save(figure, "gap.pdf")

No pyplot and no global state: a figure is yours to change (`figure.axes`) and to save (`figure.savefig`).
`save` leaves the date out, so that the same numbers give the same bytes. Names are imported on first use; matplotlib
comes with `pip install "distillaw[report]"`.
"""

from importlib import import_module

_MODULES = {
    "files": ("save",),
    "law": ("loss_over_teacher_loss", "loss_over_teacher_size", "loss_over_tokens"),
    "maps": ("plan_map",),
    "frontiers": ("models", "recipe_arms", "strategies"),
    "batches": ("branch", "large_batch", "large_batch_distances"),
    "study": (
        "calibration",
        "capacity_gap",
        "compute_spent",
        "coverage",
        "frozen_predictions",
        "hold_outs",
        "isoflop",
        "pareto",
        "predicted_measured",
        "searches",
        "token_curves",
        "weight_distances",
    ),
}
_PUBLIC = {name: f"distillaw.figures.{module}" for module, names in _MODULES.items() for name in names}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'distillaw.figures' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
