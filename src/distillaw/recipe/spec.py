"""What a recipe is asked for, what its later stages would refuse, and what is known before anything is spent.

The law of capacity gap is consulted for students cut from their teacher; the distillation laws know fresh students
only, and say by how much the case lies outside the runs behind them. What a later stage would refuse is refused before
the first, not after a week of training.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distillaw.accounting.config import architecture_from_config
from distillaw.accounting.flops import forward_flops
from distillaw.data.bpe import read_bpe
from distillaw.data.prepare import DataSpec
from distillaw.errors import ConfigError
from distillaw.evaluate.benchmarks import choose_tasks, known_tasks, read_tasks
from distillaw.instruct.conversations import read_conversations, read_prompts
from distillaw.instruct.masks import choose_template
from distillaw.instruct.prepare import read_pairs
from distillaw.models.cut import sized_config
from distillaw.models.prune import StudentSize, Wishes, size_student
from distillaw.models.source import ModelSource, check_config, locate
from distillaw.models.upcycle import layout, mixture_config
from distillaw.models.vocabulary import MULTIPLE
from distillaw.planning.cut_size import PUBLISHED, CutSize, size_of_cut
from distillaw.planning.gap import GapQuestion, capacity_gap
from distillaw.runs.spec import Recipe
from distillaw.sweep.arms import count_arms

STAGES = ("adapt", "text", "law", "prune", "distil", "upcycle", "instruct", "evaluate", "report")
"""In this order; each but text is a command of its own too: vocabulary and train, gap, prune, and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """What becomes of the teacher before anything is cut out of it, on the teachers' split alone."""

    pieces: int | None = None
    """New pieces for its vocabulary, learnt there."""
    keep: int | None = None
    """Or the tokens of it that stay: those which that split uses most."""
    tokens: int = 0
    """Continued training."""
    lr: float = 1e-4
    """A tenth of what the arms try: these weights are no cut. A choice; nothing here has measured it."""

    @property
    def changes_vocabulary(self) -> bool:
        """Whether tokenizer, embedding and head become others."""
        return self.pieces is not None or self.keep is not None

    def vocabulary(self, vocab: int) -> int:
        """What becomes of a vocabulary, before it is learnt: whole multiples."""
        wanted = vocab + self.pieces if self.pieces is not None else self.keep or vocab
        return -(-wanted // MULTIPLE) * MULTIPLE if self.changes_vocabulary else vocab

    def check(self, batch_tokens: int) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: naming the setting.
        """
        if self.pieces is not None and self.keep is not None:
            raise ConfigError(
                f"--pieces {self.pieces:,} and --trim {self.keep:,}: a vocabulary grows or shrinks; give one of them"
            )
        for option, given in {"pieces": self.pieces, "trim": self.keep}.items():
            if given is not None and given < 1:
                raise ConfigError(f"--{option} {given}: at least one piece")
        if self.tokens and self.tokens < batch_tokens:
            raise ConfigError(
                f"--adapt-tokens {self.tokens:,}: 0, or at least one batch of {batch_tokens:,} tokens"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What becomes of the best arm: a mixture of experts, trained on with the same teacher."""

    experts: tuple[int, ...]
    tokens: int
    bottom: float = 0.25
    """Share of the layers that has the first of two numbers of experts (models/upcycle.py)."""

    def check(self, batch_tokens: int) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: naming the setting.
        """
        if self.tokens < batch_tokens:
            raise ConfigError(
                f"--upcycle-tokens {self.tokens:,}: a mixture begins as what it was made of and parts from it by "
                f"training; at least one batch of {batch_tokens:,}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimaSpec:
    """The recipe behind MiniMA and MiniChat (arXiv 2311.07052): prune the teacher, distil, instruct, evaluate.

    Where the published one and later practice differ, the later is the default: importance is scored window by window,
    so that it does not depend on the batch, and layers go by importance, not the outer ones first.
    """

    teacher: str
    data: DataSpec
    tokens: int
    """Of each arm."""
    adapt: Adaptation | None = None
    """The teacher's adaptation to the corpus; None takes it as it is."""
    upcycle: Mixture | None = None
    """What the best arm is made into; None leaves it dense."""
    params: float | None = None
    """Non-embedding parameters of the student."""
    keep: float | None = None
    """Or the share of the teacher's that stays; neither: the law of capacity gap."""
    law: str | None = None
    """That law: a published name, or the file of a fitted one; None: the teacher over 2.5."""
    steps: int = 1
    """Cuts with distillation between them."""
    smaller: str = ""
    """A smaller model that was trained before, as one more start."""
    importance: str = "gradient"
    calibration_tokens: int = 65_536
    rates: tuple[float, ...] = (1e-3,)
    batch_tokens: int = 1024
    training: Recipe = field(default_factory=Recipe)
    alone: bool = True
    chats: Path | None = None
    """Conversations to fine-tune on; None: the teacher answers `prompts`."""
    prompts: str = "general"
    template: str | None = None
    """Chat template of a teacher that has none: a name or a file."""
    answer_tokens: int = 128
    sft_lr: float = 1e-4
    sft_epochs: int = 3
    pairs: Path | None = None
    """Preferences for DPO; None leaves the stage out."""
    tasks: tuple[str, ...] = ()
    evaluation_data: Path | None = None
    limit: int | None = None
    """Questions of each benchmark."""
    teacher_tokens: float = 0.0
    """What the teacher was trained on, for the compute axis; 0: not known."""
    seed: int = 0

    @property
    def stages(self) -> tuple[str, ...]:
        """Those of `STAGES` that this recipe has."""
        left_out = {"adapt"} if self.adapt is None else set()
        left_out |= {"upcycle"} if self.upcycle is None else set()
        return tuple(stage for stage in STAGES if stage not in left_out)

    @property
    def num_arms(self) -> int:
        """Trained side by side, fresh weights among them."""
        return count_arms(fresh=True, smaller=self.smaller, alone=self.alone)

    @property
    def trained_tokens(self) -> int:
        """Of all runs together, a cascade's in between among them."""
        return sum(row["arms"] * row["tokens"] for row in _trained(self))

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: naming the setting.
        """
        if self.params is not None and self.keep is not None:
            raise ConfigError("--student and --keep say the same thing twice; give one of them")
        if self.law is not None and (self.params is not None or self.keep is not None):
            raise ConfigError(
                "--law gives the student's size, and so do --student and --keep; give one of them"
            )
        if self.adapt is not None:
            self.adapt.check(self.batch_tokens)
        if self.adapt is not None and self.adapt.changes_vocabulary and self.smaller:
            raise ConfigError(
                f"--smaller {self.smaller} speaks the teacher's vocabulary, which --pieces and --trim change; leave "
                "it out"
            )
        if self.upcycle is not None:
            self.upcycle.check(self.batch_tokens)
        if self.steps < 1:
            raise ConfigError(f"--steps {self.steps}: at least one cut")
        if self.answer_tokens < 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError(
                f"--answer-tokens {self.answer_tokens}, --limit {self.limit}: both are at least 1"
            )
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: at least 0")
        if self.tasks and self.evaluation_data is None:
            raise ConfigError(
                f"--tasks {','.join(self.tasks)} needs --evaluation-data, the folder of their files; `distillaw "
                "evaluate --help` says where they come from"
            )
        for what in (self.chats, self.pairs, self.evaluation_data):
            if what is not None and not what.exists():
                raise ConfigError(f"{what}: no such file or folder")


def foresee(spec: MinimaSpec, until: str = "report") -> None:
    """Read what the later stages will read: models, chat template, prompts, conversations, preferences, benchmarks.

    Args:
        until: the last stage that is run; what only later ones read is not looked at.

    Raises:
        CacheError: no model there.
        ConfigError: no chat template, an unknown benchmark, no such file.
        DataError: a file that is not in its format, or no benchmark's data there.
    """
    teacher = locate(spec.teacher)
    check_config(teacher, context=spec.training.context)
    if spec.smaller:
        check_config(locate(spec.smaller), context=spec.training.context)
    if spec.adapt is not None and spec.adapt.changes_vocabulary:
        read_bpe(teacher.name, teacher.tokenizer())
    if spec.upcycle is not None:
        _mixture(spec.upcycle, _sizes(spec, teacher)[0], teacher)
    if STAGES.index(until) < STAGES.index("instruct"):
        return
    choose_template(teacher.tokenizer(), spec.template, model=teacher.name)
    # every line of conversations and preferences is read once; that takes seconds for a million of them
    if spec.chats is None:
        read_prompts(spec.prompts)
    else:
        _require_some(sum(1 for _ in read_conversations(spec.chats)), spec.chats, "conversations")
    if spec.pairs is not None:
        _require_some(sum(1 for _ in read_pairs(spec.pairs)), spec.pairs, "pairs")
    if spec.tasks and until != "instruct":
        chosen = choose_tasks(spec.tasks, known_tasks(None))
        read_tasks(chosen, spec.evaluation_data, limit=spec.limit, skip_missing=True)


def _require_some(found: int, file: Path, what: str) -> None:
    if found < 2:
        raise ConfigError(
            f"{file}: {found} {what}; some are learnt and some held out, so at least 2 are needed"
        )


def consult_laws(spec: MinimaSpec, teacher: str | None = None) -> dict[str, Any]:
    """The law stage's record, with what every stage that trains will cost.

    Args:
        teacher: the adapted one; None: it is not adapted yet, or will not be.

    Raises:
        CacheError: no teacher there.
        ConfigError: it cannot be cut so.
    """
    source = locate(teacher or spec.teacher)
    size, cut = _sizes(spec, source)
    opinions, disagreement = _opinions(spec, size.params)
    if teacher is None and spec.adapt is not None:
        vocab = spec.adapt.vocabulary(size.teacher_shape.vocab)
        shapes = {key: replace(getattr(size, key), vocab=vocab) for key in ("shape", "teacher_shape")}
        size = replace(size, **shapes)
    return size.record() | {
        "teacher": source.name,
        "ratio": size.teacher_params / size.params,
        "rule": cut.note,
        "size_by_law": cut.to_json(),
        "opinions": opinions,
        "disagreement": disagreement,
        "cost": _cost(spec, size, source),
    }


def _sizes(spec: MinimaSpec, source: ModelSource) -> tuple[StudentSize, CutSize]:
    """The student's size, and what the law says it should be."""
    whole = size_student(source, Wishes(keep=1.0)).teacher_params
    cut = size_of_cut(whole, spec.law or PUBLISHED, student_tokens=spec.tokens)
    params = cut.params if spec.params is None and spec.keep is None else spec.params
    return size_student(source, Wishes(params=params, keep=spec.keep)), cut


def _trained(spec: MinimaSpec) -> Iterator[dict[str, Any]]:
    """The stages that train, in their order: how many runs side by side, and the tokens of each."""
    if spec.adapt is not None and spec.adapt.tokens:
        yield {"stage": "adapt", "arms": 1, "tokens": spec.adapt.tokens}
    for _ in range(spec.steps - 1):
        yield {"stage": "prune", "arms": 1, "tokens": spec.tokens}
    yield {"stage": "distil", "arms": spec.num_arms, "tokens": spec.tokens}
    if spec.upcycle is not None:
        yield {"stage": "upcycle", "arms": 1, "tokens": spec.upcycle.tokens}


def _cost(spec: MinimaSpec, size: StudentSize, source: ModelSource) -> dict[str, Any]:
    """FLOP of every stage that trains: of a token three forward passes of what is trained, one of its teacher.

    `arms`, `tokens`, `student_flop` and `teacher_flop` of the whole are those of the distil stage.
    """
    context = spec.training.context
    teacher, student = (
        forward_flops(shape, context=context).total for shape in (size.teacher_shape, size.shape)
    )
    between = iter(
        size_student(source, Wishes(keep=size.keep ** (step / spec.steps))) for step in range(1, spec.steps)
    )
    stages = []
    for row in _trained(spec):
        own = student
        if row["stage"] == "adapt":
            own = teacher
        elif row["stage"] == "prune":
            shape = replace(next(between).shape, vocab=size.shape.vocab)
            own = forward_flops(shape, context=context).total
        elif row["stage"] == "upcycle":
            assert spec.upcycle is not None
            config = _mixture(spec.upcycle, size, source)
            own = forward_flops(architecture_from_config(config, source="mixture"), context=context).total
        beside = 0.0 if row["stage"] == "adapt" else teacher * row["tokens"]
        stages.append(row | {"student_flop": 3 * own * row["tokens"] * row["arms"], "teacher_flop": beside})
    distil = next(row for row in stages if row["stage"] == "distil")
    return {key: value for key, value in distil.items() if key != "stage"} | {"stages": stages}


def _mixture(wanted: Mixture, size: StudentSize, source: ModelSource) -> dict[str, Any]:
    """The configuration of the mixture that a student of this size becomes.

    Raises:
        ConfigError: another family, or a layout that its layers cannot have.
    """
    layers = size.shape.layers
    dense = sized_config(source.config(), size.shape, tuple(range(layers)))
    return mixture_config(dense, layout(layers, wanted.experts, bottom=wanted.bottom)).to_dict()


def _opinions(spec: MinimaSpec, params: float) -> tuple[list[object], list[str]]:
    """What the laws say of the teacher's size, and where they disagree; or why none of them was asked.

    A recipe may be tried on fewer tokens than any law speaks of; that stops no recipe.
    """
    try:
        asked = GapQuestion(
            student_params=params,
            student_tokens=float(spec.tokens),
            margin=0.005,
            teacher_tokens=spec.teacher_tokens or None,
            teacher_tokens_per_param=None if spec.teacher_tokens else 20.0,
        )
        answer = capacity_gap(asked)
    except ConfigError as error:
        return [], [f"no law was asked: {error}"]
    return [opinion.to_json(params) for opinion in answer.opinions], list(answer.disagreement)
