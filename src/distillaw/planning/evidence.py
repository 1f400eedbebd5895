"""What one source says about a situation: losses of every strategy, a posterior over the gains, the crossover.

A source is the study's paired runs, the study's fitted laws, or a published law. All speak the same language
here, so that decision.py can put them side by side and choose the one that may carry the verdict. The crossover, where
training without a teacher catches up, is always a band: the two losses differ by little over decades of tokens, so that
a crossing is ill-conditioned (docs/concepts.md) and a single number would be worth nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from distillaw.planning.draws import Interval
from distillaw.planning.gains import GainBelief, GainPosterior
from distillaw.planning.options import Option

Array = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover:
    """Tokens at which training without a teacher catches up, as a band over draws."""

    lower: float | None
    median: float | None
    upper: float | None
    """None where an end lies outside the range searched: before it, if `share_before` reaches that far, else beyond."""
    share_none: float
    """Draws in which training without a teacher does not catch up within the range."""
    share_before: float
    """Draws in which it is ahead all along: what crossing there may be lies before the range."""
    searched: tuple[float, float]
    source: str

    def to_json(self) -> dict[str, object]:
        """The band, and the share of draws without a crossover."""
        return asdict(self)


def crossings(tokens: Array, gains: Array) -> Array:
    """First tokens at which a positive gain turns to nothing, by row; infinite where it never does.

    Between grid points the gain is taken as straight in ln tokens. A gain that is never positive gives 0: if it ever
    was, that was before the grid begins.
    """
    is_ahead = gains > 0
    falls = is_ahead[:, :-1] & (gains[:, 1:] <= 0)
    rows, at = np.arange(len(gains)), falls.argmax(axis=1)
    before, after = gains[rows, at], gains[rows, at + 1]
    x = np.log(tokens)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # rows without a fall, which are replaced
        crossed = np.exp(x[at] + (x[at + 1] - x[at]) * before / (before - after))
    return np.where(falls.any(axis=1), crossed, np.where(is_ahead.any(axis=1), np.inf, 0.0))


def band_of(crossed: Array, searched: tuple[float, float], source: str, level: float) -> Crossover:
    """The band of crossovers over draws; an end that lies outside the range searched is None."""
    tail = (1 - level) / 2
    ends = np.quantile(crossed, [tail, 0.5, 1 - tail], method="inverted_cdf")
    lower, median, upper = (float(e) if 0 < e < math.inf else None for e in ends)
    return Crossover(
        lower=lower,
        median=median,
        upper=upper,
        share_none=float(np.isinf(crossed).mean()),
        share_before=float((crossed == 0).mean()),
        searched=searched,
        source=source,
    )


OUT_OF_RANGE = "OUT_OF_RANGE"
FAR_OUTSIDE = "far_outside"
"""Key of `Evidence.details`: the numbers are so far out of range that showing them would only mislead."""

SHORT = "short"
"""Key of `Evidence.details`: too few tokens per parameter to judge a teacher, and that alone keeps it from deciding. A
cut against random weights is judged all the same: of them the shorter run has the more of a head start."""
UNSAID = "unsaid"
"""Key of `Evidence.details`: by the law the teacher does harm, and no weight of its term was said."""
TEXT_SCALE = "text_scale"
"""Key of `Evidence.details`: the user's losses over the law's, for the same models (text_scale.py)."""

IS_PAIRED = "is_paired"
"""Key of `Evidence.details`: runs were compared document by document, on the same ones."""
SOURCES = "sources"
"""Key of `Evidence.details`: the sources that a consensus puts together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy(Option):
    """An option as one source sees it: its bill, its loss and its gain."""

    compute: Mapping[str, float | None]
    """FLOP by part; `total` is what the cost scenario counts."""
    loss: Interval
    basis: str
    """`measured`, `interpolated`, `extrapolated` or `law`."""
    teacher_loss: float | None = None
    """As used: measured, given, or the law's estimate."""
    gain: Interval | None = None
    """Over pretraining alone; None for pretraining."""
    share_best: float | None = None
    """Probability that this teacher is the best of those considered."""
    run_ids: Sequence[str] = ()

    @property
    def teacher_params(self) -> float | None:
        """None without a teacher, or where its size is not known."""
        return None if self.teacher is None else self.teacher.params

    @property
    def teacher_tokens(self) -> float | None:
        """Those it was trained on."""
        return None if self.teacher is None else self.teacher.tokens

    def to_json(self) -> dict[str, object]:
        """The row of `distillaw plan --json`, with what it rests on."""
        plain = ("name", "kind", "student_params", "student_tokens", "teacher_params", "teacher_tokens")
        plain += ("teacher_loss", "basis", "is_speculative")
        teacher = self.teacher
        return {
            **{name: getattr(self, name) for name in plain},
            "teacher": None if teacher is None else teacher.to_json(),
            "compute": dict(self.compute),
            "loss": self.loss.to_json(),
            "gain": None if self.gain is None else self.gain.to_json(),
            "probability_best_teacher": self.share_best,
            "taught_share": None if teacher is None else self.distilled_share,
            "cut_of": None if self.cut_of is None else self.cut_of.name,
            "run_ids": list(self.run_ids),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One source's answer, or the reason why it has none."""

    source: str
    """As people call it, e.g. `paired runs of this study`."""
    kind: str
    """`measured`, `fitted`, `surrogate` or `published`."""
    status: str
    """One word: PAIRED, UNPAIRED, CONVERGED, TOO_FEW_RUNS, OUT_OF_RANGE, ..."""
    note: str
    """One sentence: what it rests on, or why it is silent."""
    is_decisive: bool = False
    """True if it may carry the verdict by itself."""
    inside_range: bool = False
    pretrain: Strategy | None = None
    alternatives: Sequence[Strategy] = ()
    """All other ways, aligned with the columns of `posterior`."""
    posterior: GainPosterior | None = None
    """Gains over `pretrain`."""
    beliefs: Sequence[GainBelief] = ()
    """The same as densities, aligned with `alternatives`."""
    noise: float = 0.0
    """Standard error of the best candidate's gain, nats/token: the paired noise where runs were paired."""
    warnings: Sequence[str] = ()
    crossover: Crossover | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def speaks(self) -> bool:
        """True if it has numbers."""
        return self.posterior is not None

    def number(self, key: str, usual: float | None = None) -> float:
        """A number of `details`; `usual` where there is none, or KeyError: nobody asks for one that must be there."""
        value = self.details.get(key)
        if isinstance(value, int | float):
            return float(value)
        if usual is None:
            raise KeyError(key)
        return usual

    @property
    def is_informative(self) -> bool:
        """False where the numbers are so far out of range that showing them would only mislead."""
        return self.speaks and self.status != OUT_OF_RANGE and not self.details.get(FAR_OUTSIDE)

    @property
    def judges_starts(self) -> bool:
        """True where a cut may be held against random weights by it."""
        return self.is_decisive or bool(self.details.get(SHORT))

    @property
    def is_paired(self) -> bool:
        """True if its gains are differences of runs on the same documents."""
        return bool(self.details.get(IS_PAIRED))

    @property
    def deciding(self) -> Sequence[str]:
        """The sources behind it: itself, or those that a consensus puts together; none where it may not decide."""
        return self.details.get(SOURCES, (self.source,)) if self.is_decisive else ()  # type: ignore[return-value]

    @property
    def distil(self) -> Sequence[Strategy]:
        """The alternatives with a teacher."""
        return [row for row in self.alternatives if row.teacher is not None]

    @property
    def best_index(self) -> int:
        """Column of the distillation with the highest mean gain that is more than an estimate."""
        assert self.posterior is not None
        mean = self.posterior.mean
        distilled = [j for j, row in enumerate(self.alternatives) if row.teacher is not None and not row.is_speculative]
        return max(distilled, key=lambda j: mean[j])

    @property
    def best(self) -> Strategy:
        """That distillation."""
        return self.alternatives[self.best_index]

    @property
    def ranked(self) -> Sequence[Strategy]:
        """Pretraining and all alternatives by expected loss, best first; estimates that no law describes come last.

        The paired gain counts where there is one, since losses alone hide what pairs tell apart.
        """
        assert self.pretrain is not None
        base = self.pretrain.loss.mean

        def place(row: Strategy) -> tuple[bool, float]:
            return row.is_speculative, base - (0.0 if row.gain is None else row.gain.mean)

        return tuple(sorted([self.pretrain, *self.alternatives], key=place))

    @property
    def best_pretrain(self) -> Strategy:
        """Pretraining at the student's size, or a larger student where that is better."""
        assert self.pretrain is not None
        j = self._larger_index
        return self.pretrain if j is None else self.alternatives[j]

    @property
    def gain_draws(self) -> np.ndarray:
        """Draws of the best distillation's gain over the best pretraining, nats/token."""
        assert self.posterior is not None
        draws, j = self.posterior.draws, self._larger_index
        return draws[:, self.best_index] - (0.0 if j is None else draws[:, j])

    def was_run(self, row: Strategy) -> bool:
        """True if runs of the study stand at both ends of a row's gain."""
        own = None if self.pretrain is None else self.pretrain.basis
        return self.kind == row.basis == own == "measured"

    def gain(self, level: float) -> Interval:
        """Gain of the best distillation over the best pretraining, nats/token.

        Of runs it is the row's own, the difference of their losses: draws are pulled towards those of other teachers,
        which is right for choosing and wrong in a table.
        """
        if self.kind == "measured" and self._larger_index is None:
            assert self.best.gain is not None
            return self.best.gain
        return Interval.of(self.gain_draws, level)

    @property
    def _larger_index(self) -> int | None:
        """Column of a larger student that is better than the student itself, trained alone."""
        assert self.posterior is not None
        mean = self.posterior.mean
        larger = (j for j, row in enumerate(self.alternatives) if row.teacher is None and not row.is_speculative)
        return next((j for j in larger if mean[j] > 0), None)


def with_gains(rows: Sequence[Strategy], gains: np.ndarray, level: float) -> tuple[Strategy, ...]:
    """Alternatives with their gains (draws, shape (R, rows)) and the odds of each teacher to be the best of them."""
    judged = [j for j, row in enumerate(rows) if row.teacher is not None and not row.is_speculative]
    shares = np.bincount(gains[:, judged].argmax(1), minlength=len(judged)) / len(gains)
    share = dict(zip(judged, shares, strict=True))
    return tuple(
        replace(row, gain=Interval.of(gains[:, j], level), share_best=float(share[j]) if j in share else None)
        for j, row in enumerate(rows)
    )
