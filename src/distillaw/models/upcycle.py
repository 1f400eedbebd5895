"""A mixture of experts that begins as a dense model: every expert a copy of its layer's FFN.

    mixture = upcycle(dense, layout(24, (2, 4), bottom=0.25), generator=torch.Generator())

Each token visits one expert with weight 1, so whatever the new routers choose, the mixture says what the dense model
said (sparse upcycling, arXiv 2212.05055; its weights are normalised likewise to keep the function). Where all layers
have as many experts it is a plain Mixtral; else models/pyramid.py.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from distillaw.errors import ConfigError
from distillaw.models.cut import shape_of
from distillaw.models.routing import Z_KEY

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

BALANCE = 0.01
"""Weight of the load balancing loss (Switch, arXiv 2101.03961, section 2.2)."""
ROUTER_STD = 0.02
"""Of the new routers' weights, as arXiv 2212.05055 draws them; at 0 all tokens would go to the first expert."""


def layout(layers: int, experts: tuple[int, ...], *, bottom: float = 0.25) -> tuple[int, ...]:
    """Experts of each layer, from the bottom.

    Args:
        layers: of the model.
        experts: one number for all, or two: of the bottom layers and of the others.
        bottom: share of the layers that has the first number.

    Raises:
        ConfigError: not one or two numbers of at least 2, or a share that leaves one of them without layers.

    Source:
        MiniMix-2/4x3B, arXiv 2311.07052 (2 experts in the bottom quarter of the FFNs, 4 in the others).
    """
    if len(experts) not in (1, 2) or min(experts) < 2:
        raise ConfigError(
            f"--experts {','.join(map(str, experts))}: give one number of at least 2, or two for a pyramid, e.g. 2,4"
        )
    if len(experts) == 1 or experts[0] == experts[1]:
        return (experts[0],) * layers
    low = round(bottom * layers)
    if not 0 < low < layers:
        raise ConfigError(
            f"--pyramid {bottom:g}: of {layers} layers {low} would have {experts[0]} experts; choose a share between"
        )
    return (experts[0],) * low + (experts[1],) * (layers - low)


def mixture_config(
    dense: "PreTrainedConfig", experts: tuple[int, ...], *, balance: float = BALANCE, z_weight: float = 0.0
) -> "PreTrainedConfig":
    """The configuration of the mixture: Mixtral where all layers are alike, else a pyramid of it.

    Raises:
        ConfigError: not of the Llama family, or it has biases or windows, which Mixtral has not.
    """
    from transformers import MixtralConfig

    from distillaw.models.pyramid import PyramidMixtralConfig

    shape_of(dense, dense.name_or_path or "the model")
    if len(experts) != dense.num_hidden_layers:
        raise ConfigError(f"{len(experts)} numbers of experts for {dense.num_hidden_layers} layers")
    dropped = ("model_type", "architectures", "transformers_version", "layer_types", "pretraining_tp", "mlp_bias",
               "attention_bias", "_name_or_path", "auto_map")  # fmt: skip
    values = {key: value for key, value in dense.to_dict().items() if key not in dropped}
    values |= {"num_local_experts": max(experts), "num_experts_per_tok": 1, "router_aux_loss_coef": balance,
               "output_router_logits": False, Z_KEY: z_weight}  # fmt: skip
    if len(set(experts)) == 1:
        return MixtralConfig(**values)
    return PyramidMixtralConfig(**values, experts_per_layer=list(experts))


@torch.no_grad()
def upcycle(
    dense: "PreTrainedModel",
    experts: tuple[int, ...],
    *,
    generator: torch.Generator,
    noise: float = 0.0,
    balance: float = BALANCE,
    z_weight: float = 0.0,
) -> "PreTrainedModel":
    """The mixture that a dense model becomes, on the CPU in float32, in eval mode.

    Args:
        dense: of the Llama family.
        experts: of each layer.
        generator: draws the routers, and the noise.
        noise: each weight of every expert but the first is multiplied by 1 + noise x N(0, 1); 0 keeps copies, which
            part by themselves, since each sees other tokens.
        balance: weight of the balancing loss in training.
        z_weight: weight of the routers' z-loss in training.

    Raises:
        ConfigError: a dense model of another family.

    Validity:
        Without noise the logits are the dense model's up to the order in which a matrix product is summed.
    """
    from transformers import AutoModelForCausalLM

    config = mixture_config(dense.config, experts, balance=balance, z_weight=z_weight)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    weights = dense.state_dict()
    for name, parameter in model.named_parameters():
        if name.endswith("mlp.gate.weight"):
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, ROUTER_STD, generator=generator))
        else:
            parameter.copy_(_source(name, weights))
            if noise and ".mlp.experts." in name:
                others = parameter[1:]
                others.mul_(1 + noise * torch.empty(others.shape).normal_(generator=generator))
    model.tie_weights()
    if dense.generation_config is not None:
        model.generation_config = dense.generation_config
    return model


def _source(name: str, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The dense weight behind one of the mixture; of experts it is repeated by broadcasting."""
    if name.endswith("mlp.experts.gate_up_proj"):
        place = name.removesuffix("experts.gate_up_proj")
        return torch.cat([weights[f"{place}gate_proj.weight"], weights[f"{place}up_proj.weight"]])
    if name.endswith("mlp.experts.down_proj"):
        return weights[name.replace("experts.down_proj", "down_proj.weight")]
    return weights[name]
