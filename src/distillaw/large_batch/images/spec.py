"""What a large-batch study is: one TOML file, one frozen object; its cells; the paper's numbers it is held against.

    name, network, columns, seeds, [data], [batches], [optimizer], [schedule], [diffusion]

Defaults are those of the paper's released code (github.com/eladhoffer/bigBatch), save that momentum is kept across
epochs. The printed numbers are records in data/hoffer2017.toml. What each column of the paper's table is, in numbers:

    SB        small batch
    LB        large batch, small batch's rate and epochs
    +LR       rate by the root (or linear) rule
    +GBN      and ghost batch norm
    +RA       and as many updates as SB (regime adaptation)
    RA alone  LB with as many updates as SB: what the updates do by themselves; not in its tables
    noise     LB with multiplicative noise on every image's gradient: the covariance of SB's step as by the root rule,
              the mean step as it is; the paper's alternative, not in its tables

Cells of one seed share initial weights and the order of images, so their differences are paired. `walk` cells are the
first phase of further batch sizes, for the diffusion figure.
"""

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from distillaw.errors import ConfigError
from distillaw.large_batch.advice import FEW_STEPS
from distillaw.large_batch.rules import RATE_RULES, adapt_phases, noise_variance, steps_of
from distillaw.quantities import did_you_mean
from distillaw.runs.config import check_bounds, check_choice, from_table, read_toml
from distillaw.runs.files import content_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """One row of a result table: validation accuracy in per cent, single numbers."""

    network: str
    data: str
    accuracy: Mapping[str, float]
    """By column."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Of the released code; empty where it is not known."""
    known_problems: tuple[str, ...] = ()

    def gap_closed(self, column: str) -> float:
        """Share of SB - LB that a column closes."""
        small, large = self.accuracy["SB"], self.accuracy["LB"]
        return (self.accuracy[column] - large) / (small - large)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperDistance:
    """One end point of Figure 2, read by eye."""

    batch: int
    before: float
    after: float
    precision: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """All of it."""

    title: str
    source: str
    certainty: str
    known_problems: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    distances: tuple[PaperDistance, ...]

    def row(self, network: str) -> PaperRow:
        """The row of a network; ConfigError: no such row."""
        names = [row.network for row in self.rows]
        if network not in names:
            raise ConfigError(
                f"paper = {network!r}{did_you_mean(network, names)}: the table has {', '.join(names)}; empty shows none"
            )
        return self.rows[names.index(network)]


@cache
def hoffer2017() -> Paper:
    """The paper's tables and Figure 2."""
    file = "hoffer2017.toml"
    text = (files("distillaw.large_batch") / "data" / file).read_text(encoding="utf-8")
    return from_table(Paper, tomllib.loads(text), file)


NETWORKS = ("f1", "shallow", "resnet", "wide-resnet", "vgg", "alexnet")
COLUMNS = ("SB", "LB", "+LR", "+GBN", "+RA", "RA alone", "noise")
STAGES = COLUMNS[:5]
OPTIMIZER_BOUNDS = {
    **dict.fromkeys(("weight_decay", "clip_norm", "clip_steps"), (0.0, math.inf)),
    "peak_lr": (1e-9, math.inf),
    "momentum": (0.0, 0.9999),
}
"""Without a rate nothing moves; a velocity that never fades grows without end. A run that diverges is a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """Which network, and its size."""

    kind: str
    """f1; shallow (C1 on ten classes, C3 on a hundred); resnet; wide-resnet; vgg; alexnet."""
    width: int = 0
    """f1: hidden units, 512 as published; wide-resnet: widening factor, 4 as published. 0: as published."""
    depth: int = 0
    """resnet: 44 and wide-resnet: 16 as published; f1: 5 hidden layers; vgg: 11, 13, 16 or 19. 0: as published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """What is done with the images."""

    train_images: int = 0
    """The first so many; 0: all."""
    test_images: int = 0
    """The first so many; 0: all."""
    resize: int = 0
    """Of image folders: the shorter side is scaled to so many pixels and images are read as they are needed; 0: all are
    kept in memory, and are of one size."""
    crop: int = 0
    """With `resize`: side of the random crop that is trained on; the middle is tested on. 0: `resize`."""
    pad: int = 0
    """Pixels on each side before a random crop to the old size."""
    fill: int = 0
    """Their value; the paper's code has 127 for CIFAR, 0 for MNIST."""
    flip: bool = False
    """Mirror half of the images. The paper's code does so on digits too."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from pixels in 0..1: one for all channels, or one each."""
    std: tuple[float, ...] = (0.5,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Sizes in images."""

    small: int
    large: int
    reference: int = 0
    """The batch that the rate was tuned at; 0: the small one."""
    ghost: int = 0
    """Ghost batch; 0: the small batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """SGD with momentum, as the code has it."""

    peak_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm_bias: bool = True
    """Whether batch norm's and bias parameters decay too."""
    clip_norm: float = 5.0
    """Norm at which the whole gradient is clipped; 0: never."""
    clip_steps: int = 0
    """Clip in so many first steps; 0: in every step of every column, as the code does."""
    rate_rule: str = "sqrt"
    """How the rate follows the batch from column +LR on: sqrt, linear, constant."""
    finite_population: bool = False
    """Correct the root rule for batches drawn without replacement."""
    wipe_momentum: bool = False
    """Forget momentum at every epoch, as the code does by accident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The rate from here on."""

    epoch: float
    """Of the small batch."""
    factor: float
    """Times the peak rate."""
    weight_decay: float | None = None
    """From here on; None: as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """In epochs of the small batch; large batches without regime adaptation keep the epochs."""

    epochs: float
    drops: tuple[Drop, ...] = ()
    adaptation: str = "steps"
    """Column +RA: `steps` makes as many updates as SB, exactly; `epochs` stretches epochs by ceil(R), as the code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionSpec:
    """How far weights wander in the first phase of constant rate, before and after LR + GBN."""

    batches: tuple[int, ...] = ()
    """Empty: not asked. Sizes that columns have already cost nothing more."""
    first_step: int = 1
    """Where the fitted window begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStudy:
    """One study: columns times seeds on one data set."""

    name: str
    network: NetworkSpec
    batches: Batches
    schedule: Schedule
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: Optimizer = field(default_factory=Optimizer)
    diffusion: DiffusionSpec = field(default_factory=DiffusionSpec)
    columns: tuple[str, ...] = STAGES
    seeds: int = 5
    paper: str = ""
    """Row of the paper's table to show beside it, e.g. F1; empty: none."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run; ConfigError: unknown names, sizes out of range, a schedule that does not rise."""
        check_choice("[network] kind", self.network.kind, NETWORKS)
        for column in self.columns:
            check_choice("columns", column, COLUMNS)
        check_choice("[optimizer] rate_rule", self.optimizer.rate_rule, tuple(RATE_RULES))
        check_choice("[schedule] adaptation", self.schedule.adaptation, ("steps", "epochs"))
        check_bounds({"seeds": (1, 100)}, self, "")
        check_bounds(dict.fromkeys(("width", "depth"), (0, math.inf)), self.network, "network.")
        check_bounds({"pad": (0, math.inf), "fill": (0, 255), "test_images": (0, math.inf)}, self.data, "data.")
        check_bounds({"epochs": (1e-9, 1e5)}, self.schedule, "schedule.")
        check_bounds(OPTIMIZER_BOUNDS, self.optimizer, "optimizer.")
        if self.paper:
            hoffer2017().row(self.paper)
        for is_wrong, what in (*_of_batches(self), *_of_others(self)):
            if is_wrong:
                raise ConfigError(what)

    @property
    def reference(self) -> int:
        """The batch that the rate belongs to."""
        return self.batches.reference or self.batches.small

    @property
    def ghost(self) -> int:
        """Samples of a ghost."""
        return self.batches.ghost or self.batches.small


def read_study(path: Path) -> ImageStudy:
    """Read a study from its TOML file; ConfigError: unreadable, unknown keys, values that cannot be run."""
    return from_table(ImageStudy, read_toml(path), path.name)


def _of_batches(study: ImageStudy) -> Iterator[tuple[bool, str]]:
    """(whether it is wrong, what is said of it), as in the next one."""
    small, large = study.batches.small, study.batches.large
    sizes = [("small", small), ("large", large), ("reference", study.reference), ("ghost", study.ghost)]
    for name, size in [*sizes, *(("diffusion", size) for size in study.diffusion.batches)]:
        yield size < 2, f"batch {name} = {size}: batch norm needs at least two images in a batch"
    yield large <= small, f"[batches] large = {large}: it must be above small = {small}"
    walks = study.diffusion
    is_odd = walks.first_step < 1 or len(set(walks.batches)) < len(walks.batches)
    yield is_odd, "[diffusion]: first_step is at least 1, and each batch is named once"


def _of_others(study: ImageStudy) -> Iterator[tuple[bool, str]]:
    columns, schedule, data, optimizer = study.columns, study.schedule, study.data, study.optimizer
    is_other = optimizer.finite_population and optimizer.rate_rule != "sqrt"
    yield is_other, "[optimizer] finite_population corrects rate_rule = 'sqrt' alone"
    yield not columns, f"columns: name at least one of {', '.join(COLUMNS)}"
    yield len(set(columns)) < len(columns), f"columns: {', '.join(columns)}: each once"
    epochs = [0.0, *(drop.epoch for drop in schedule.drops)]
    falls = any(later <= earlier for earlier, later in pairwise(epochs))
    yield falls, f"[schedule] drops at epochs {epochs[1:]}: above 0 and rising"
    yield any(drop.factor <= 0 for drop in schedule.drops), "[schedule] drops: a factor must be above 0"
    negative = any((drop.weight_decay or 0) < 0 for drop in schedule.drops)
    yield negative, "[schedule] drops: weight_decay must not be negative"
    odd = not 0 <= data.crop <= data.resize or (data.resize and data.pad)
    yield (
        bool(odd),
        (
            f"[data] resize = {data.resize}, crop = {data.crop}, pad = {data.pad}: a crop is at most as large as the "
            "image it is taken from, and images that are read as they are needed are cropped, not padded"
        ),
    )
    is_odd = not data.mean or not data.std or min(data.std) <= 0
    yield is_odd, "[data]: mean and std must not be empty, std above 0"


# --- the cells of a study ----------------------------------------------------------------------------------


VERSION = 2
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
    noise_variance: float = 0.0
    """sigma^2 of the weight on each image's loss; 0: none."""
    decays: tuple[tuple[int, float], ...] = ()
    """(first step with it, weight decay), rising, where drops change it."""

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

    def weight_decay(self, step: int, first: float) -> float:
        """Weight decay of a 0-based step, which began with `first`."""
        return next((new for start, new in reversed(self.decays) if step >= start), first)

    def folder(self, study: ImageStudy, fingerprint: str) -> str:
        """Name of its folder: other settings or other data give another name."""
        settings = {
            "network": asdict(study.network),
            "data": asdict(study.data),
            "optimizer": {k: v for k, v in asdict(study.optimizer).items() if k not in _RESOLVED},
        }
        own = [self.batch, self.ghost, self.peak_lr, self.steps, list(self.drops), self.seed, self.is_walk]
        own += [self.noise_variance] if self.noise_variance else []
        own += [list(self.decays)] if self.decays else []
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
        raise ConfigError(f"a batch of {largest} from {images} training images: it must not be larger than the data")
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


def _cell(study: ImageStudy, column: str, images: int, *, walk: int = 0, corrected: bool = False) -> ColumnRun:
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
            marks = list(adapt_phases(marks, batch=batch, reference=small, whole_epochs=True))
    steps, *firsts = (round(mark * per_epoch) for mark in marks)
    if not steps:
        raise ConfigError(f"{column}: {schedule.epochs:g} epochs of batch {batch} are no step at all")
    changes = [(first, drop) for first, drop in zip(firsts, schedule.drops, strict=True) if first < steps]
    if walk and changes:
        steps, changes = changes[0][0], []
    return ColumnRun(
        column=column,
        seed=0,
        batch=batch,
        ghost=study.ghost if ghosts and study.ghost < batch else 0,
        peak_lr=_scaled_rate(study, batch, images) if scaled else study.optimizer.peak_lr,
        steps=steps,
        drops=tuple((first, drop.factor) for first, drop in changes),
        decays=tuple((first, drop.weight_decay) for first, drop in changes if drop.weight_decay is not None),
        steps_per_epoch=own,
        is_walk=bool(walk),
        noise_variance=noise_variance(batch=batch, reference=study.reference) if column == "noise" else 0.0,
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
        said.append(f"batch {batch} leaves one image of {images} over in every epoch; a single image is not a batch")
    if study.optimizer.finite_population and study.batches.large == images:
        said.append("the large batch is all the data: it has no sampling noise, and the factor is left out")
    ratio = study.batches.large / study.batches.small
    if study.schedule.adaptation == "epochs" and not math.isclose(ratio, math.ceil(ratio)):
        said.append(f"+RA takes {math.ceil(ratio)} times the epochs, as the code does, for a ratio of {ratio:.3g}")
    return said
