"""The routers of a mixture of experts: losses that keep experts busy, a gradient from the text, use on a text.

    balance  E sum_e f_e P_e    f_e: share of tokens sent to expert e, P_e: mean probability of it; 1 if balanced
    z        mean (log sum exp z)^2

summed over layers (Switch, arXiv 2101.03961, equations 4 to 6; z-loss: ST-MoE, arXiv 2202.08906, equation 5).

A router that sends each token to one expert has no gradient from the text where weights are normalised over the
chosen ones, since p / p = 1. Weighting by p itself, as Switch does, has one but shrinks what a dense model's copy says
by p. So the forward pass has p / p and the backward pass the gradient of log p: the weight is p / stop_gradient(p),
which is 1. A mixture here drops no token; what systems that give each expert room for capacity x tokens / experts
would drop (Switch, equation 3) is reported.
Shape suffixes: N token, E expert, K chosen experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from distillaw.errors import ConfigError
from distillaw.models.scoring import window_batches
from distillaw.models.teacher import hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MIXTURES = ("mixtral", "pyramid_mixtral")
"""Model types whose routers are known here."""
Z_KEY = "router_z_loss_coef"


def balance_loss(logits_NE: torch.Tensor, chosen_NK: torch.Tensor) -> torch.Tensor:
    """Switch's load balancing loss of one layer without its weight: 1 if balanced, at most E.

    Args:
        logits_NE: of the router.
        chosen_NK: experts that each token visits; their shares have no gradient.
    """
    experts = logits_NE.shape[-1]
    shares_E = torch.bincount(chosen_NK.flatten(), minlength=experts) / chosen_NK.numel()
    return experts * (shares_E * functional.softmax(logits_NE.float(), dim=-1).mean(0)).sum()


def router_z_loss(logits_NE: torch.Tensor) -> torch.Tensor:
    """Mean square of the log-partition of a router's logits."""
    return logits_NE.float().logsumexp(-1).square().mean()


@dataclass(frozen=True, slots=True)
class Routing:
    """What one router said of the last tokens."""

    logits: torch.Tensor
    """Shape (N, E)."""
    chosen: torch.Tensor
    """Experts visited, shape (N, K)."""


class Routers:
    """The routers of a model, watched: what they said in the last forward pass, by layer."""

    def __init__(self, model: "PreTrainedModel") -> None:
        from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

        self._said: dict[int, Routing] = {}
        self._balance = float(model.config.router_aux_loss_coef)
        self._z = float(vars(model.config).get(Z_KEY, 0.0))
        gates = [module for module in model.modules() if isinstance(module, MixtralTopKRouter)]
        self._handles = [gate.register_forward_hook(self._listen(i)) for i, gate in enumerate(gates)]

    @classmethod
    def of(cls, model: "PreTrainedModel") -> "Routers | None":
        """Those of a mixture; None of a dense model."""
        return cls(model) if model.config.model_type in MIXTURES else None

    @property
    def said(self) -> list[Routing]:
        """By layer, of the last forward pass."""
        return [self._said[i] for i in sorted(self._said)]

    def loss(self) -> torch.Tensor:
        """Weighted losses of the last forward pass, summed over layers.

        The weights are those of the model's configuration: `router_aux_loss_coef` and `router_z_loss_coef`.
        """
        terms = [self._balance * balance_loss(one.logits, one.chosen) for one in self.said]
        if self._z:
            terms += [self._z * router_z_loss(one.logits) for one in self.said]
        return torch.stack(terms).sum()

    def release(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _listen(self, layer: int):
        def hook(gate, args, output):
            logits_NE, weights_NK, chosen_NK = output
            self._said[layer] = Routing(logits_NE, chosen_NK)
            if not gate.training or chosen_NK.shape[-1] > 1:
                return None
            p_NK = functional.softmax(logits_NE.float(), dim=-1).gather(-1, chosen_NK)
            return logits_NE, (p_NK / p_NK.detach()).to(weights_NK.dtype), chosen_NK

        return hook


CAPACITIES = (1.0, 1.25, 2.0)
"""Capacity factors that Switch compares (arXiv 2101.03961, table 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerUse:
    """One layer's router on a text."""

    shares: tuple[float, ...]
    """Of the tokens, by expert; they sum to 1."""
    balance: float
    """E sum f P over the whole text: 1 if balanced, E if one expert gets all."""
    dropped: dict[str, float]
    """Share of tokens above each capacity factor's room, batch by batch."""


@torch.no_grad()
def measure_routing(
    model: "PreTrainedModel", documents: Sequence[np.ndarray], *, context: int
) -> list[LayerUse]:
    """Follow every token of some documents through the routers.

    Args:
        model: a mixture, in eval mode.
        documents: token ids, as `window_batches` takes them.
        context: tokens of a window.

    Raises:
        ConfigError: a dense model.
    """
    routers = Routers.of(model)
    if routers is None:
        raise ConfigError(f"a model of the kind {model.config.model_type} has no routers that are known here")
    used, probable, above, tokens = [], [], [], 0
    try:
        for batch in window_batches(documents, context=context, stride=context):
            hidden_states(model, batch.inputs.to(model.device))
            real = (batch.labels != -100).flatten().to(model.device)
            for i, one in enumerate(routers.said):
                p_E = one.logits[real].float().softmax(-1).double().sum(0)
                n_E = torch.bincount(one.chosen[real].flatten(), minlength=len(p_E)).double()
                room = n_E.sum() / len(n_E)
                over = torch.stack([(n_E - c * room).clamp_min(0).sum() for c in CAPACITIES])
                if tokens == 0:
                    used.append(n_E), probable.append(p_E), above.append(over)
                else:
                    used[i], probable[i], above[i] = used[i] + n_E, probable[i] + p_E, above[i] + over
            tokens += int(real.sum())
    finally:
        routers.release()
    chosen = [float(n_E.sum()) for n_E in used]
    return [
        LayerUse(
            shares=tuple((n_E / total).tolist()),
            balance=float(len(n_E) * (n_E / total * p_E / tokens).sum()),
            dropped={f"{c:g}": float(x / total) for c, x in zip(CAPACITIES, over, strict=True)},
        )
        for n_E, p_E, over, total in zip(used, probable, above, chosen, strict=True)
    ]
