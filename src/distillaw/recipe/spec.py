"""What a recipe is asked for, what its later stages would refuse, and what is known before anything is spent.

The law of capacity gap is consulted for students cut from their teacher; the distillation laws know fresh students
only, and say by how much the case lies outside the runs behind them. What a later stage would refuse is refused before
the first, not after a week of training.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillaw.accounting.flops import forward_flops
from distillaw.data.prepare import DataSpec
from distillaw.errors import ConfigError
from distillaw.evaluate.benchmarks import choose_tasks, known_tasks, read_tasks
from distillaw.instruct.conversations import read_conversations, read_prompts
from distillaw.instruct.masks import choose_template
from distillaw.instruct.prepare import read_pairs
from distillaw.models.cut import keep_by_law
from distillaw.models.prune import Wishes, size_student
from distillaw.models.source import check_config, locate
from distillaw.planning.gap import GapQuestion, capacity_gap
from distillaw.runs.spec import Recipe

STAGES = ("text", "law", "prune", "distil", "instruct", "evaluate", "report")
"""In this order; each is a command of its own too: gap, prune, distil, instruct, evaluate, report."""


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
    params: float | None = None
    """Non-embedding parameters of the student."""
    keep: float | None = None
    """Or the share of the teacher's that stays; neither: the law of capacity gap."""
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
    device: str = "cpu"

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: naming the setting.
        """
        if self.params is not None and self.keep is not None:
            raise ConfigError("--student and --keep say the same thing twice; give one of them")
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


def consult_laws(spec: MinimaSpec) -> dict[str, Any]:
    """The law stage's record.

    Raises:
        CacheError: no teacher there.
        ConfigError: it cannot be cut so.
    """
    source, law = locate(spec.teacher), keep_by_law()
    keep = law if spec.params is None and spec.keep is None else spec.keep
    size = size_student(source, Wishes(params=spec.params, keep=keep))
    opinions, disagreement = _opinions(spec, size.params)
    arms, context = (2 + bool(spec.smaller)) * (2 if spec.alone else 1), spec.training.context
    own, other = (forward_flops(shape, context=context).total for shape in (size.shape, size.teacher_shape))
    flop = {"student_flop": 3 * own * spec.tokens * arms, "teacher_flop": other * spec.tokens}
    slope = 1 / law
    return size.record() | {
        "teacher": source.name,
        "ratio": size.teacher_params / size.params,
        "rule": f"teacher = {slope:g} x student for students cut from their teacher (arXiv 2311.07052; no "
        "interval is published; its parameters are all weights, here non-embedding ones)",
        "best_teacher_by_rule": slope * size.params,
        "opinions": opinions,
        "disagreement": disagreement,
        "cost": {"arms": arms, "tokens": spec.tokens} | flop,
    }


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
