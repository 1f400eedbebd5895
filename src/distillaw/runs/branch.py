"""What one branch of a checkpoint is, completely: a frozen record whose hash names its folder.

    branches/<trunk_id>-at<step>/            state/ fork.json heldout.parquet: the checkpoint and its own loss
    branches/<trunk_id>-at<step>/<name>/     branch.json metrics.jsonl steps.jsonl heldout.parquet result.json

A branch goes on from a trunk's weights, optimiser state and place in the text, at a batch and a rate of its own, for
one window of tokens. `result.json` is written last: a branch that has it is finished and never done again.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from distillaw.runs.files import content_hash
from distillaw.runs.spec import TrunkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A step of a trunk that is branched at."""

    trunk: TrunkSpec
    step: int

    @property
    def tokens(self) -> int:
        """Tokens read before it."""
        return self.step * self.trunk.batch_tokens

    def folder(self, study: Path) -> Path:
        """Where its checkpoint and its branches lie."""
        return study / "branches" / f"{self.trunk.trunk_id}-at{self.step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One way on from a fork."""

    fork: Fork
    spec: TrunkSpec
    """The trunk with the branch's batch, rules and loss."""
    window: int
    """Tokens, whole batches."""
    anneal: float = 0.0
    """Share of the window over which the rate decays; 0 keeps it."""
    order: int = 0
    """Order of the text after the fork; 0 is the trunk's own."""

    @property
    def multiple(self) -> float:
        """k: its batch over the trunk's."""
        return self.spec.batch_tokens / self.fork.trunk.batch_tokens

    @property
    def steps(self) -> int:
        """Optimiser steps of the window."""
        return self.window // self.spec.batch_tokens

    @property
    def name(self) -> str:
        """Readable name plus the hash of everything that determines its weights."""
        identity = [
            self.fork.trunk.trunk_id,
            self.fork.step,
            self.spec.trunk_id,
            self.window,
            self.anneal,
            self.order,
        ]
        return f"{self.spec.arm}-x{self.multiple:g}-order{self.order}-{content_hash(identity, digits=8)}"

    def folder(self, study: Path) -> Path:
        """Where it lies."""
        return self.fork.folder(study) / self.name

    def record(self) -> dict[str, object]:
        """What branch.json holds."""
        return {"name": self.name, "trunk": self.fork.trunk.trunk_id, "step": self.fork.step, "window": self.window,
                "anneal": self.anneal, "order": self.order, "spec": asdict(self.spec)}  # fmt: skip
