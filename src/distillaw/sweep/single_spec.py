"""The file that `distillaw train` reads; checked without torch, so that a slip is said at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distillaw.data.prepare import DataSpec
from distillaw.errors import ConfigError
from distillaw.runs.config import from_table, read_toml, with_settings
from distillaw.runs.spec import Recipe
from distillaw.sweep.checks import check_study
from distillaw.sweep.spec import StudentsSpec, StudySpec, TeacherSpec, TuningSpec

STARTS = ("", "weights", "fresh")


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleSpec:
    """The file that `distillaw train` reads."""

    name: str
    tokens: int
    peak_lr: float
    """Peak rate at width 64 (train/optim.py has the rule for other widths); with `start` the rate of all weights."""
    params: str = ""
    """Target non-embedding size of a fresh model, e.g. "0.3M"."""
    start: str = ""
    """Instead of `params`: a model to train further (a Hugging Face folder, e.g. of `distillaw prune`)."""
    init: str = ""
    """With `start`: `weights`, its own (the default), or `fresh`, only its architecture."""
    teacher: str = ""
    """Folder of the teacher; empty pretrains."""
    targets: str = ""
    """Folder of stored teacher targets (`distillaw cache build`), instead of the teacher beside the student."""
    batch_tokens: int = 1024
    seed: int = 0
    data: DataSpec = field(default_factory=DataSpec)
    training: Recipe = field(default_factory=Recipe)

    def as_study(self) -> StudySpec:
        """The study whose only wanted run is this one."""
        return StudySpec(
            name=self.name,
            students=StudentsSpec(params=(self.params or "1M",), tokens=(self.tokens,)),
            teachers=(TeacherSpec(path=self.teacher),) if self.teacher else (),
            data=self.data,
            training=self.training,
            tuning=TuningSpec(enabled=False),
            batch_tokens=self.batch_tokens,
            peak_lr=self.peak_lr,
            seed=self.seed,
        )


def load_single(path: Path, *, settings: Sequence[str] = ()) -> SingleSpec:
    """Read and check the file of one run; `settings` are KEY=VALUE each, over the file's (runs/config.py).

    Raises:
        ConfigError: anything in it that cannot be run.
    """
    single = from_table(SingleSpec, with_settings(read_toml(path), settings), f"{path}:")
    if single.teacher and single.targets:
        raise ConfigError(
            f"{path}: teacher and targets are both given; the targets name their teacher: drop one"
        )
    if bool(single.params) == bool(single.start):
        raise ConfigError(
            f"{path}: give either params, the size of a fresh model, or start, a model to train further"
        )
    _check_start(single.start, single.init)
    check_study(single.as_study())
    return single


def _check_start(start: str, init: str) -> None:
    """Refuse what cannot be meant."""
    if init not in STARTS:
        raise ConfigError(
            f"init = {init!r}: give 'weights' (those of `start`) or 'fresh' (only its architecture)"
        )
    if init and not start:
        raise ConfigError(f'init = {init!r} without a model: name one, start = "out/cut"')
