"""How a mixture of experts shares a text out: which experts are used, and what a limit on them would drop.

A mixture here drops no token. Systems that give each expert room for capacity x tokens / experts do (Switch, arXiv
2101.03961, equation 3): the shares above that room are reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from distillaw.errors import ConfigError
from distillaw.evaluate.windows import window_batches
from distillaw.models.parts import hidden_states
from distillaw.models.routing import Routers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CAPACITIES = (1.0, 1.25, 2.0)


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
            shares=tuple((n_E / total).tolist()), balance=float(len(n_E) * (n_E / total * p_E / tokens).sum()),
            dropped={f"{c:g}": float(x / total) for c, x in zip(CAPACITIES, over, strict=True)},
        )
        for n_E, p_E, over, total in zip(used, probable, above, chosen, strict=True)
    ]  # fmt: skip
