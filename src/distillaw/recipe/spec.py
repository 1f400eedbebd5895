"""What a recipe is asked for; torch-free, so that options are made of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillaw.data.prepare import DataSpec
from distillaw.errors import ConfigError
from distillaw.evaluate.wishes import ChatWishes
from distillaw.runs.spec import Recipe

LATE = {
    "instruct": (
        *("chats", "prompts", "template", "answer_tokens", "sft_lr", "sft_epochs", "pairs", "on_policy"),
        *("tasks", "evaluation_data", "limit", "judged"),
    ),
    "evaluate": ("tasks", "evaluation_data", "limit", "judged"),
}
"""What only these stages and later ones read: until they were run, it may still change."""
STAGES = ("adapt", "text", "law", "prune", "distil", "upcycle", "instruct", "evaluate", "report")
"""In this order; each but text is a command of its own too: vocabulary and train, gap, prune, and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """What becomes of the teacher before anything is cut out of it, on the teachers' split alone."""

    pieces: int | None = None
    """Adapt the teacher first: so many new pieces for its vocabulary, learnt on text that no student reads."""
    keep: int | None = None
    """Or so many tokens of it that stay, those which that text uses most."""
    tokens: int = 0
    """Train the teacher further on that text, after its vocabulary was changed or as it is."""
    lr: float = 1e-4
    """A tenth of what the arms try: these weights are no cut. A choice; nothing here has measured it."""

    @property
    def changes_vocabulary(self) -> bool:
        """Whether tokenizer, embedding and head become others."""
        return self.pieces is not None or self.keep is not None

    def check(self, batch_tokens: int) -> None:
        """Refuse what cannot be meant; ConfigError: naming the setting."""
        if self.pieces is not None and self.keep is not None:
            raise ConfigError(
                f"--pieces {self.pieces:,} and --trim {self.keep:,}: a vocabulary grows or shrinks; give one of them"
            )
        for option, given in {"pieces": self.pieces, "trim": self.keep}.items():
            if given is not None and given < 1:
                raise ConfigError(f"--{option} {given}: at least one piece")
        if self.tokens and self.tokens < batch_tokens:
            raise ConfigError(f"--adapt-tokens {self.tokens:,}: 0, or at least one batch of {batch_tokens:,} tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What becomes of the best arm: a mixture of experts, trained on with the same teacher."""

    experts: tuple[int, ...]
    tokens: int
    bottom: float = 0.25
    """Share of the layers that has the first of two numbers of experts (models/upcycle.py)."""

    def check(self, batch_tokens: int) -> None:
        """Refuse what cannot be meant; ConfigError: naming the setting."""
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
    """Non-embedding parameters of the student; without it and --keep the law of capacity gap says."""
    keep: float | None = None
    """Share of the teacher's non-embedding parameters instead, e.g. 0.4."""
    law: str | None = None
    """Law of capacity gap that gives the size: a published name, or the file of `distillaw fit --law capacity-gap --arm
    pruned --out`; by default the teacher over 2.5."""
    steps: int = 1
    """Cuts, with distillation between them; more than one for cuts of more than half."""
    smaller: str = ""
    """A smaller model that was trained before, as one more start."""
    importance: str = "gradient"
    """What ranks units for the cut."""
    calibration_tokens: int = 64_000
    """Tokens of calibration text."""
    rates: tuple[float, ...] = (1e-3,)
    batch_tokens: int = 1024
    training: Recipe = field(default_factory=Recipe)
    alone: bool = True
    chats: Path | None = None
    """Conversations to fine-tune on; without them the teacher answers the prompts."""
    prompts: str = "general"
    """Questions for the teacher: a file, or `general`, which ships with the package."""
    template: str | None = None
    """Chat template of a teacher that has none: a name or a .jinja file."""
    answer_tokens: int = 128
    """Longest answer of the teacher."""
    sft_lr: float = 1e-4
    sft_epochs: int = 3
    pairs: Path | None = None
    """Preferences for DPO after fine-tuning."""
    on_policy: float = 0.0
    """Share of answers that the chat model writes itself in a last stage, towards its teacher; 0 leaves that out."""
    judged: tuple[ChatWishes, ...] = ()
    """Chat questions that the chat model answers beside the teacher's answers, and who judges."""
    tasks: tuple[str, ...] = ()
    """Benchmarks, e.g. lambada_openai,openbookqa."""
    evaluation_data: Path | None = None
    """Folder of their files."""
    limit: int | None = None
    """Questions of each benchmark at most."""
    teacher_tokens: float = 0.0
    """Tokens the teacher was trained on, e.g. 2T, for the axis of compute; 0: not known."""
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
        return (2 + bool(self.smaller)) * (1 + self.alone)

    @property
    def trained_tokens(self) -> int:
        """Of all runs together, a cascade's in between among them."""
        return sum(row["arms"] * row["tokens"] for row in trained_stages(self))

    def check(self) -> None:
        """Refuse what cannot be meant; ConfigError: naming the setting."""
        if self.params is not None and self.keep is not None:
            raise ConfigError("--student and --keep say the same thing twice; give one of them")
        if self.law is not None and (self.params is not None or self.keep is not None):
            raise ConfigError("--law gives the student's size, and so do --student and --keep; give one of them")
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
            raise ConfigError(f"--answer-tokens {self.answer_tokens}, --limit {self.limit}: both are at least 1")
        if self.seed < 0 or not 0 <= self.on_policy <= 1:
            raise ConfigError(
                f"--seed {self.seed}, --on-policy {self.on_policy}: at least 0, and a share of the answers, 0 to 1"
            )
        if self.tasks and self.evaluation_data is None:
            raise ConfigError(
                f"--tasks {','.join(self.tasks)} needs --evaluation-data, the folder of their files; `distillaw "
                "evaluate --help` says where they come from"
            )
        for what in (self.chats, self.pairs, self.evaluation_data):
            if what is not None and not what.exists():
                raise ConfigError(f"{what}: no such file or folder")


def trained_stages(spec: MinimaSpec) -> Iterator[dict[str, Any]]:
    """The stages that train, in their order: how many runs side by side, and the tokens of each."""
    if spec.adapt is not None and spec.adapt.tokens:
        yield {"stage": "adapt", "arms": 1, "tokens": spec.adapt.tokens}
    for _ in range(spec.steps - 1):
        yield {"stage": "prune", "arms": 1, "tokens": spec.tokens}
    yield {"stage": "distil", "arms": spec.num_arms, "tokens": spec.tokens}
    if spec.upcycle is not None:
        yield {"stage": "upcycle", "arms": 1, "tokens": spec.upcycle.tokens}
