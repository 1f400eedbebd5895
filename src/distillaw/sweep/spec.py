"""A study as its TOML file describes it, a frozen record per table: text, sizes, budgets, teachers, seeds, question."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from distillaw.data.prepare import DataSpec
from distillaw.quantities import format_count, parse_count
from distillaw.runs.config import from_table
from distillaw.runs.files import content_hash
from distillaw.runs.spec import CONTROL, Recipe
from distillaw.shapes import Shape, shape_for_params
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
    """The [students] table: every size is trained to every budget, alone and from every teacher, in every arm."""

    params: tuple[str, ...]
    tokens: tuple[int, ...]
    starts: tuple[str, ...] = ("fresh",)
    """Arms: first weights `fresh` from the seed; `pruned`, cut out of the very teacher under test (alone: out of every
    teacher in turn); `fixed`, cut out of `reference` whatever the teacher. Of one size all have one architecture."""
    reference: str = ""
    """What `fixed` students are cut out of: the label of a teacher, or a model with the study's tokenizer."""
    criterion: str = "activation"
    """What says which units a cut keeps: `uniform`, `activation` or `gradient` (models/prune.py)."""


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
class DesignSpec:
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
    peak_lr: float = 0.0
    """Rate of these runs at width 64 where it is known from elsewhere; 0: what the study's searches foresee."""
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
    """Sizes at which each arm's rate is searched at the largest budget too: `target` (the size nearest to the
    target's), `smallest`, `ends` (smallest and largest), or `none` (one rate for all budgets). Teachers are searched at
    their own budgets, the smallest and the largest; with `smallest` that alone, with `none` not at all."""
    batch: bool = True
    """Whether the batch is searched too; else it is batch_tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopSpec:
    """The [early_stop] table: design points that are not worth their longer budgets."""

    margin: float = 0.0
    """A teacher's students that are this far behind the best of their size and budget (nats/token), and not catching
    up, get no longer budget; 0 trains everything. It spares a decision, not a law: laws need the weak teachers too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """The [target] table: the student the verdict is about."""

    params: str
    tokens: int


class Lesson(NamedTuple):
    """What students of one arm have in common: their teacher, and what their first weights are cut out of."""

    arm: str
    label: str = NONE
    """Of the teacher."""
    source: str = ""
    """Label (or folder) of the model they are cut out of; empty: fresh."""
    is_deepest: bool = False
    """Whether its rates are searched for the deepest cut, beside those of a milder one."""

    @property
    def name(self) -> str:
        """Under which the search for its rates goes."""
        if self.arm == "fresh":
            return "supervised" if self.label == NONE else "distilled"
        arm = f"{self.arm} deepest" if self.is_deepest else self.arm
        return f"{arm} alone" if self.label == NONE else arm


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignBlock:
    """Students that a study trains: every size and seed at every rate, to every budget, from every teacher named."""

    design: DesignSpec
    params: tuple[str, ...]
    teachers: frozenset[str]
    """Labels, `none` among them."""
    seeds: tuple[int, ...]
    recipe: Recipe
    purpose: str
    """What the run table says they are for."""
    starts: tuple[str, ...]
    """Arms; controls are of one, fresh unless `design.init` says otherwise."""

    def wants(self, lesson: "Lesson") -> bool:
        """Whether students of it learn so."""
        if lesson.arm not in self.starts or lesson.label not in self.teachers:
            return False
        return lesson.arm != "pruned" or lesson.source in self.teachers


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A whole study."""

    name: str
    students: StudentsSpec
    teachers: tuple[TeacherSpec, ...] = ()
    replicates: tuple[ReplicateSpec, ...] = ()
    cells: tuple[DesignSpec, ...] = ()
    data: DataSpec = field(default_factory=DataSpec)
    training: Recipe = field(default_factory=Recipe)
    tuning: TuningSpec = field(default_factory=TuningSpec)
    early_stop: EarlyStopSpec = field(default_factory=EarlyStopSpec)
    target: TargetSpec | None = None
    batch_tokens: int = 1024
    """Batch of every run, tokens; the search starts here."""
    peak_lr: float = 8e-3
    """Peak rate at width 64; the search starts here."""
    without_controls: tuple[str, ...] = ()
    """Controls (docs/controls.md) that this study does not claim: they are shown, and said to be left out."""
    seed: int = 0
    """First seed; replicates count up from it."""

    @property
    def spec_hash(self) -> str:
        """Names the resolved study."""
        spec = asdict(self)
        if self.students.starts == ("fresh",):  # as before there was a choice
            spec["students"] = {"params": self.students.params, "tokens": self.students.tokens}
        return content_hash(spec)

    def blocks(self) -> Iterator[DesignBlock]:
        """All students: the grid, its replicates, then [[cells]]."""
        usual = (NONE, *(teacher.label for teacher in self.usual_teachers))
        grid = DesignSpec(tokens=self.students.tokens)
        yield self._block(grid, self.students.params, usual, (self.seed,))
        for one in self.replicates:
            design = DesignSpec(tokens=one.tokens or self.students.tokens)
            teachers = (NONE, *one.teachers) if one.teachers else usual
            yield self._block(design, (one.params,), teachers, tuple(range(self.seed + 1, self.seed + one.seeds)))
        for design in self.cells:
            seeds = tuple(range(self.seed, self.seed + design.seeds))
            yield self._block(design, design.params or self.students.params, design.teachers or usual, seeds)

    def _block(
        self, design: DesignSpec, params: tuple[str, ...], teachers: tuple[str, ...], seeds: tuple[int, ...]
    ) -> DesignBlock:
        purpose = f"{CONTROL}{design.name}" if self.is_control(design) else "holdout" if design.holdout else "grid"
        return DesignBlock(
            design=design,
            params=params,
            teachers=frozenset(teachers),
            seeds=seeds,
            purpose=purpose,
            recipe=design.recipe(self.training),
            starts=("fresh",) if self.is_control(design) else self.students.starts,
        )

    @property
    def reference(self) -> TeacherSpec | None:
        """The model that `fixed` students are cut out of; None without such."""
        if "fixed" not in self.students.starts:
            return None
        known = {teacher.label: teacher for teacher in self.teachers}
        return known.get(self.students.reference) or TeacherSpec(path=self.students.reference)

    def lessons(self, arm: str) -> list[Lesson]:
        """Every way in which students of an arm learn: alone, then from each teacher."""
        labels = [NONE, *self.teacher_labels()]
        if arm == "fresh":
            return [Lesson(arm, label) for label in labels]
        if self.reference is not None and arm == "fixed":
            return [Lesson(arm, label, self.reference.label) for label in labels]
        usual = [teacher.label for teacher in self.usual_teachers]
        return [Lesson(arm, label, source) for source in usual for label in (NONE, source)]

    def tuned_lessons(self, arm: str, failed: Collection[str] = ()) -> list[Lesson]:
        """Those of a cut arm at which its rates are searched: alone, and from one teacher, the middle one if it may.

        The pruned arm is searched at the deepest cut too, that out of the largest teacher: the more of a model is cut
        away, the more it is a fresh one, which wants another rate. Of those that failed (labels) none, as long as
        another may.
        """
        middle = self.middle_teacher(failed)
        if middle is None:
            return []
        if arm == "fixed" and self.reference is not None:
            return [Lesson(arm, label, self.reference.label) for label in (NONE, middle.label)]
        holds = [t for t in self.usual_teachers if all(self.can_cut(t, n) for n in self.tuned_sizes())]
        holds = [t for t in holds if t.label not in failed] or holds
        sizes, labels = self.teacher_sizes(), [t.label for t in holds]
        chosen = middle.label if middle in holds else min(labels, key=lambda x: sizes.get(x, math.inf), default="")
        if not chosen:
            return []
        lessons = [Lesson(arm, label, chosen) for label in (NONE, chosen)]
        most = max(labels, key=lambda label: sizes.get(label, 0.0))
        if sizes.get(chosen, math.inf) < sizes.get(most, 0.0):
            lessons += [Lesson(arm, label, most, True) for label in (NONE, most)]
        return lessons

    def teacher_sizes(self) -> dict[str, float]:
        """Non-embedding parameters of the teachers that are trained here, by label."""
        return {t.label: parse_count(t.params) for t in self.usual_teachers if t.params}

    def left_uncut(self) -> list[str]:
        """What a pruned arm leaves out, in words: pairs whose teacher does not hold the student."""
        out = {n: [t.label for t in self.usual_teachers if not self.can_cut(t, n)] for n in self.pruned_sizes()}
        pairs = "; ".join(f"{size} from {', '.join(labels)}" for size, labels in out.items() if labels)
        return [f"pruned arm: left out, the teacher being smaller along an axis: {pairs}"] if pairs else []

    def pruned_sizes(self) -> list[str]:
        """Sizes that the pruned arm has, those of [[cells]] too."""
        sizes = (size for block in self.blocks() if "pruned" in block.starts for size in block.params)
        return list(dict.fromkeys(sizes))

    def can_cut(self, teacher: TeacherSpec, params: str) -> bool:
        """Whether a student of a size is part of a teacher trained here; one from outside `check_cuts` looked at."""
        if teacher.path:
            return True
        ours, theirs = (self.shape(size, self.data.vocab_size) for size in (params, teacher.params))
        return all(getattr(ours, axis) <= getattr(theirs, axis) for axis in ("layers", "width", "heads", "ffn"))

    def is_control(self, design: DesignSpec) -> bool:
        """Whether these students differ from the grid's in more than size, budget, teacher's loss and seed."""
        return design.is_control or any(t.is_control and t.label in design.teachers for t in self.teachers)

    @property
    def has_holdout(self) -> bool:
        """Whether some students wait until predictions of them are frozen."""
        return any(design.holdout for design in self.cells)

    def longest(self) -> dict[str, int]:
        """Split (or `union`) -> most tokens that any run reads of it."""
        most: dict[str, int] = {"student": self.tuning_tokens}
        reads = [(block.design.split, max(block.design.tokens)) for block in self.blocks()]
        reads += [(teacher.split, teacher.tokens) for teacher in self.teachers if not teacher.path]
        for split, tokens in reads:
            most[split] = max(most.get(split, 0), tokens)
        return most

    def shape(self, params: str, vocab_size: int) -> Shape:
        """The shape of a size of this study."""
        return shape_for_params(
            parse_count(params, name="params"),
            vocab=vocab_size,
            context=self.training.context,
            head_dim=self.training.head_dim,
            aspect=self.training.aspect,
        )

    def teacher_labels(self) -> list[str]:
        """Labels of all teachers, in file order."""
        return [teacher.label for teacher in self.teachers]

    @property
    def usual_teachers(self) -> list[TeacherSpec]:
        """Teachers that have not read their students' text."""
        return [teacher for teacher in self.teachers if not teacher.is_control]

    def external_teachers(self) -> dict[str, TeacherSpec]:
        """Teachers (and the reference) that are not trained here, by source."""
        known = [*self.teachers, *([self.reference] if self.reference else [])]
        return {teacher.source: teacher for teacher in known if teacher.path}

    def middle_teacher(self, failed: Collection[str] = ()) -> TeacherSpec | None:
        """The teacher that the distilled arm is tuned with; of those that failed (labels) none, if there is another."""
        usual = self.usual_teachers
        if not usual:
            return None
        middle = usual[len(usual) // 2]
        if self.tuning.teacher:
            middle = self.teachers[self.teacher_labels().index(self.tuning.teacher)]
        return next((t for t in (middle, *usual) if t.label not in failed), middle)

    def checked_teachers(self) -> list[TeacherSpec]:
        """The smallest and the largest of the teachers trained beyond the search's budget, by size.

        Their rates are checked at their own budgets, and a law says the others' (docs/rates.md has what it costs to
        check one end alone).
        """
        own = [t for t in self.usual_teachers if not t.path and t.tokens > self.tuning_tokens]
        longest = {t.params: t for t in sorted(own, key=lambda t: t.tokens)}
        by_size = sorted(longest.values(), key=lambda t: parse_count(t.params))
        return by_size[:1] if self.tuning.horizon == "smallest" else by_size[:1] + by_size[1:][-1:]

    def end_sizes(self) -> tuple[str, ...]:
        """Smallest and largest student size."""
        ordered = sorted(self.students.params, key=parse_count)
        return (ordered[0], ordered[-1]) if len(ordered) > 1 else (ordered[0],)

    def far_sizes(self) -> tuple[str, ...]:
        """Sizes whose rate is checked at the largest budget (`[tuning] horizon`)."""
        ends = self.end_sizes()
        if self.tuning.horizon != "target" or self.target is None:
            return {"none": (), "ends": ends}.get(self.tuning.horizon, ends[:1])
        target = math.log(parse_count(self.target.params))
        return (min(self.students.params, key=lambda size: abs(math.log(parse_count(size)) - target)),)

    def tuned_sizes(self) -> tuple[str, ...]:
        """Sizes whose rate is searched at the smallest budget: both ends, and those that are checked further on."""
        return tuple(sorted({*self.end_sizes(), *self.far_sizes()}, key=parse_count))

    @property
    def tuning_tokens(self) -> int:
        """Budget of each tuning run."""
        return self.tuning.tokens or min(self.students.tokens)
