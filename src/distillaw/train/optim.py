"""AdamW with the learning-rate groups of the "simple" muP.

The tuned number is the peak rate of a model of width 64. Hidden matrices and the head get it times
64 / width, embeddings and norm gains get it as it is (Wortsman et al. 2023, arXiv 2309.14322, section 3.2.3,
after Yang et al. 2022). So one rate serves a family; the study tunes it at both ends all the same.
"""

import torch

BASE_WIDTH = 64


def build_optimizer(
    model: torch.nn.Module, *, width: int, weight_decay: float, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.AdamW:
    """AdamW whose groups carry `lr_scale`; `set_learning_rate` turns a schedule's rate into theirs.

    Args:
        model: a Llama-family causal LM with an untied head.
        width: its hidden size.
        weight_decay: decoupled decay of matrices, per step and times the learning rate.
        betas: moment decays of AdamW.
    """
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        hidden = parameter.dim() == 2 and "embed_tokens" not in name
        (matrices if hidden else others).append(parameter)
    groups = [
        {"params": matrices, "lr_scale": BASE_WIDTH / width, "weight_decay": weight_decay},
        {"params": others, "lr_scale": 1.0, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=1e-8, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate to `rate` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
