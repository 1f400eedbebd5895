"""What a cut is worth as a start: a student pruned out of a trained model stands where a random one stands later.

    L_cut(N, D) = L_random(N, D + D0),        D0 = share D_T (N / T)^power

N of T parameters were kept of a source that had read D_T tokens; L_random is any law of students from random weights.
Taught students have a share of their own: a teacher gives much of what its cut gives. A head start stays what it is,
so that its factor 1 + D0 / D fades as training goes on: Krishnakumar et al. 2025, arXiv:2510.07227v2, saw 5.16 at 10B
tokens and 1.26 at 100B, where 41.6B tokens would have left 1.42. Extra tokens of another text have this form in
Hernandez et al. 2021, arXiv:2102.01293. How it compares with other forms, the P^2 law (arXiv:2411.10272) among them, on
runs that no fit had seen and on published figures: `benchmarks/capacity_gap/pruned_starts.py`, docs/prune.md.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.laws.base import Array, Box, log_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLaw:
    """The head start D0 of a cut, tokens; every coefficient is a number, or (m,) over members believed at once.

    Example:
        >>> law = StartLaw(share=0.5, taught=0.25, power=1.0)
        >>> of_half = {"student_params": 4e9, "source_params": 8e9, "source_tokens": 2e11}
        >>> [float(law.head_start(**of_half, taught=taught)[0]) / 1e9 for taught in (False, True)]
        [50.0, 25.0]
    """

    share: float | Array
    """D0 / D_T of a source that is kept whole, of students without a teacher."""
    taught: float | Array
    """The same of students that learn from a teacher."""
    power: float | Array
    """By which it falls with N / T."""
    spread: float = 0.0
    """Standard deviation of ln D0 between recipes, texts and scales, that the members do not show."""
    range: Box = field(default_factory=Box)
    """Where it was fitted: `kept` (N / T), and what else the runs spanned."""

    def log_head_start(self, n: Array, t: Array, s: Array, *, taught: bool) -> Array:
        """ln D0 from ln N, ln T and ln D_T, unchecked; arrays that broadcast, with an axis for the members in front."""
        axes = max(np.ndim(x) for x in (n, t, s))
        share, power = (np.reshape(c, (-1,) + (1,) * axes) for c in (self.taught if taught else self.share, self.power))
        return np.log(share) + s + power * (n - t)

    def head_start(
        self, *, student_params: ArrayLike, source_params: ArrayLike, source_tokens: ArrayLike, taught: bool
    ) -> Array:
        """D0 by member, tokens, shape (m, *s).

        Args:
            student_params: N, non-embedding parameters; arguments broadcast to a shape s.
            source_params: T, of the model that was cut.
            source_tokens: D_T, which it had read.
            taught: whether the student learns from a teacher.
        """
        coords = {"student_params": student_params, "source_params": source_params, "source_tokens": source_tokens}
        n, t, s = (log_positive(name, value) for name, value in coords.items())
        return np.exp(self.log_head_start(n, t, s, taught=taught))

    def inside(self, *, student_params: ArrayLike, source_params: ArrayLike) -> NDArray[np.bool_]:
        """True where the share that is kept lies in the fitted range."""
        lost = log_positive("student_params", student_params) - log_positive("source_params", source_params)
        return self.range.inside({"kept": np.exp(lost)})

    @property
    def coefficients(self) -> dict[str, float | Array]:
        """Both shares and the power."""
        return {"share": self.share, "taught": self.taught, "power": self.power}


CUTS = StartLaw(share=1.36, taught=0.47, power=0.70, spread=1.0, range=Box.of({"kept": (0.078, 1.0)}))
"""Fitted to 24 students of 0.05M and 0.11M parameters, cut out of models of 0.2M and 0.4M, taught and alone, on 26k to
205k tokens, beside random starts. `spread`: the head starts of the open runs, cut by looking at nothing, and of a
Llama-3.1-8B cut to half (arXiv:2606.14150) lie so far from it. `kept`: down to what the open runs reach."""
