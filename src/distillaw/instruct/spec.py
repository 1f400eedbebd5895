"""What a fine-tuning run is: its settings, and the hash that tells it from another.

Defaults are those of the reference recipe (MiniChat, github.com/GeneZC/MiniMA, commit 4842dc0: 3 epochs, cosine, 10 %
warm-up, AdamW with betas 0.9 and 0.95, decay 0.1, clip 1.0, patience 2; LoRA r = 8, alpha = 16, dropout 0.05) but for
batch and length, which are those of small data; of preferences: DPO's usual ones (arXiv 2305.18290). Torch-free.
"""

import math
from dataclasses import asdict, dataclass
from typing import Literal

from distillaw.errors import ConfigError
from distillaw.runs.files import content_hash

BETAS = (0.9, 0.95)
CLIP = 1.0
"""Of AdamW and of the gradient's norm: Brown et al. 2020 (arXiv 2005.14165), appendix B."""
LORA_ALPHA_PER_RANK, LORA_DROPOUT = 2, 0.05
"""Twice the rank is a habit of the field, the dropout that of QLoRA's larger models (arXiv 2305.14314, appendix B);
nothing here has measured either."""
LARGEST_MICRO_BATCH = 8
"""Of a forward pass unless said otherwise: a choice for memory, the gradient of a step does not depend on it."""
_PASSING = ("model", "data", "template", "teacher", "checkpoint_seconds", "checkpoint_activations")
"""Fields that do not change what is learnt: weights and texts count, not where they lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSpec:
    """What both stages have in common."""

    model: str
    """Hugging Face folder, FOLDER/FILE.gguf, or name on the hub."""
    data: str
    """Conversations or pairs, .jsonl."""
    template: str | None = None
    """chatml, llama3, minichat, zephyr or a .jinja file; by default the model's own."""
    lr: float
    """Peak learning rate; warm-up, then cosine to zero."""
    epochs: int
    """Passes over the data, at most."""
    batch: int
    """Examples (packed: rows) of a step."""
    micro_batch: int | None = None
    """Of one forward pass; by default the largest divisor of the batch up to 8."""
    max_tokens: int | None = None
    """Longest example; by default 1024, or the model's context if that is shorter. Chats lose trailing turns."""
    precision: Literal["fp32", "bf16"] | None = None
    """Of matrix products: by default fp32 on CPUs, bf16 on GPUs."""
    checkpoint_activations: bool = False
    """Compute activations a second time in the backward pass instead of keeping them."""
    lora: int = 0
    """Rank of adapters on every linear layer but the head, merged at the end; 0 trains all weights."""
    warmup: float = 0.1
    """Share of the steps."""
    weight_decay: float = 0.1
    """Of matrices; none on norms and biases."""
    validation: float = 0.05
    """Share of openings that is held out."""
    seed: int = 0
    """Of the order, the adapters and the noise."""
    checkpoint_seconds: float = 300.0
    """Between checkpoints; there is one after every epoch besides."""

    def check(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            ConfigError: naming the setting, its value and what it may be.
        """
        positive = {
            "lr": self.lr,
            "epochs": self.epochs,
            "batch": self.batch,
            "micro_batch": self.micro_batch or 1,
            "max_tokens": 2 if self.max_tokens is None else self.max_tokens,
            "checkpoint_seconds": self.checkpoint_seconds,
        }
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} = {value}: must be positive")
        for name, share in {"warmup": self.warmup, "validation": self.validation}.items():
            if not 0 <= share < 1:
                raise ConfigError(f"{name} = {share}: a share, at least 0 and below 1")
        if self.batch % self.rows_at_once():
            raise ConfigError(f"batch = {self.batch} is no multiple of micro_batch = {self.micro_batch}")
        if self.lora < 0 or self.weight_decay < 0 or self.seed < 0:
            raise ConfigError("lora, weight_decay and seed are at least 0")

    def rows_at_once(self, processes: int = 1) -> int:
        """Rows of one forward pass of each process.

        Raises:
            ConfigError: so many processes cannot share a batch evenly.
        """
        share = self.batch // processes
        at_once = self.micro_batch or next(
            size for size in range(min(LARGEST_MICRO_BATCH, max(1, share)), 0, -1) if not share % size
        )
        if processes > 1 and self.batch % (at_once * processes):
            raise ConfigError(
                f"batch = {self.batch}: {processes} processes cannot share it evenly in forward passes of {at_once}; "
                f"give --batch a multiple of {at_once * processes}"
            )
        return at_once

    def identity(self, **inputs: str) -> str:
        """Hash of the settings and of what they are applied to (weights, data, template), 16 hex digits."""
        settings = {key: value for key, value in asdict(self).items() if key not in _PASSING}
        if self.precision is None:  # as before there was a choice
            del settings["precision"]
        return content_hash({"kind": type(self).__name__, **settings, **inputs}, digits=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class SftSpec(TuneSpec):
    """Supervised fine-tuning on conversations."""

    lr: float = 2e-5
    epochs: int = 3
    batch: int = 16
    patience: int = 2
    """Stop after so many epochs without a lower held-out loss; the best epoch is kept in any case."""
    neftune: float = 0.0
    """alpha of NEFTune, usually 5: uniform noise of +-1 times alpha / sqrt(L d) on embeddings (arXiv 2310.05914)."""
    packing: bool = False
    """Several conversations in a row of `max_tokens`, blind to each other."""
    keep_truncated: bool = False
    """Learn generated answers that were cut off at their limit."""

    def check(self) -> None:
        """As of every run; besides, patience and noise."""
        TuneSpec.check(self)
        if self.patience < 1 or not (math.isfinite(self.neftune) and self.neftune >= 0):
            raise ConfigError("patience is at least 1, neftune at least 0 (5 is usual)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoSpec(TuneSpec):
    """Direct preference optimisation on pairs of answers; the reference is the model at the start."""

    lr: float = 5e-7
    epochs: int = 1
    batch: int = 16
    validation: float = 0.1
    beta: float = 0.1
    """How far the model may leave its reference, small is far: b of
    -log sigmoid(b [ln(pi/pi_ref)(chosen) - ln(pi/pi_ref)(rejected)])."""

    def check(self) -> None:
        """As of every run; besides, beta."""
        TuneSpec.check(self)
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError(f"beta = {self.beta}: must be positive (0.1 is usual)")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPolicySpec(TuneSpec):
    """Distillation on the student's own answers (GKD, arXiv 2306.13649)."""

    teacher: str = ""
    """Hugging Face folder, FOLDER/FILE.gguf, or name on the hub; of the student's tokenizer, reading its template."""
    lr: float = 2e-5
    epochs: int = 1
    batch: int = 16
    on_policy: float = 1.0
    """Share of answers that the student writes anew at every step; the others are those of the data."""
    divergence: Literal["forward-kl", "reverse-kl", "jsd"] = "reverse-kl"
    """From the teacher, of every position's whole distribution."""
    beta: float = 0.5
    """Of jsd: 0 tends to the forward KL, 1 to the reverse one."""
    max_new_tokens: int = 128
    """Longest answer that the student writes; those that meet it are learnt as they are, and counted."""
    temperature: float = 1.0
    """At which the student writes."""

    def check(self) -> None:
        """As of every run; besides, the teacher, shares and how answers are drawn."""
        TuneSpec.check(self)
        if not self.teacher:
            raise ConfigError("on-policy distillation needs a teacher: --teacher FOLDER, of the student's tokenizer")
        for name, share in {"on_policy": self.on_policy, "beta": self.beta}.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} = {share}: a share, 0 to 1")
        if self.max_new_tokens < 1 or not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"max_new_tokens = {self.max_new_tokens}, temperature = {self.temperature}: at least 1, and above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn."""

    max_new_tokens: int = 256
    """Longest answer; those that meet it are marked and not learnt."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_p: float = 1.0
    """Share of probability that is sampled from."""
    seed: int = 0
    """Of sampling."""
    batch: int = 8
    """Prompts answered at once."""

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: naming the setting.
        """
        if self.max_new_tokens < 1 or self.batch < 1 or self.seed < 0:
            raise ConfigError("max_new_tokens and batch are at least 1, seed at least 0")
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"temperature = {self.temperature} must be at least 0, top_p = {self.top_p} above 0 and at most 1"
            )

    @property
    def decisive(self) -> dict[str, object]:
        """The settings that change an answer; of greedy ones, batch and seed do not."""
        settings = asdict(self)
        return settings if self.temperature else {"max_new_tokens": self.max_new_tokens, "temperature": 0.0}
