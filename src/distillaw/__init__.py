"""distillaw: plan, run and verify compute-optimal distillation of language models.

Public names are imported on first use, so that `import distillaw` needs neither torch nor scipy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from distillaw.version import __version__

if TYPE_CHECKING:
    from distillaw.distill.losses import distillation_loss
    from distillaw.fitting.api import fit
    from distillaw.fitting.next_runs import next_runs
    from distillaw.laws.published import laws_available, published
    from distillaw.planning.api import plan

# name -> module that defines it
_PUBLIC = {
    "published": "distillaw.laws.published",
    "laws_available": "distillaw.laws.published",
    "fit": "distillaw.fitting.api",
    "next_runs": "distillaw.fitting.next_runs",
    "plan": "distillaw.planning.api",
    "distillation_loss": "distillaw.distill.losses",
}

__all__ = ["__version__", "distillation_loss", "fit", "laws_available", "next_runs", "plan", "published"]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'distillaw' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
