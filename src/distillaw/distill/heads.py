"""What the loss is given of student and teacher: output layers, stored targets, a teacher without its tail.

    logits = softcap(scale * (hidden @ weight.T + bias)),   softcap(x) = cap * tanh(x / cap)

covers Llama and Qwen (plain), Gemma 2 (`final_logit_softcapping`), Cohere (`logit_scale`) and Granite
(`1 / logits_scaling`). Stored targets are a few tokens per position with their weights, instead of a distribution, of
two kinds told apart by `residual`:

* importance-sampled (residual None): weights are unbiased estimates of the teacher's probabilities, which sum
  to 1 only on average. E[weights] = p, so the loss and its gradient are unbiased (arXiv 2503.16870).
* top-k or top-p with residual mass: weights are exact probabilities and `residual` the mass outside `ids`,
  which the student must match in total ("ghost token"); nothing is said on how it is spread.

Truncation keeps the k likeliest tokens (`top_k`), or the fewest of the likeliest whose mass is at least p (`top_p`, the
nucleus of Holtzman et al. 2019, arXiv 1904.09751); together, the fewest of the k likeliest that hold mass p, or all k.
What is left is divided by its mass: its fixed point is the truncated distribution, over-confident by 1 / mass
(docs/targets.md), which is what a study of truncation wants to see.
Shape suffixes: B sequence, T position, N or P token, K kept token, V vocabulary, H width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from distillaw.errors import ConfigError, DataError


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
            raise ConfigError(f"head: scale {self.scale} must not be 0 and softcap {self.softcap} must be above 0")

    def trimmed(self, vocab_size: int, dtype: torch.dtype) -> "Head":
        """The same head over the first `vocab_size` tokens, in another dtype; no copy where none is needed."""
        bias = None if self.bias is None else self.bias.detach()[:vocab_size].to(dtype)
        return Head(self.weight.detach()[:vocab_size].to(dtype), bias, self.scale, self.softcap)

    def to(self, device: torch.device) -> "Head":
        """The same head elsewhere."""
        bias = None if self.bias is None else self.bias.to(device)
        return Head(self.weight.to(device), bias, self.scale, self.softcap)

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparseTargets:
    """Teacher targets of one batch at one temperature. Ids of used slots are distinct within a position.

    Raises:
        DataError: shapes or types do not fit together.
    """

    ids: torch.Tensor
    """Token ids, (B, T, K), int64."""
    weights: torch.Tensor
    """Probability, or its unbiased estimate, of each token, (B, T, K), float32; 0 marks an unused slot."""
    residual: torch.Tensor | None = None
    """Teacher mass outside `ids`, (B, T), float32; None for importance-sampled targets."""
    entropy: torch.Tensor | None = None
    """The teacher's own entropy in nats, (B, T), float32: turns the cross-entropy of sampled targets into a KL."""
    temperature: float = 1.0
    """The temperature at which the teacher was recorded."""

    def __post_init__(self):
        shape = self.ids.shape
        if self.weights.shape != shape or not self.weights.is_floating_point() or self.ids.dtype != torch.int64:
            raise DataError(
                f"targets: ids {tuple(shape)} {self.ids.dtype} and weights {tuple(self.weights.shape)} "
                f"{self.weights.dtype} must be of one shape (..., kept), int64 and floating"
            )
        for name, value in (("residual", self.residual), ("entropy", self.entropy)):
            if value is not None and value.shape != shape[:-1]:
                raise DataError(f"targets: {name} {tuple(value.shape)} must be {tuple(shape[:-1])}, one per position")
        if not self.temperature > 0:
            raise DataError(f"targets: temperature {self.temperature} must be above 0")

    def rows(self, keep_N: torch.Tensor | None) -> "SparseTargets":
        """The same targets flattened to one position per row, only rows `keep_N` (indices) if given."""
        leading = self.ids.dim() - 1

        def flat(value: torch.Tensor) -> torch.Tensor:
            value = value.reshape(-1, *value.shape[leading:])
            return value if keep_N is None else value[keep_N]

        return self._each(flat)

    def to(self, device: torch.device) -> "SparseTargets":
        """The same targets on another device."""
        return self if self.ids.device == device else self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "SparseTargets":
        tensors = {name: getattr(self, name) for name in ("ids", "weights", "residual", "entropy")}
        return replace(self, **{name: None if each is None else change(each) for name, each in tensors.items()})


def keep_top(probs_PV: torch.Tensor, k: int, p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most likely ids of each row, (P, K), and which of them are kept: the fewest that hold mass p; all for 1."""
    values_PK, ids_PK = probs_PV.topk(min(k, probs_PV.shape[1]), dim=-1)
    before_PK = values_PK.cumsum(dim=-1, dtype=torch.float64) - values_PK
    return ids_PK, (before_PK < p) | (p == 1)


def truncate_(logits_NV: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Mask all but the kept tokens, in place; a softmax of the result renormalises. Returns it.

    Args:
        logits_NV: the teacher's, over the temperature already.
        top_k: 0 keeps all.
        top_p: 1 keeps all.
    """
    ids_NK, kept_NK = keep_top(logits_NV.softmax(-1), top_k or logits_NV.shape[1], top_p)
    kept_logits_NK = logits_NV.gather(1, ids_NK).masked_fill_(~kept_NK, LOWEST_LOGIT)
    return logits_NV.fill_(LOWEST_LOGIT).scatter_(1, ids_NK, kept_logits_NK)
