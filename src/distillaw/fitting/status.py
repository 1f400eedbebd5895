"""What a fit may end as; the value of each status is a sentence with the remedy that is printed."""

from enum import Enum


class FitStatus(Enum):
    """Outcome of a fit. Soft outcomes are statuses, not errors; `raise_for_status()` makes them errors."""

    CONVERGED = "Both solvers agree and the runs identify every reported parameter."
    AT_BOUND = "A parameter sits at the end of its range; fix or drop that term, or add runs that inform it."
    WEAKLY_IDENTIFIED = (
        "The runs do not separate the parameters; trust predictions inside the fitted range, "
        "not single coefficients, and add runs away from the present line in (ln params, ln tokens)."
    )
    EXTRAPOLATED = (
        "Outside the fitted range; widen the runs towards the target or trust only the wide interval."
    )
    TOO_FEW_RUNS = "Fewer independent runs than parameters + 3; add runs, no curve is drawn through these."
    SEED_NOISE_UNKNOWN = "No repeated cell; run a few cells with a second seed to measure the noise."
    ONE_COMPUTE_LEVEL = (
        "All runs lie on one compute level, where size and tokens cannot be separated; "
        "add runs at a second budget, at least 3x larger or smaller."
    )

    @property
    def is_usable(self) -> bool:
        """False where no prediction may be made."""
        return self not in (FitStatus.TOO_FEW_RUNS, FitStatus.ONE_COMPUTE_LEVEL)
