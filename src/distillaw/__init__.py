"""distillaw: plan, run and verify compute-optimal distillation of language models.

Public names are imported on first use, so that `import distillaw` needs neither torch nor scipy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from distillaw.version import __version__

if TYPE_CHECKING:
    from distillaw import figures
    from distillaw.distill.losses import distillation_loss
    from distillaw.fitting.api import fit
    from distillaw.fitting.design import next_runs
    from distillaw.large_batch.ghost import (
        GhostBatchNorm1d,
        GhostBatchNorm2d,
        GhostBatchNorm3d,
        convert_ghost_batchnorm,
        revert_ghost_batchnorm,
    )
    from distillaw.laws.published import laws_available, published
    from distillaw.planning.api import plan

# name -> module that defines it
_PUBLIC = {
    "published": "distillaw.laws.published",
    "laws_available": "distillaw.laws.published",
    "fit": "distillaw.fitting.api",
    "next_runs": "distillaw.fitting.design",
    "plan": "distillaw.planning.api",
    "distillation_loss": "distillaw.distill.losses",
    "GhostBatchNorm1d": "distillaw.large_batch.ghost",
    "GhostBatchNorm2d": "distillaw.large_batch.ghost",
    "GhostBatchNorm3d": "distillaw.large_batch.ghost",
    "convert_ghost_batchnorm": "distillaw.large_batch.ghost",
    "revert_ghost_batchnorm": "distillaw.large_batch.ghost",
}

__all__ = [
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "__version__",
    "convert_ghost_batchnorm",
    "distillation_loss",
    "figures",
    "fit",
    "laws_available",
    "next_runs",
    "plan",
    "published",
    "revert_ghost_batchnorm",
]


def __getattr__(name: str) -> object:
    """Import a public name, or the package of figures, on first use."""
    if name == "figures":
        return import_module("distillaw.figures")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'distillaw' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
