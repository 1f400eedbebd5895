"""The tables of a study file, one frozen record each."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from distillaw.quantities import format_count
from distillaw.runs.config import from_table
from distillaw.runs.spec import Recipe
from distillaw.worlds.oracle import is_oracle

NONE = "none"
"""How [[cells]] name the arm without a teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """One [[teachers]] entry: trained here, or a finished model in a folder."""

    params: str = ""
    """Target non-embedding size of a teacher trained by the study, e.g. "0.3M"."""
    tokens: int = 0
    """Tokens it is trained on."""
    split: str = "teacher"
    """Whose text it reads: `teacher`, or `student` for a teacher that has seen what its students read (a control)."""
    path: str = ""
    """An existing model with the study's tokenizer, instead of params and tokens: a Hugging Face folder, a GGUF file,
    a name on the hub (owner/name), or an oracle of the world that is the text (`oracle:window=3`)."""

    @property
    def label(self) -> str:
        """How tables, replicates and cells name it: `0.3M@1M`, `0.3M@1M on student text`, or its folder's name."""
        if self.path:
            return Path(self.path).name
        text = "" if self.split == "teacher" else f" on {self.split} text"
        return f"{self.params}@{format_count(self.tokens)}{text}"

    @property
    def is_control(self) -> bool:
        """Whether it has read its students' text; only students that [[cells]] ask for learn from it."""
        return self.split != "teacher"

    @property
    def source(self) -> str:
        """`path` as runs name an external teacher: absolute where it is on this machine."""
        local = Path(self.path).expanduser()
        if is_oracle(self.path):
            return self.path
        return str(local.resolve()) if local.exists() else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentsSpec:
    """The [students] table: every size is trained to every budget, alone and from every teacher."""

    params: tuple[str, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicateSpec:
    """One [[replicates]] entry: further seeds (initialisation and data order) for one student size."""

    params: str
    seeds: int
    """Seeds in all, the first included."""
    tokens: tuple[int, ...] = ()
    """Budgets to replicate; empty takes all of the study's."""
    teachers: tuple[str, ...] = ()
    """Teachers (by label) to replicate besides the no-teacher arm; empty takes all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsSpec:
    """One [[cells]] entry: students beside the grid, with sizes, budgets, teachers and settings of their own."""

    tokens: tuple[int, ...]
    params: tuple[str, ...] = ()
    """Sizes; empty takes all of [students]."""
    teachers: tuple[str, ...] = ()
    """Labels of teachers, `none` for training alone; empty takes none and all."""
    seeds: int = 1
    """Seeds from the study's first on."""
    name: str = ""
    """What a control is called, e.g. `lambda`; needed where anything below differs from the grid."""
    training: Mapping[str, object] = field(default_factory=dict)
    """Settings of [training] that these runs change."""
    split: str = "student"
    """Text they read: `student`, `teacher`, or `union` of both."""
    init: str = "fresh"
    """`fresh` weights, or `pruned`: cut out of the run's own teacher."""
    rates: tuple[float, ...] = (1.0,)
    """Multiples of the tuned learning rate, a trunk each."""
    holdout: bool = False
    """Trained last, when everything else is finished and predictions of these runs are frozen."""

    @property
    def is_control(self) -> bool:
        """Whether settings, text, start or rate differ from the grid's; no law is fitted on such runs."""
        return bool(self.training) or self.split != "student" or self.init != "fresh" or self.rates != (1.0,)

    def recipe(self, usual: Recipe) -> Recipe:
        """The study's recipe with the changes of these runs.

        Raises:
            ConfigError: an unknown setting or a wrong type.
        """
        asked = from_table(Recipe, self.training, f"[[cells]] {self.name} training:")
        return replace(usual, **{key: getattr(asked, key) for key in self.training})


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningSpec:
    """The [tuning] table: the search for learning rate and batch before the grid."""

    enabled: bool = True
    tokens: int = 0
    """Budget of each tuning run; 0 takes the smallest student budget."""
    teacher: str = ""
    """Label of the teacher whose students are tuned; empty takes the middle one."""
    rounds: int = 3
    """How often the search may move on when the best value lies at an end."""
    horizon: str = "target"
    """Sizes at which each arm's rate is checked at the largest budget, and its fall with tokens searched: `target` (the
    size nearest to the target's), `smallest`, `ends` (smallest and largest), or `none` (one rate for all budgets).
    Teachers are checked at their smallest size."""
    batch: bool = True
    """Whether the batch is searched too; else it is batch_tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopSpec:
    """The [early_stop] table: cells of the grid that are not worth their longer budgets."""

    margin: float = 0.0
    """A teacher's students that are this far behind the best of their size and budget (nats/token), and not catching
    up, get no longer budget; 0 trains everything. It spares a decision, not a law: laws need the weak teachers too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """The [target] table: the student the verdict is about."""

    params: str
    tokens: int
