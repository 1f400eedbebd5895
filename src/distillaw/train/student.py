"""The module that is trained: a causal language model together with its loss, so that wrappers see one forward pass.

Tokens and the teacher's signal go in, the loss comes out; logits of a whole batch never exist (distill/losses.py).
Precision and activation checkpointing are applied from here, from outside the model.
"""

import contextlib
from typing import TYPE_CHECKING

import torch

from distillaw.distill.losses import LossParts, loss_parts
from distillaw.models.routing import Routers
from distillaw.models.teacher import head_of, hidden_states
from distillaw.runs.spec import Recipe
from distillaw.train.teaching import Signal

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Student(torch.nn.Module):
    """A model and what it is trained on."""

    def __init__(self, model: "PreTrainedModel", recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.routers = Routers.of(model)
        """Of a mixture of experts, whose losses of its own are part of what it is trained on; None of a dense model."""
        if recipe.checkpoint_activations:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

    def forward(self, tokens_BT: torch.Tensor, signal: Signal, num_tokens: int) -> LossParts:
        """The loss of these sequences as part of a batch of `num_tokens`.

        Args:
            tokens_BT: context + 1 ids per sequence; each predicts the next.
            signal: the teacher's, for the same positions; empty trains on the text alone.
            num_tokens: tokens of the whole step, over all micro-batches and ranks.
        """
        with self.precision(tokens_BT.device.type):
            hidden = hidden_states(self.model, tokens_BT[:, :-1])
        parts = self.loss(hidden, tokens_BT, signal, num_tokens)
        if self.routers is None:
            return parts
        share = tokens_BT[:, 1:].numel() / num_tokens
        return parts._replace(total=parts.total + share * self.routers.loss())

    def loss(
        self,
        hidden_BTH: torch.Tensor,
        tokens_BT: torch.Tensor,
        signal: Signal,
        num_tokens: int,
        *,
        trusted: bool = False,
    ) -> LossParts:
        """The loss from the model's last hidden states; the other arguments are those of `forward`.

        Trusted tokens are not looked at, so nothing waits for the device: they are ids of the vocabulary.
        """
        recipe = self.recipe
        with self.precision(tokens_BT.device.type):
            return loss_parts(
                hidden_BTH, head_of(self.model), tokens_BT[:, 1:], **signal._asdict(), divergence=recipe.divergence,
                beta=recipe.beta, skew=recipe.skew, top_k=recipe.top_k, top_p=recipe.top_p,
                distill_weight=recipe.distill_weight, temperature=recipe.temperature, z_weight=recipe.z_weight,
                num_tokens=num_tokens, ignore_index=None if trusted else -100,
            )  # fmt: skip

    def precision(self, device: str) -> contextlib.AbstractContextManager:
        """The type of matrix products on a kind of device: autocast to bfloat16, or as the weights are."""
        if self.recipe.precision == "bf16":
            return torch.autocast(device, dtype=torch.bfloat16)
        return contextlib.nullcontext()
