"""What a large-batch study is: one TOML file, one frozen object; and the paper's numbers that it is held against.

    name, network, columns, seeds, [data], [batches], [optimizer], [schedule], [diffusion]

Defaults are those of the paper's released code (github.com/eladhoffer/bigBatch), save that momentum is kept across
epochs. What each column makes of it is columns.py's. The printed numbers are records in data/hoffer2017.toml.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean
from distillaw.runs.config import check_choice, from_table, read_toml

KEYS = {"SB": "SB", "LB": "LB", "+LR": "LR", "+GBN": "GBN", "+RA": "RA"}
"""Column to its key in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """One row of a result table: validation accuracy in per cent, single numbers."""

    network: str
    data: str
    accuracy: Mapping[str, float]
    """By column."""
    settings: Mapping[str, object]
    """Of the released code; empty where it is not known."""
    known_problems: tuple[str, ...]

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
        """The row of a network.

        Raises:
            ConfigError: no such row.
        """
        names = [row.network for row in self.rows]
        if network not in names:
            raise ConfigError(
                f"paper = {network!r}{did_you_mean(network, names)}: the table has {', '.join(names)}; empty shows none"
            )
        return self.rows[names.index(network)]


@cache
def hoffer2017() -> Paper:
    """The paper's tables and Figure 2."""
    text = (files("distillaw.large_batch") / "data" / "hoffer2017.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    rows = tuple(
        PaperRow(
            network=row["network"],
            data=row["data"],
            settings=row.get("settings", {}),
            accuracy={column: float(row[key]) for column, key in KEYS.items()},
            known_problems=tuple(row.get("known_problems", ())),
        )
        for row in table["row"]
    )
    return Paper(
        title=table["title"],
        source=table["source"],
        certainty=table["certainty"],
        known_problems=tuple(table["known_problems"]),
        rows=rows,
        distances=tuple(PaperDistance(**entry) for entry in table["distance"]),
    )


NETWORKS = ("f1", "shallow", "resnet", "wide-resnet")
COLUMNS = ("SB", "LB", "+LR", "+GBN", "+RA", "RA alone")
STAGES = COLUMNS[:5]
RULES = ("sqrt", "linear", "constant")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """Which network, and its size."""

    kind: str
    """f1; shallow (C1 on ten classes, C3 on a hundred); resnet; wide-resnet."""
    width: int = 0
    """f1: hidden units, 512 as published; wide-resnet: widening factor, 4 as published. 0: as published."""
    depth: int = 0
    """resnet: 44 and wide-resnet: 16 as published; f1: 5 hidden layers. 0: as published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """What is done with the images."""

    train_images: int = 0
    """The first so many; 0: all."""
    pad: int = 0
    """Zero pixels on each side before a random crop to the old size."""
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
        """Refuse what cannot be run.

        Raises:
            ConfigError: unknown names, sizes out of range, a schedule that does not rise.
        """
        _check_names(self)
        if self.paper:
            hoffer2017().row(self.paper)
        _check_batches(self)
        _check_optimizer(self.optimizer)
        _check_schedule(self.schedule)
        if self.data.pad < 0 or not self.data.mean or not self.data.std or min(self.data.std) <= 0:
            raise ConfigError("[data]: pad must not be negative, mean not empty, std above 0")
        if not 1 <= self.seeds <= 100:
            raise ConfigError(f"seeds = {self.seeds}: 1 to 100; intervals need at least 2, the acceptance 5")

    @property
    def reference(self) -> int:
        """The batch that the rate belongs to."""
        return self.batches.reference or self.batches.small

    @property
    def ghost(self) -> int:
        """Samples of a ghost."""
        return self.batches.ghost or self.batches.small

    def to_json(self) -> dict[str, object]:
        """Every field, defaults included."""
        return asdict(self)


def read_study(path: Path) -> ImageStudy:
    """Read a study from its TOML file.

    Raises:
        ConfigError: unreadable, unknown keys, values that cannot be run.
    """
    return from_table(ImageStudy, read_toml(path), path.name)


def _check_names(study: ImageStudy) -> None:
    check_choice("[network] kind", study.network.kind, NETWORKS)
    if study.network.width < 0 or study.network.depth < 0:
        raise ConfigError("[network]: width and depth are counts; 0 is the published size")
    if not study.columns:
        raise ConfigError(f"columns: name at least one of {', '.join(COLUMNS)}")
    for column in study.columns:
        check_choice("columns", column, COLUMNS)
    if len(set(study.columns)) < len(study.columns):
        raise ConfigError(f"columns: {', '.join(study.columns)}: each once")
    check_choice("[optimizer] rate_rule", study.optimizer.rate_rule, RULES)
    check_choice("[schedule] adaptation", study.schedule.adaptation, ("steps", "epochs"))


def _check_batches(study: ImageStudy) -> None:
    batches = study.batches
    sizes = {
        "small": batches.small,
        "large": batches.large,
        "reference": study.reference,
        "ghost": study.ghost,
    }
    for name, size in [*sizes.items(), *(("diffusion", size) for size in study.diffusion.batches)]:
        if size < 2:
            raise ConfigError(f"batch {name} = {size}: batch norm needs at least two images in a batch")
    if batches.large <= batches.small:
        raise ConfigError(f"[batches] large = {batches.large}: it must be above small = {batches.small}")
    if study.diffusion.first_step < 1 or len(set(study.diffusion.batches)) < len(study.diffusion.batches):
        raise ConfigError("[diffusion]: first_step is at least 1, and each batch is named once")


def _check_optimizer(optimizer: Optimizer) -> None:
    for name in ("weight_decay", "clip_norm", "clip_steps"):
        if getattr(optimizer, name) < 0:
            raise ConfigError(f"[optimizer] {name} = {getattr(optimizer, name):g}: it must not be negative")
    if not optimizer.peak_lr > 0 or not 0 <= optimizer.momentum < 1:
        raise ConfigError(
            f"[optimizer] peak_lr = {optimizer.peak_lr:g}, momentum = {optimizer.momentum:g}: the rate must be above "
            "0, momentum in [0, 1)"
        )
    if optimizer.finite_population and optimizer.rate_rule != "sqrt":
        raise ConfigError("[optimizer] finite_population corrects rate_rule = 'sqrt' alone")


def _check_schedule(schedule: Schedule) -> None:
    if not 0 < schedule.epochs <= 1e5:
        raise ConfigError(f"[schedule] epochs = {schedule.epochs:g}: above 0, at most 100,000")
    epochs = [0.0, *(drop.epoch for drop in schedule.drops)]
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise ConfigError(f"[schedule] drops at epochs {epochs[1:]}: above 0 and rising")
    if any(drop.factor <= 0 for drop in schedule.drops):
        raise ConfigError("[schedule] drops: a factor must be above 0")
