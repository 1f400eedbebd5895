"""The exact distribution of a world, or a worsened one, as a teacher like any other; and the one door to all teachers.

An oracle has no hidden states and no head, so it gives log-probabilities as logits. It runs in numpy on the CPU.
Shape suffixes: B sequence, T position, V vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from distillaw.data.shards import TokenStore
from distillaw.data.synthetic import world_of
from distillaw.distill.heads import LOWEST_LOGIT
from distillaw.models.source import ModelSource
from distillaw.models.teacher import Teacher, load_teacher
from distillaw.worlds.oracle import Oracle, find_oracle, is_oracle, oracle_hash, parse_oracle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleTeacher:
    """An oracle with what training, stores and scores ask of a teacher."""

    name: str
    """As the user gave it, e.g. `oracle:window=3`."""
    oracle: Oracle
    fingerprint: str
    """Hash of world and settings."""
    device: torch.device
    dtype: torch.dtype = torch.float32
    head: None = None
    params: None = None
    """It has none."""
    total_params: None = None

    @property
    def settings(self) -> str:
        """Its settings, those that meet a wanted loss included."""
        return self.oracle.spec.name

    @property
    def vocab_size(self) -> int:
        """V: words and the end of text."""
        return self.oracle.world.vocab

    def logits(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the next token, float32, shape (B, T, V)."""
        probs_BTV = self.oracle.probs(input_ids_BT.cpu().numpy())
        with np.errstate(divide="ignore"):
            logits_BTV = np.log(probs_BTV, out=probs_BTV)
        np.maximum(logits_BTV, LOWEST_LOGIT, out=logits_BTV)
        return torch.from_numpy(logits_BTV.astype(np.float32)).to(self.device)

    def flops_per_token(self, context: int) -> float:
        """Operations of its filter, per token."""
        return self.oracle.flops_per_token


AnyTeacher = Teacher | OracleTeacher


def load_any_teacher(
    name: str | Path | ModelSource,
    store: TokenStore,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    context: int,
    device: str | torch.device = "cpu",
) -> AnyTeacher:
    """The teacher of a name: an oracle of the text's world, or a model (`load_teacher`).

    Args:
        name: `oracle`, `oracle:...` (worlds/oracle.py), or whatever `load_teacher` takes.
        store: the text that it is to teach.
        tokenizer: the text's.
        context: longest sequence it will be shown, tokens; a wanted loss is that of windows of this length.
        device: where it runs, or where what it says is wanted.

    Raises:
        ConfigError: an oracle for a text that is no world's, or one that cannot be; otherwise as `load_teacher`.
    """
    if not (isinstance(name, str) and is_oracle(name)):
        return load_teacher(name, tokenizer, context=context, device=device)
    world, spec = world_of(store), parse_oracle(name)
    return OracleTeacher(
        name=name,
        oracle=find_oracle(world, spec, context),
        fingerprint=oracle_hash(world, spec, context),
        device=torch.device(device),
    )
