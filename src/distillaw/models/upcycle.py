"""A mixture of experts that begins as a dense model, every expert a copy of its layer's FFN; and the routers of one.

Each token visits one expert with weight 1, so whatever the new routers choose, the mixture says what the dense model
said (sparse upcycling, arXiv 2212.05055; its weights are normalised likewise to keep the function). Where all layers
have as many experts it is a plain Mixtral; else models/pyramid.py. upcycle.json in the folder is the record; the same
wishes again compute nothing. Routers in training have losses that keep experts busy, summed over layers (Switch, arXiv
2101.03961, equations 4 to 6; z-loss: ST-MoE, arXiv 2202.08906, equation 5):

    balance  E sum_e f_e P_e    f_e: share of tokens sent to expert e, P_e: mean probability of it; 1 if balanced
    z        mean (log sum exp z)^2

A router that sends each token to one expert has no gradient from the text where weights are normalised over the
chosen ones, since p / p = 1. Weighting by p itself, as Switch does, has one but shrinks what a dense model's copy says
by p. So the forward pass has p / p and the backward pass the gradient of log p: the weight is p / stop_gradient(p),
which is 1. A mixture here drops no token; what systems that give each expert room for capacity x tokens / experts
would drop (Switch, equation 3) is reported. Shape suffixes: N token, E expert, K chosen experts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from distillaw.accounting.architecture import count_params
from distillaw.accounting.config import architecture_from_config
from distillaw.accounting.flops import forward_flops
from distillaw.data.corpus import WHOLE, Reading, read_excerpt
from distillaw.data.tokenizer import encode_to_score
from distillaw.errors import ConfigError
from distillaw.models.cut import shape_of
from distillaw.models.export import Making, save_made
from distillaw.models.scoring import BYTES_PER_TOKEN, SCORED_CONTEXT, SCORED_DOCUMENTS, score_documents, window_batches
from distillaw.models.source import ModelSource, fingerprint, settle_context
from distillaw.models.teacher import hidden_states, load_weights, probe_tokens
from distillaw.runs.files import content_hash
from distillaw.runs.paired import paired_difference

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


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


@torch.no_grad()
def measure_routing(model: "PreTrainedModel", documents: Sequence[np.ndarray], *, context: int) -> list[dict[str, Any]]:
    """Follow every token of some documents through the routers.

    Returns:
        Of each layer: shares of the tokens by expert; balance, E sum f P over the whole text (1 if balanced, E if one
        expert gets all); dropped, the share of tokens above each capacity factor's room, batch by batch.
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
        {
            "shares": (n_E / total).tolist(),
            "balance": float(len(n_E) * (n_E / total * p_E / tokens).sum()),
            "dropped": {f"{c:g}": float(x / total) for c, x in zip(CAPACITIES, over, strict=True)},
        }
        for n_E, p_E, over, total in zip(used, probable, above, chosen, strict=True)
    ]


BALANCE = 0.01
"""Weight of the load balancing loss (Switch, arXiv 2101.03961, section 2.2)."""
ROUTER_STD = 0.02
"""Of the new routers' weights, as arXiv 2212.05055 draws them; at 0 all tokens would go to the first expert."""


def layout(layers: int, experts: tuple[int, ...], *, bottom: float = 0.25) -> tuple[int, ...]:
    """Experts of each layer, from the bottom.

    Args:
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
    """The configuration of the mixture: Mixtral where all layers are alike, else a pyramid of it."""
    from transformers import MixtralConfig

    from distillaw.models.pyramid import PyramidMixtralConfig

    shape_of(dense, dense.name_or_path or "the model")
    if len(experts) != dense.num_hidden_layers:
        raise ConfigError(f"{len(experts)} numbers of experts for {dense.num_hidden_layers} layers")
    dropped = (
        "model_type architectures transformers_version layer_types pretraining_tp mlp_bias attention_bias "
        "_name_or_path auto_map"
    )
    values = {key: value for key, value in dense.to_dict().items() if key not in dropped.split()}
    values |= {
        "num_local_experts": max(experts),
        "num_experts_per_tok": 1,
        "router_aux_loss_coef": balance,
        "output_router_logits": False,
        Z_KEY: z_weight,
    }
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
        noise: each weight of every expert but the first is multiplied by 1 + noise x N(0, 1); 0 keeps copies, which
            part by themselves, since each sees other tokens.

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


RECORD = "upcycle.json"
SCORED_TOKENS = 8192
"""Of a text unless said otherwise, as much of the beginning of each document: a check, since nothing should change."""
MOST_CONTEXT = 4096
"""At which FLOP are counted: a longer context than most text is read in would count attention that nobody pays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the mixture should be."""

    experts: tuple[int, ...]
    bottom: float = 0.25
    """Share of the layers that has the first of two numbers."""
    noise: float = 0.0
    balance: float = BALANCE
    z_weight: float = 0.0
    seed: int = 0


def upcycle_to(
    source: ModelSource,
    out: Path,
    wishes: Layout,
    *,
    text: str | None = None,
    reading: Reading = WHOLE,
    tokens: int = SCORED_TOKENS,
    making: Making = Making(),
) -> dict[str, object]:
    """Make a mixture of experts out of a dense model and write it as a Hugging Face folder.

    Args:
        text: scored by both, and shared out among the experts; None: only the logits of a few tokens are compared.
        reading: the text's field, and how much of each document.

    Raises:
        CacheError: no model there.
        ConfigError: not of the Llama family, an impossible layout, or `out` holds something else.
        DataError: too little text.
        RunError: the disk is full.
    """
    if min(wishes.noise, wishes.balance, wishes.z_weight) < 0:
        raise ConfigError("--noise, --balance and --z-loss are not negative")
    config = source.config()
    read = {"text": text, "tokens": tokens, **asdict(reading)}
    identity = content_hash({"model": fingerprint(source), **asdict(wishes), **read}, digits=16)
    if (done := making.found(out, RECORD, identity)) is not None:
        return done
    experts = layout(config.num_hidden_layers, wishes.experts, bottom=wishes.bottom)
    mixed = mixture_config(config, experts, balance=wishes.balance, z_weight=wishes.z_weight)
    record: dict[str, object] = {"identity": identity, "command": making.command, "model": source.name}
    record |= {"noise": wishes.noise, "balance_weight": wishes.balance, "z_weight": wishes.z_weight}
    record |= {"dense": _counts(config), "mixture": _counts(mixed)}
    record |= {"kind": mixed.model_type, "experts": list(experts), "seed": wishes.seed}
    if making.dry_run:
        return record
    tokenizer = source.tokenizer()
    documents = []
    if text is not None:
        most = BYTES_PER_TOKEN * tokens + 200_000
        chosen = read_excerpt(text, reading, max_bytes=most).documents[:SCORED_DOCUMENTS]
        per = math.ceil(tokens / len(chosen))
        documents = encode_to_score(source.name, tokenizer, chosen, most=per)
    dense = load_weights(source, torch.device("cpu"), torch.float32)
    making.say(f"{source.name}: copying {sum(experts)} experts")
    generator = torch.Generator().manual_seed(wishes.seed)
    settings = {"noise": wishes.noise, "balance": wishes.balance, "z_weight": wishes.z_weight}
    mixture = upcycle(dense, experts, generator=generator, **settings)
    for model in (dense, mixture):
        model.to(torch.device(making.device))  # type: ignore[arg-type]
    with torch.no_grad():
        probe = probe_tokens(dense)
        wanted, got = (model(input_ids=probe, use_cache=False).logits for model in (dense, mixture))
        record |= {"logit_difference": float((got - wanted).abs().max())}
        record |= {"largest_logit": float(wanted.abs().max())}
    if documents:
        making.say(f"scoring both on {sum(len(ids) - 1 for ids in documents):,} tokens")
        context = settle_context([source], None, SCORED_CONTEXT)
        record |= _scored(dense, mixture, documents, context)
    save_made(mixture, tokenizer, out, {RECORD: record})
    return record


def _counts(config) -> dict[str, float]:
    """Parameters in all and per token, forward FLOP per token at the model's own context."""
    architecture = architecture_from_config(config.to_dict(), source=config.model_type)
    count = count_params(architecture)
    context = min(architecture.context, MOST_CONTEXT)
    return {
        "params": count.non_embedding,
        "active_params": count.active_non_embedding,
        "total_params": count.total,
        "active_total_params": count.active_total,
        "context": context,
        "forward_flops": forward_flops(architecture, context=context).total,
    }


def _scored(dense, mixture, documents: list[np.ndarray], context: int) -> dict[str, object]:
    before, after = (score_documents(model, documents, context=context, stride=context) for model in (dense, mixture))
    change = paired_difference(after, before)
    return {
        "documents": len(documents),
        "tokens": int(after.tokens.sum()),
        "dense_loss": before.loss,
        "loss": after.loss,
        "loss_se": after.loss_se,
        "change": change.mean,
        "change_se": change.se,
        "routing": measure_routing(mixture, documents, context=context),
    }
