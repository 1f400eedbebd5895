"""A study as its TOML file describes it: text, sizes, budgets, teachers, seeds, and the question it answers."""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from distillaw.accounting.shapes import Shape, shape_for_params
from distillaw.data.prepare import DataSpec
from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean, format_count, parse_count
from distillaw.runs.config import from_table, read_toml
from distillaw.runs.files import content_hash
from distillaw.runs.spec import Recipe
from distillaw.worlds.oracle import is_oracle, parse_oracle
from distillaw.worlds.spec import check_world


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """One [[teachers]] entry: trained here, or a finished model in a folder."""

    params: str = ""
    """Target non-embedding size of a teacher trained by the study, e.g. "0.3M"."""
    tokens: int = 0
    """Tokens it is trained on (the teacher split)."""
    path: str = ""
    """An existing model with the study's tokenizer, instead of params and tokens: a Hugging Face folder, a GGUF file,
    a name on the hub (owner/name), or an oracle of the world that is the text (`oracle:window=3`)."""

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
class TuningSpec:
    """The [tuning] table: the search for learning rate and batch before the grid."""

    enabled: bool = True
    tokens: int = 0
    """Budget of each tuning run; 0 takes the smallest student budget."""
    teacher: str = ""
    """Label of the teacher whose students are tuned; empty takes the middle one."""
    rounds: int = 3
    """How often the search may move on when the best value lies at an end."""
    batch: bool = True
    """Whether the batch is searched too; else it is batch_tokens."""


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

    def external_teachers(self) -> list[str]:
        """Sources of the teachers that are not trained here."""
        return [teacher.source for teacher in self.teachers if teacher.path]

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
    _check_numbers(spec)
    _check_choices(spec.training)
    context = spec.training.context
    _require(bool(spec.students.params) and bool(spec.students.tokens), "[students] needs params and tokens")
    _require(
        bool(spec.data.corpus),
        "data.corpus is empty: give the text with --corpus PATH, or name it in the file",
    )
    sizes = [parse_count(size, name="[students] params") for size in spec.students.params]
    _require(len(set(sizes)) == len(sizes), f"[students] params repeats a size: {list(spec.students.params)}")
    _require(spec.batch_tokens % context == 0,
             f"batch_tokens = {spec.batch_tokens} is not a multiple of training.context = {context}")  # fmt: skip
    micro = spec.training.micro_batch_tokens
    _require(
        micro % context == 0, f"training.micro_batch_tokens = {micro} is not a multiple of context {context}"
    )
    for tokens in (*spec.students.tokens, spec.tuning_tokens):
        _require(tokens >= 20 * spec.batch_tokens,
                 f"tokens = {tokens} is under 20 batches of {spec.batch_tokens}: nothing is learnt")  # fmt: skip
    _check_text(spec.data)
    _check_teachers(spec)
    _check_replicates(spec)


def _check_text(data: DataSpec) -> None:
    """A world is a text of its own; settings that speak of another are contradictions."""
    if data.world is None:
        return
    check_world(data.world)
    of_corpora = "corpus tokenizer vocab_size text_column max_document_chars section_chars seed"
    for name in of_corpora.split():
        value, default = getattr(data, name), getattr(DataSpec(), name)
        _require(
            value == default,
            f"data.{name} = {value!r} together with [data.world]: the text is drawn from the world; drop one",
        )


def _check_numbers(spec: StudySpec) -> None:
    """Every number that has a range, in one table."""
    training, data = spec.training, spec.data
    rules: list[tuple[str, float, float, float]] = [
        ("batch_tokens", spec.batch_tokens, 1, math.inf),
        ("peak_lr", spec.peak_lr, 1e-9, 0.999),
        ("seed", spec.seed, 0, math.inf),
        ("training.context", training.context, 2, math.inf),
        ("training.head_dim", training.head_dim, 2, math.inf),
        ("training.aspect", training.aspect, 0.1, 1e4),
        ("training.warmup_tokens", training.warmup_tokens, 0, math.inf),
        ("training.cooldown", training.cooldown, 0.01, 1),
        ("training.weight_decay", training.weight_decay, 0, 1),
        ("training.clip_norm", training.clip_norm, 1e-9, math.inf),
        ("training.z_weight", training.z_weight, 0, math.inf),
        ("training.distill_weight", training.distill_weight, 0, 1),
        ("training.temperature", training.temperature, 1e-3, 1e3),
        ("training.beta", training.beta, 0, 1),
        ("training.skew", training.skew, 0, 0.999),
        ("training.micro_batch_tokens", training.micro_batch_tokens, 0, math.inf),
        ("training.spike_factor", training.spike_factor, 0, math.inf),
        ("training.patience", training.patience, 0, math.inf),
        ("tuning.rounds", spec.tuning.rounds, 0, 20),
        ("data.teacher_share", data.teacher_share, 0.001, 0.999),
        ("data.vocab_size", data.vocab_size, 257, math.inf),
        ("data.validation_documents", data.validation_documents, 2, math.inf),
        ("data.validation_tokens_per_document", data.validation_tokens_per_document, 1, math.inf),
        ("data.max_document_chars", data.max_document_chars, 0, math.inf),
        ("data.section_chars", data.section_chars, 0, math.inf),
        ("data.seed", data.seed, 0, math.inf),
        ("data.world_tokens", data.world_tokens, 1, math.inf),
    ]
    for name, value, low, high in rules:
        _require(low <= value <= high, f"{name} = {value:g} must lie in [{low:g}, {high:g}]")
    _require(
        training.head_dim % 2 == 0, f"training.head_dim = {training.head_dim} must be even (rotary positions)"
    )


CHOICES = {
    "decay": ("linear", "sqrt", "cosine"),
    "divergence": ("forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-reverse-kl"),
    "precision": ("fp32", "bf16"),
}
"""Every word of [training] and what it may be; the code that knows them imports torch, a study file must not."""


def _check_choices(training: Recipe) -> None:
    for name, known in CHOICES.items():
        value = getattr(training, name)
        _require(
            value in known,
            f"training.{name} = {value!r}{did_you_mean(value, known)} is none of {', '.join(known)}",
        )


def _check_replicates(spec: StudySpec) -> None:
    sizes = list(spec.students.params)
    for replicate in spec.replicates:
        _require(
            replicate.params in sizes, f"[[replicates]] params = {replicate.params!r} is not one of {sizes}"
        )
        _require(
            replicate.seeds >= 2,
            f"[[replicates]] seeds = {replicate.seeds}: give at least 2, the first included",
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
        if is_oracle(teacher.path):
            parse_oracle(teacher.path)
            _require(
                not teacher.params and not teacher.tokens,
                f"[[teachers]] path = {teacher.path!r}: an oracle is not trained; drop params and tokens",
            )
            _require(spec.data.world is not None,
                     f"[[teachers]] path = {teacher.path!r}: an oracle knows the text of a world alone; add a "
                     "[data.world] table")  # fmt: skip
        elif teacher.path:
            _require(not teacher.params and not teacher.tokens,
                     f"[[teachers]] path = {teacher.path!r}: give either path, or params and tokens")  # fmt: skip
            _require(_could_be_model(teacher.source),
                     f"[[teachers]] path = {teacher.path!r}: no model there; give a Hugging Face folder (with "
                     "config.json), a GGUF file, or a name on the hub (owner/name)")  # fmt: skip
        else:
            _require(bool(teacher.params) and teacher.tokens >= 20 * spec.batch_tokens,
                     f"[[teachers]] {teacher}: needs params, and tokens of at least 20 batches")  # fmt: skip
    if spec.tuning.teacher:
        _require(
            spec.tuning.teacher in labels, f"tuning.teacher = {spec.tuning.teacher!r} is not one of {labels}"
        )


def _could_be_model(source: str) -> bool:
    path = Path(source)
    if path.is_absolute():
        return (path / "config.json").exists() or (path.is_file() and path.suffix == ".gguf")
    return source.count("/") >= 1 and not source.startswith(".")


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise ConfigError(message)
