"""A study as its TOML file describes it: text, sizes, budgets, teachers, seeds, and the question it answers."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from distillaw.accounting.shapes import Shape, shape_for_params
from distillaw.data.prepare import DataSpec
from distillaw.errors import ConfigError
from distillaw.quantities import format_count, parse_count
from distillaw.runs.config import from_table, read_toml
from distillaw.runs.files import content_hash
from distillaw.runs.spec import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """One [[teachers]] entry: trained here, or a finished model in a folder."""

    params: str = ""
    """Target non-embedding size of a teacher trained by the study, e.g. "0.3M"."""
    tokens: int = 0
    """Tokens it is trained on (the teacher split)."""
    path: str = ""
    """Folder of an existing Hugging Face model with the study's tokenizer, instead of params and tokens."""


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
class TuningSpec:
    """The [tuning] table: the search for learning rate and batch before the grid."""

    enabled: bool = True
    tokens: int = 0
    """Budget of each tuning run; 0 takes the smallest student budget."""
    teacher: str = ""
    """Label of the teacher whose students are tuned; empty takes the middle one."""
    rounds: int = 3
    """How often the search may move on when the best value lies at an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """The [target] table: the student the verdict is about."""

    params: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A whole study."""

    name: str
    students: StudentsSpec
    teachers: tuple[TeacherSpec, ...] = ()
    replicates: tuple[ReplicateSpec, ...] = ()
    data: DataSpec = field(default_factory=DataSpec)
    training: Recipe = field(default_factory=Recipe)
    tuning: TuningSpec = field(default_factory=TuningSpec)
    target: TargetSpec | None = None
    batch_tokens: int = 1024
    """Batch of every run, tokens; the search starts here."""
    peak_lr: float = 8e-3
    """Peak rate at width 64; the search starts here."""
    seed: int = 0
    """First seed; replicates count up from it."""

    @property
    def spec_hash(self) -> str:
        """Names the resolved study."""
        return content_hash(asdict(self))

    def shape(self, params: str, vocab_size: int) -> Shape:
        """The shape of a size of this study."""
        return shape_for_params(
            parse_count(params, name="params"), vocab=vocab_size, context=self.training.context,
            head_dim=self.training.head_dim, aspect=self.training.aspect,
        )  # fmt: skip

    def teacher_label(self, teacher: TeacherSpec) -> str:
        """How tables and replicates name a teacher: `0.3M@1M`, or its folder's name."""
        return Path(teacher.path).name if teacher.path else f"{teacher.params}@{format_count(teacher.tokens)}"

    def teacher_labels(self) -> list[str]:
        """Labels of all teachers, in file order."""
        return [self.teacher_label(teacher) for teacher in self.teachers]

    def middle_teacher(self) -> TeacherSpec | None:
        """The teacher that the distilled arm is tuned with."""
        if not self.teachers:
            return None
        if self.tuning.teacher:
            return self.teachers[self.teacher_labels().index(self.tuning.teacher)]
        return self.teachers[len(self.teachers) // 2]

    def end_sizes(self) -> tuple[str, ...]:
        """Smallest and largest student size: where rates are tuned; in between they are interpolated."""
        ordered = sorted(self.students.params, key=parse_count)
        return (ordered[0], ordered[-1]) if len(ordered) > 1 else (ordered[0],)

    @property
    def tuning_tokens(self) -> int:
        """Budget of each tuning run."""
        return self.tuning.tokens or min(self.students.tokens)


def load_study(path: Path, *, corpus: str | None = None) -> StudySpec:
    """Read and check a study file.

    Args:
        path: the TOML file.
        corpus: overrides data.corpus, for studies of text that the user brings.

    Raises:
        ConfigError: anything in it that cannot be run, before anything is spent.
    """
    spec = from_table(StudySpec, read_toml(path), f"{path}:")
    if corpus is not None:
        spec = replace(spec, data=replace(spec.data, corpus=corpus))
    check_study(spec)
    return spec


def check_study(spec: StudySpec) -> None:
    """Refuse impossible or contradictory settings.

    Raises:
        ConfigError: naming the setting, its value and the rule.
    """
    context = spec.training.context
    _require(bool(spec.students.params) and bool(spec.students.tokens), "[students] needs params and tokens")
    _require(
        bool(spec.data.corpus),
        "data.corpus is empty: give the text with --corpus PATH, or name it in the file",
    )
    _require(len(set(spec.students.params)) == len(spec.students.params), "[students] params repeats a size")
    _require(spec.batch_tokens % context == 0 and spec.batch_tokens > 0,
             f"batch_tokens = {spec.batch_tokens} is not a multiple of training.context = {context}")  # fmt: skip
    micro = spec.training.micro_batch_tokens
    _require(
        micro % context == 0, f"training.micro_batch_tokens = {micro} is not a multiple of context {context}"
    )
    _require(
        0 < spec.training.cooldown < 1, f"training.cooldown = {spec.training.cooldown} must lie in (0, 1)"
    )
    _require(0 <= spec.training.distill_weight <= 1,
             f"training.distill_weight = {spec.training.distill_weight} must lie in [0, 1]")  # fmt: skip
    _require(
        spec.training.temperature > 0, f"training.temperature = {spec.training.temperature} must be positive"
    )
    _require(0 < spec.peak_lr < 1, f"peak_lr = {spec.peak_lr} must lie in (0, 1)")
    _require(
        0 < spec.data.teacher_share < 1, f"data.teacher_share = {spec.data.teacher_share} must lie in (0, 1)"
    )
    _require(spec.data.validation_documents >= 2,
             f"data.validation_documents = {spec.data.validation_documents}: errors are clustered by document, so "
             "at least 2 are needed and 60 are wanted")  # fmt: skip
    shortest = 20 * spec.batch_tokens
    for tokens in (*spec.students.tokens, spec.tuning_tokens):
        _require(
            tokens >= shortest,
            f"tokens = {tokens} is under 20 batches of {spec.batch_tokens}: nothing is learnt",
        )
    _check_teachers(spec)
    sizes = list(spec.students.params)
    for replicate in spec.replicates:
        _require(
            replicate.params in sizes, f"[[replicates]] params = {replicate.params!r} is not one of {sizes}"
        )
        for label in replicate.teachers:
            _require(label in spec.teacher_labels(),
                     f"[[replicates]] teachers: {label!r} is not one of {spec.teacher_labels()}")  # fmt: skip
        for tokens in replicate.tokens:
            _require(tokens in spec.students.tokens,
                     f"[[replicates]] tokens = {tokens} is not one of {list(spec.students.tokens)}")  # fmt: skip


def _check_teachers(spec: StudySpec) -> None:
    labels = spec.teacher_labels()
    _require(len(set(labels)) == len(labels), f"[[teachers]] repeats a teacher: {labels}")
    for teacher in spec.teachers:
        if teacher.path:
            _require(not teacher.params and not teacher.tokens,
                     f"[[teachers]] path = {teacher.path!r}: give either path, or params and tokens")  # fmt: skip
            folder = Path(teacher.path).expanduser()
            _require(
                (folder / "config.json").exists(),
                f"[[teachers]] path = {teacher.path!r}: no config.json there",
            )
        else:
            _require(bool(teacher.params) and teacher.tokens >= 20 * spec.batch_tokens,
                     f"[[teachers]] {teacher}: needs params, and tokens of at least 20 batches")  # fmt: skip
    if spec.tuning.teacher:
        _require(
            spec.tuning.teacher in labels, f"tuning.teacher = {spec.tuning.teacher!r} is not one of {labels}"
        )


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise ConfigError(message)
