"""From hidden states to logits: what the loss needs to know of an output layer.

    logits = softcap(scale * (hidden @ weight.T + bias)),   softcap(x) = cap * tanh(x / cap)

That covers Llama and Qwen (plain), Gemma 2 (`final_logit_softcapping`), Cohere (`logit_scale`) and Granite
(`1 / logits_scaling`). Shape suffixes: N token, V vocabulary, H width.
"""

from dataclasses import dataclass

import torch

from distillaw.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """An output layer: weight (V, H), bias (V,) or None, logit scale, logit soft cap."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    """Factor on the logits, before the cap."""
    softcap: float | None = None
    """Largest absolute logit, reached smoothly; None for no cap."""

    def __post_init__(self):
        if self.weight.dim() != 2 or (self.bias is not None and self.bias.shape != self.weight.shape[:1]):
            raise ConfigError(
                f"head: weight {tuple(self.weight.shape)} and bias "
                f"{None if self.bias is None else tuple(self.bias.shape)} must be (vocabulary, width) and (vocabulary,)"
            )
        if self.scale == 0 or (self.softcap is not None and self.softcap <= 0):
            raise ConfigError(
                f"head: scale {self.scale} must not be 0 and softcap {self.softcap} must be above 0"
            )

    def trimmed(self, vocab_size: int, dtype: torch.dtype) -> "Head":
        """The same head over the first `vocab_size` tokens, in another dtype; no copy where none is needed."""
        bias = None if self.bias is None else self.bias.detach()[:vocab_size].to(dtype)
        return Head(self.weight.detach()[:vocab_size].to(dtype), bias, self.scale, self.softcap)

    def logits_into(self, hidden_NH: torch.Tensor, out_NV: torch.Tensor) -> torch.Tensor:
        """Logits of a chunk, written to `out_NV`, which may be of a wider dtype than the head; returns it."""
        if out_NV.dtype == self.weight.dtype:
            torch.mm(hidden_NH, self.weight.t(), out=out_NV)
        else:
            out_NV.copy_(hidden_NH @ self.weight.t())
        if self.bias is not None:
            # A bias of -inf masks a token; a finite stand-in keeps 0 * log 0 = 0 in the divergences.
            out_NV.add_(self.bias).clamp_(min=LOWEST_LOGIT)
        if self.scale != 1:
            out_NV.mul_(self.scale)
        if self.softcap is not None:
            out_NV.div_(self.softcap).tanh_().mul_(self.softcap)
        return out_NV

    def slope(self, logits_NV: torch.Tensor) -> torch.Tensor | None:
        """Derivative of the logits by what the soft cap was applied to; None where it is 1."""
        if self.softcap is None:
            return None
        return torch.square(logits_NV / self.softcap).neg_().add_(1)


LOWEST_LOGIT = -1e30
"""Stands for -inf: its probability is exactly 0, and 0 times its logarithm is 0 instead of NaN."""


def as_head(head: "torch.nn.Linear | torch.Tensor | Head") -> Head:
    """Any accepted form of an output layer as a `Head`.

    Raises:
        ConfigError: neither a linear layer, nor a weight, nor a `Head`.
    """
    if isinstance(head, Head):
        return head
    if isinstance(head, torch.nn.Linear):
        return Head(head.weight, head.bias)
    if isinstance(head, torch.Tensor):
        return Head(head)
    raise ConfigError(
        f"head: got a {type(head).__name__}; pass a torch.nn.Linear, a weight (vocabulary, width) or a distillaw Head"
    )
