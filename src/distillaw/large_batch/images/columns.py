"""What each column of the paper's table is, in numbers: batch, ghost, rate, steps and the steps at which it falls.

    SB        small batch
    LB        large batch, small batch's rate and epochs
    +LR       rate by the root (or linear) rule
    +GBN      and ghost batch norm
    +RA       and as many updates as SB (regime adaptation)
    RA alone  LB with as many updates as SB: what the updates do by themselves; not in the paper

Cells of one seed share initial weights and the order of images, so their differences are paired. `walk` cells are the
first phase of further batch sizes, for the diffusion figure.
"""

import math
from dataclasses import asdict, dataclass, replace

from distillaw.errors import ConfigError
from distillaw.large_batch.advice import FEW_STEPS
from distillaw.large_batch.images.spec import ImageStudy
from distillaw.large_batch.rules import RATE_RULES, adapt_phases, steps_of
from distillaw.runs.files import content_hash

VERSION = 1
"""Of what a cell computes: raised when the same settings would give other numbers."""
_RESOLVED = ("peak_lr", "rate_rule", "finite_population")
"""Settings that a cell's own rate stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRun:
    """One training run with everything about it that a column decides."""

    column: str
    seed: int
    batch: int
    ghost: int
    """0: ordinary batch norm."""
    peak_lr: float
    steps: int
    drops: tuple[tuple[int, float], ...]
    """(first step at it, factor), rising."""
    steps_per_epoch: int
    is_walk: bool = False
    """For the diffusion figure only: ends with the first phase."""

    @property
    def first_phase(self) -> int:
        """Steps at the first rate."""
        return min(self.drops[0][0], self.steps) if self.drops else self.steps

    @property
    def images(self) -> int:
        """Images read, about."""
        return self.steps * self.batch

    def rate(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        return self.peak_lr * next((new for first, new in reversed(self.drops) if step >= first), 1.0)

    def folder(self, study: ImageStudy, fingerprint: str) -> str:
        """Name of its folder: other settings or other data give another name."""
        settings = {
            "network": asdict(study.network),
            "data": asdict(study.data),
            "optimizer": {k: v for k, v in asdict(study.optimizer).items() if k not in _RESOLVED},
        }
        own = [self.batch, self.ghost, self.peak_lr, self.steps, list(self.drops), self.seed, self.is_walk]
        key = content_hash([VERSION, settings, own, fingerprint])
        word = self.column.lower().replace("+", "").replace(" ", "-")
        return f"{word}-s{self.seed}-{key}"


def check_channels(study: ImageStudy, *, channels: int) -> None:
    """Refuse means and standard deviations for other channels than the images have.

    Raises:
        ConfigError: neither one number nor one for each channel.
    """
    for name, values in (("mean", study.data.mean), ("std", study.data.std)):
        if len(values) not in (1, channels):
            raise ConfigError(
                f"[data] {name} has {len(values)} values, the images have {channels} channel"
                f"{'s' if channels > 1 else ''}: give one for all, or one each. Is --data what the study is for?"
            )


def plan_cells(study: ImageStudy, *, images: int) -> list[ColumnRun]:
    """All cells of a study on so many training images, seed by seed, the longest first.

    Raises:
        ConfigError: a batch that is larger than the data, a schedule without a step, absurd ratios.
    """
    largest = max(study.batches.small, study.batches.large, *study.diffusion.batches)
    if largest > images:
        raise ConfigError(
            f"a batch of {largest} from {images} training images: it must not be larger than the data"
        )
    settled = [_cell(study, column, images) for column in study.columns]
    for batch in study.diffusion.batches:
        for corrected in (False, True):
            if column_of(study, batch, corrected=corrected) is None:
                name = walk_name(batch, corrected=corrected)
                settled.append(_cell(study, name, images, walk=batch, corrected=corrected))
    settled.sort(key=lambda cell: -cell.images)
    return [replace(cell, seed=seed) for seed in range(study.seeds) for cell in settled]


def walk_name(batch: int, *, corrected: bool) -> str:
    """Of a walk's cell."""
    return f"walk {batch}" + (" +LR+GBN" if corrected else "")


def column_of(study: ImageStudy, batch: int, *, corrected: bool) -> str | None:
    """The column whose first phase is this walk; None where it must be run by itself.

    The reference batch has nothing to correct: its rate is the reference's, and it is one ghost.
    """
    if batch == study.batches.small and (not corrected or batch <= min(study.reference, study.ghost)):
        name = "SB"
    elif batch == study.batches.large:
        name = "+GBN" if corrected else "LB"
    else:
        return None
    return name if name in study.columns else None


def _cell(
    study: ImageStudy, column: str, images: int, *, walk: int = 0, corrected: bool = False
) -> ColumnRun:
    """A column, or the first phase of a batch size that no column has, before or after LR + GBN."""
    small, large, schedule = study.batches.small, study.batches.large, study.schedule
    batch = walk or (small if column == "SB" else large)
    scaled, ghosts = corrected or column in ("+LR", "+GBN", "+RA"), corrected or column in ("+GBN", "+RA")
    own = per_epoch = _per_epoch(images, batch)
    marks = [schedule.epochs, *(drop.epoch for drop in schedule.drops)]
    if column in ("+RA", "RA alone"):
        if schedule.adaptation == "steps":  # as many updates as the small batch makes
            per_epoch = _per_epoch(images, small)
        else:
            marks = list(adapt_phases(marks, unit="epochs", batch=batch, reference=small, whole_epochs=True))
    steps, *firsts = (round(mark * per_epoch) for mark in marks)
    if not steps:
        raise ConfigError(f"{column}: {schedule.epochs:g} epochs of batch {batch} are no step at all")
    changes = zip(firsts, schedule.drops, strict=True)
    drops = tuple((first, drop.factor) for first, drop in changes if first < steps)
    if walk and drops:
        steps, drops = drops[0][0], ()
    return ColumnRun(
        column=column,
        seed=0,
        batch=batch,
        ghost=study.ghost if ghosts and study.ghost < batch else 0,
        peak_lr=_scaled_rate(study, batch, images) if scaled else study.optimizer.peak_lr,
        steps=steps,
        drops=drops,
        steps_per_epoch=own,
        is_walk=bool(walk),
    )


def _per_epoch(images: int, batch: int) -> int:
    """Batches of an epoch: the partial last one counts, unless it is a single image, which has no variance."""
    return steps_of(1, samples=images, batch=batch, drop_last=images % batch == 1)


def _scaled_rate(study: ImageStudy, batch: int, images: int) -> float:
    optimizer, reference = study.optimizer, study.reference
    population = {}
    if optimizer.finite_population and max(batch, reference) < images:
        population = {"population": images}
    rule = RATE_RULES[optimizer.rate_rule]
    return rule(optimizer.peak_lr, batch=batch, reference=reference, **population)


def notes(study: ImageStudy, cells: list[ColumnRun], *, images: int) -> list[str]:
    """What a reader must know of these settings before reading numbers: few steps, ghosts without effect."""
    said = []
    firsts = {cell.column: cell for cell in cells if cell.seed == 0}
    for cell in (firsts[column] for column in study.columns):
        if cell.peak_lr > study.optimizer.peak_lr and cell.first_phase < FEW_STEPS:
            said.append(
                f"{cell.column}: only {cell.first_phase} steps at the high rate {cell.peak_lr:.3g} (of {cell.steps}); "
                f"below {FEW_STEPS} a rate scaled up with the batch can be far worse than one left alone"
            )
    if study.ghost >= study.batches.large:
        said.append(
            f"ghosts of {study.ghost} in batches of {study.batches.large}: a batch of at most one ghost is ordinary "
            "batch norm, so column +GBN is +LR once more"
        )
    sizes = {study.batches.small, study.batches.large, *study.diffusion.batches}
    for batch in sorted(size for size in sizes if images % size == 1):
        said.append(
            f"batch {batch} leaves one image of {images} over in every epoch; a single image is not a batch"
        )
    if study.optimizer.finite_population and study.batches.large == images:
        said.append("the large batch is all the data: it has no sampling noise, and the factor is left out")
    ratio = study.batches.large / study.batches.small
    if study.schedule.adaptation == "epochs" and not math.isclose(ratio, math.ceil(ratio)):
        said.append(
            f"+RA takes {math.ceil(ratio)} times the epochs, as the code does, for a ratio of {ratio:.3g}"
        )
    return said
