"""What a recipe is asked for. Torch-free."""

from dataclasses import dataclass, field
from pathlib import Path

from distillaw.data.prepare import DataSpec
from distillaw.errors import ConfigError
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
