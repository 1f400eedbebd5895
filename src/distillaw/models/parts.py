"""A causal language model in two parts: the hidden states, and the head that turns them into logits.

Losses and scores go through the two parts, so that no tensor of the vocabulary's width has to exist for a whole
batch (distill/, evaluate/heldout.py). The heads in `transformers` are one matrix, an optional bias, a constant factor
(Granite, Cohere, Falcon-H1) and an optional soft cap (Gemma 2, RecurrentGemma). What a config says is not trusted:
`reproduces_logits` compares the parts with the model itself on a few tokens.
Shape suffixes: B sequence, T position, D hidden width, V vocabulary.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from distillaw.distill.heads import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOKENS = 16
"""Length of the random sequences on which a head is compared with its model."""


def hidden_states(model: "PreTrainedModel", input_ids_BT: torch.Tensor) -> torch.Tensor:
    """Last hidden states as the head gets them, shape (B, T, D); differentiable."""
    return model.base_model(input_ids=input_ids_BT, use_cache=False).last_hidden_state


def head_of(model: "PreTrainedModel") -> Head:
    """The head of a model: its parameters themselves, so that gradients reach them, and its constants.

    A quantised weight is given as a floating-point copy.
    """
    module = model.get_output_embeddings()
    is_plain = "quantization_config" not in vars(model.config) or type(module.weight) is torch.nn.Parameter
    weight = module.weight if is_plain else module.weight.dequantize()
    scale, softcap = _constants(vars(model.config.get_text_config()))
    return Head(weight, module.bias, scale, softcap)


def _constants(config: Mapping[str, object]) -> tuple[float, float | None]:
    """(scale, softcap) under the names that the configs of transformers 5.23 use for them."""
    scale = 1.0
    for key, power in (("logits_scaling", -1), ("logit_scale", 1), ("lm_head_multiplier", 1)):
        if isinstance(value := config.get(key), int | float):
            scale *= float(value) ** power
    softcap = config.get("final_logit_softcapping", config.get("logits_soft_cap"))
    return scale, float(softcap) if isinstance(softcap, int | float) and softcap else None


@torch.no_grad()
def apply_head(head: Head, hidden: torch.Tensor) -> torch.Tensor:
    """Logits, shape (..., V), of hidden states of shape (..., D); without gradients."""
    hidden_ND = hidden.flatten(0, -2)
    logits_NV = hidden_ND.new_empty(len(hidden_ND), len(head.weight))
    return head.logits_into(hidden_ND, logits_NV).view(*hidden.shape[:-1], -1)


@torch.no_grad()
def reproduces_logits(model: "PreTrainedModel", head: Head) -> bool:
    """Do the parts equal the model's own logits, to rounding, on a few random tokens?"""
    probe = probe_tokens(model)
    wanted = model(input_ids=probe, use_cache=False).logits
    got = apply_head(head, hidden_states(model, probe))
    return got.shape == wanted.shape and equal_to_rounding(got, wanted)


def equal_to_rounding(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Do two results of one calculation, done in another order, agree as well as their dtype lets them?"""
    tolerance = max(1e-5, 4 * torch.finfo(first.dtype).eps)
    return bool((first - second).abs().max() <= tolerance * second.abs().max())


def probe_tokens(model: "PreTrainedModel") -> torch.Tensor:
    """Two random sequences, int64, shape (2, PROBE_TOKENS), that differ in their last token only."""
    vocab_size = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(vocab_size, (1, PROBE_TOKENS), generator=generator)
    second = first.clone()
    second[0, -1] = (second[0, -1] + 1) % vocab_size
    return torch.cat([first, second]).to(model.device)


def decoder_blocks(model: "PreTrainedModel") -> list[torch.nn.Module]:
    """The repeated layers of a model: the longest list of modules in its body."""
    lists = [m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList)]
    return list(max(lists, key=len))
