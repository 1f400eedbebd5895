"""The module that is trained, a causal language model with its loss; and where its teacher's signal comes from.

Tokens and the teacher's signal go in, the loss comes out; logits of a whole batch never exist (distill/losses.py), and
wrappers see one forward pass. Precision and activation checkpointing are applied from here, from outside the model. The
signal is that of the model beside the student, or of targets stored before; one serves every student that reads the
same batch, so several students share each teacher forward.
"""

import contextlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from distillaw.distill.heads import Head, SparseTargets
from distillaw.distill.losses import LossParts, loss_parts
from distillaw.models.teacher import AnyTeacher, ServedTeacher, head_of, hidden_states
from distillaw.models.upcycle import Routers
from distillaw.runs.spec import Recipe
from distillaw.targets.store import TargetStore

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Signal(NamedTuple):
    """What `loss_parts` takes of a teacher, all None without one; and how much it weighs."""

    teacher_hidden: torch.Tensor | None = None
    teacher_head: Head | None = None
    teacher_logits: torch.Tensor | None = None
    targets: SparseTargets | None = None
    share: float = 1.0
    """What is left of the recipe's `distill_weight` (`Recipe.share_of_teacher`)."""


class SignalSource(Protocol):
    """Gives the signal of a batch."""

    looks_ahead: bool
    """Whether it can begin on the next batch."""

    def signal(self, tokens_BT: torch.Tensor, windows: np.ndarray, following: torch.Tensor | None = None) -> Signal:
        """The signal for sequences of context + 1 tokens, which are these windows of the split.

        Args:
            tokens_BT: the sequences.
            windows: their numbers.
            following: what will be asked next, if that is known and it looks ahead.
        """
        ...


class NoTeacher:
    """No teacher."""

    looks_ahead = False

    def signal(self, tokens_BT: torch.Tensor, windows: np.ndarray, following: torch.Tensor | None = None) -> Signal:
        """Nothing."""
        return Signal()


class OnlineTeacher:
    """The teacher reads each batch just before its students do."""

    def __init__(self, teacher: AnyTeacher) -> None:
        self._teacher = teacher
        self.looks_ahead = isinstance(teacher, ServedTeacher)

    def signal(self, tokens_BT: torch.Tensor, windows: np.ndarray, following: torch.Tensor | None = None) -> Signal:
        """Its hidden states and head, or its logits where its head cannot be taken apart."""
        inputs = tokens_BT[:, :-1]
        if self._teacher.head is None:
            return Signal(teacher_logits=self._teacher.logits(inputs))
        if isinstance(self._teacher, ServedTeacher):
            hidden = self._teacher.hidden(inputs, None if following is None else following[:, :-1])
            return Signal(teacher_hidden=hidden, teacher_head=self._teacher.head)
        return Signal(teacher_hidden=self._teacher.hidden(inputs), teacher_head=self._teacher.head)


class TargetsOnDisk:
    """Targets that the teacher left on disk; it need not be in memory, or even exist any more."""

    def __init__(self, store: TargetStore, device: torch.device) -> None:
        self._store, self._device = store, device

    looks_ahead = False

    def signal(self, tokens_BT: torch.Tensor, windows: np.ndarray, following: torch.Tensor | None = None) -> Signal:
        """The targets of the windows, sparse or whole."""
        targets = self._store.read(windows)
        if isinstance(targets, SparseTargets):
            return Signal(targets=targets.to(self._device))
        return Signal(teacher_logits=targets.to(self._device))


class Student(torch.nn.Module):
    """A model and what it is trained on."""

    def __init__(self, model: "PreTrainedModel", recipe: Recipe, *, end_of_text: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.end_of_text = end_of_text
        """Opens a document, before which nothing is seen; None: all of a sequence is (`training.document_mask`)."""
        self.routers = Routers.of(model)
        """Of a mixture of experts, whose losses of its own are part of what it is trained on; None of a dense model."""
        if recipe.checkpoint_activations:
            # transformers' name for it, and the one before 5.23
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})

    def forward(self, tokens_BT: torch.Tensor, signal: Signal, num_tokens: int) -> LossParts:
        """The loss of these sequences as part of a batch of `num_tokens`.

        Args:
            tokens_BT: context + 1 ids per sequence; each predicts the next.
            signal: the teacher's, for the same positions; empty trains on the text alone.
            num_tokens: tokens of the whole step, over all micro-batches and ranks.
        """
        with self.precision(tokens_BT.device.type):
            hidden = hidden_states(self.model, tokens_BT[:, :-1], end_of_text=self.end_of_text)
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
        given = signal._asdict()
        weight = recipe.distill_weight * given.pop("share")
        with self.precision(tokens_BT.device.type):
            return loss_parts(
                hidden_BTH,
                head_of(self.model),
                tokens_BT[:, 1:],
                **given,
                divergence=recipe.divergence,
                beta=recipe.beta,
                skew=recipe.skew,
                top_k=recipe.top_k,
                top_p=recipe.top_p,
                distill_weight=weight,
                temperature=recipe.temperature,
                z_weight=recipe.z_weight,
                num_tokens=num_tokens,
                ignore_index=None if trusted else -100,
            )

    def precision(self, device: str) -> contextlib.AbstractContextManager:
        """The type of matrix products on a kind of device: autocast to bfloat16, or as the weights are."""
        if self.recipe.precision == "bf16":
            return torch.autocast(device, dtype=torch.bfloat16)
        return contextlib.nullcontext()
