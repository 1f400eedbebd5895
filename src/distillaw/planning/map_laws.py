"""Which laws a map is drawn by: published ones together, each as good as the others, or one fitted law.

By default the three surrogates of the distillation law, which are not published: together
they are a rough band. The printed set is drawn if asked for, with the warning that must go with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from distillaw.errors import ConfigError
from distillaw.fitting.query import load_law
from distillaw.fitting.result import FitResult
from distillaw.laws.base import Array, Box, Mask
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import PublishedLaw
from distillaw.planning.voices import SURROGATES, Voice, fitted_voice, published_voice

REFUSED = (
    "DO NOT PLAN WITH THIS MAP: the printed distillation coefficients of {} contradict its own paper's planning "
    "figures; far too low losses are predicted for students on few tokens"
)
_MOST_MEMBERS = 32
"""Replicates of a fit that a map is averaged over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Laws:
    """The laws of a map and where they were fitted."""

    ensemble: LawEnsemble
    names: tuple[str, ...]
    range: Box = field(default_factory=Box)
    """In student_params, student_tokens, tokens_per_param and teacher_loss; empty: nothing is inside."""
    warnings: tuple[str, ...] = ()

    def inside(self, params: Array, tokens: Array, teacher_loss: Array) -> Mask:
        """True where a cell lies in the fitted range."""
        return self.range.inside(
            {"student_params": params, "student_tokens": tokens, "teacher_loss": teacher_loss}
        )

    @property
    def meta(self) -> dict[str, object]:
        """For the meta data of a map."""
        return {"laws": list(self.names), "members": self.ensemble.size, "warnings": list(self.warnings),
                "fitted_range": {k: list(v) for k, v in self.range.as_dict().items()}}  # fmt: skip


def laws_for_map(names: Sequence[str]) -> Laws:
    """The laws asked for, or the three surrogates.

    Args:
        names: published names, or one file of a fitted law.

    Raises:
        ConfigError: an unknown law, one without a distillation half, or fitted and published ones mixed.
    """
    names = tuple(names) or SURROGATES
    found = [load_law(name) for name in names]
    fitted = [law for law in found if isinstance(law, FitResult)]
    published = [law for law in found if isinstance(law, PublishedLaw)]
    if fitted and len(found) > 1:
        raise ConfigError(
            f"--law: got {', '.join(names)}; a fitted law speaks through many replicates and would drown the others. "
            "Draw one map for each fitted law, or published laws together"
        )
    if fitted:
        return _of_voice(fitted_voice(fitted[0], names[0]), names)
    for name, law in zip(names, published, strict=True):
        if law.distillation is None or law.supervised is None:
            raise ConfigError(f"law {name!r} has no distillation part: no map of teachers can be drawn by it")
    laws = _of_voice(published_voice(", ".join(names), published), names)
    return replace(
        laws, range=_common([law.distillation.range for law in published if law.distillation is not None])
    )


def _of_voice(voice: Voice, names: tuple[str, ...]) -> Laws:
    ensemble = voice.ensemble
    if ensemble is None:
        raise ConfigError(f"law {voice.source} cannot draw a map: {voice.status}: {voice.note}")
    if ensemble.size > _MOST_MEMBERS:
        ensemble = ensemble.take(np.linspace(0, ensemble.size - 1, _MOST_MEMBERS).astype(int))
    refused = [REFUSED.format(voice.source)] if voice.is_refused else []
    return Laws(ensemble=ensemble, names=names, range=voice.range, warnings=(*refused, *voice.warnings))


def _common(boxes: Sequence[Box]) -> Box:
    """The range that all boxes share."""
    names = set.intersection(*({name for name, _, _ in box.bounds} for box in boxes))
    ranges = [box.as_dict() for box in boxes]
    return Box.of({n: (max(r[n][0] for r in ranges), min(r[n][1] for r in ranges)) for n in sorted(names)})
