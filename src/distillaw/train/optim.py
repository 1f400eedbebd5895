"""AdamW with the learning-rate groups of the "simple" muP.

The tuned number is the peak rate of a model of width 64. Hidden matrices and the head get it times
64 / width, embeddings and norm gains get it as it is (Wortsman et al. 2023, arXiv 2309.14322, section 3.2.3,
after Yang et al. 2022). So one rate serves a family; docs/mup.md shows how far. The study tunes it at both ends all
the same. A model from disk was not made for that rule: all its weights get the rate as it is.
"""

from typing import TYPE_CHECKING

import torch

from distillaw.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BASE_WIDTH = 64
BETAS = (0.9, 0.95)
EPS = 1e-8


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
        betas: moment decays of AdamW.
        eps: its epsilon.

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
        hidden = (
            parameter.dim() >= 2 and parameter is not embedding
        )  # experts lie in one tensor of three axes
        (matrices if hidden else others).append(parameter)
    groups = [
        {
            "params": matrices,
            "lr_scale": 1.0 if width is None else BASE_WIDTH / width,
            "weight_decay": weight_decay,
        },
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
                "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter),
            }  # fmt: skip


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate to `rate` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
