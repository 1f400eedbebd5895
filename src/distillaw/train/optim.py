"""AdamW with the learning-rate groups of the "simple" muP, and the rate over a run: warm-up, trunk, cooldown branches.

The tuned number is the peak rate of a model of width 64. Hidden matrices and the head get it times 64 / width,
embeddings and norm gains get it as it is (Wortsman et al. 2023, arXiv 2309.14322, section 3.2.3, after Yang et al.
2022). So one rate serves a family; docs/mup.md shows how far. The study tunes it at both ends all the same. A model
from disk was not made for that rule: all its weights get the rate as it is.

One trunk serves every token budget (WSD): a run to D tokens follows it to (1 - c) D and decays over the last c D
tokens, so k budgets cost (1 - c) D_max + c sum D_i instead of sum D_i (parity with cosine is reported by arXiv
2404.06395 and 2405.18392). With c = 1 the trunk is empty and every budget decays from its start: with the cosine shape
that is the cosine schedule. The trunk keeps its rate, or lets it fall as a power of the tokens read, so that each
budget is cooled from a rate that suits its own length: the best rate of a longer run is lower (docs/rates.md). All
positions are in optimiser steps.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from distillaw.errors import ConfigError
from distillaw.large_batch.rules import Settings, scale_settings
from distillaw.runs.spec import BatchPlan, TrunkSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSchedule:
    """The rate as a multiple of the peak, for one branch."""

    warmup_steps: int
    branch_step: int
    """Step at which the cooldown begins; the trunk itself never decays."""
    total_steps: int
    decay: str = "linear"
    """Shape of the cooldown: a key of `DECAYS`."""
    final_ratio: float = 0.01
    """Rate at the last step over the peak."""
    power: float = 0.0
    """From `power_step` on the trunk's rate falls as a power of the text read."""
    power_step: int = 0
    batches: BatchPlan = field(default=BatchPlan(1))
    """What the steps read: the rate follows the text, which is the steps where the batch is always the same."""

    def factor(self, step: int) -> float:
        """Multiple of the peak rate used by step `step` (0-based)."""
        read = self.batches.read
        now = read(step + 1)
        trunk = min(1.0, now / read(self.warmup_steps)) if self.warmup_steps else 1.0
        if self.power and step >= self.power_step:
            trunk *= (now / max(1, read(self.power_step))) ** -self.power
        if step < self.branch_step:
            return trunk
        begun = read(self.branch_step)
        progress = (now - begun) / (read(self.total_steps) - begun)
        return trunk * (self.final_ratio + (1 - self.final_ratio) * DECAYS[self.decay](progress))


DECAYS = {
    "linear": lambda progress: 1 - progress,
    "sqrt": lambda progress: 1 - math.sqrt(progress),  # 1-sqrt of arXiv 2405.18392, section 3
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
}
"""Cooldown shapes: share of the decay still to come, from 1 to 0, as a function of the progress through it."""


def schedule_for(
    *,
    tokens: int,
    batches: BatchPlan,
    warmup_tokens: int,
    cooldown: float,
    decay: str = "linear",
    power: float = 0.0,
    power_tokens: int = 0,
) -> RateSchedule:
    """The schedule of a run: steps are whole batches, the budget is rounded to the nearest."""
    total = max(1, batches.step(tokens / batches.tokens))
    branch = min(total - 1, batches.step(batches.read(total) * (1 - cooldown)))
    return RateSchedule(
        warmup_steps=max(1, batches.step(warmup_tokens / batches.tokens)),
        branch_step=branch,
        total_steps=total,
        decay=decay,
        power=power,
        power_step=batches.step(power_tokens / batches.tokens),
        batches=batches,
    )


BASE_WIDTH = 64
"""Width at which the rates of docs/mup.md were tuned; another one only renames the rate."""
BETAS = (0.9, 0.95)
"""Of GPT-3 (Brown et al. 2020, appendix B) and most language models since."""
EPS = 1e-8
"""Of Kingma and Ba 2015, and of PyTorch."""


def build_optimizer(
    model: "PreTrainedModel",
    *,
    width: int | None,
    weight_decay: float,
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
) -> torch.optim.AdamW:
    """AdamW whose groups carry `lr_scale`; `set_learning_rate` turns a schedule's rate into theirs.

    Args:
        model: a causal LM; with a width one of the Llama family with an untied head.
        width: its hidden size; None: one rate for all weights.
        weight_decay: decoupled decay of matrices, per step and times the learning rate.

    Raises:
        ConfigError: the head shares the embedding's weights, which cannot follow the rates of both.
    """
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    if width is not None and head is not None and embedding is head.weight:
        raise ConfigError(
            "the model ties its head to its embedding: the head's rate falls as 1/width, the embedding's does not, and "
            "one matrix cannot do both. Untie them (tie_word_embeddings = false, the head a copy of the embedding)"
        )
    matrices, others = [], []
    for parameter in model.parameters():
        hidden = parameter.dim() >= 2 and parameter is not embedding  # experts lie in one tensor of three axes
        (matrices if hidden else others).append(parameter)
    groups = [
        {"params": matrices, "lr_scale": 1.0 if width is None else BASE_WIDTH / width, "weight_decay": weight_decay},
        {"params": others, "lr_scale": 1.0, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
    fill_moments(optimizer)
    return optimizer


def fill_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give AdamW its zero moments now instead of in the first step, so that every checkpoint has one structure."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate to `rate` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def set_batch(optimizer: torch.optim.Optimizer, settings: Settings) -> None:
    """Give every group the betas, the epsilon and, where it decays, the decay of another batch."""
    for group in optimizer.param_groups:
        decay = settings.weight_decay if group["weight_decay"] else 0.0
        group.update(betas=(settings.beta1, settings.beta2), eps=settings.eps, weight_decay=decay)


def own_settings(spec: TrunkSpec, batch: int = 0) -> Settings:
    """Peak rate, decay, betas and epsilon at a batch of the run's; 0: its first.

    Raises:
        ConfigError: an unknown rule, an absurd ratio of batches, or betas that leave (0, 1).
    """
    recipe, batch = spec.recipe, batch or spec.batch_tokens
    tuned = Settings(
        batch=recipe.reference_batch_tokens or spec.batch_tokens,
        peak_lr=spec.peak_lr,
        weight_decay=recipe.weight_decay,
        beta1=BETAS[0],
        beta2=BETAS[1],
        eps=EPS,
    )
    if batch == spec.batch_tokens and not recipe.reference_batch_tokens:
        return tuned
    return scale_settings(tuned, batch=batch, rate=recipe.rate_rule, betas=recipe.beta_rule, decay=recipe.decay_rule)
