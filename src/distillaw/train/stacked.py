"""Students of one shape as one batched model: S bodies in one pass of kernels, each with its own weights.

What a small model costs is mostly the launching of its kernels. Here the weights of S students are stacked to
(S, ...) and the body of the first is mapped over them (`torch.func.vmap`), so that each kernel works for all S.
Everything else stays with the student: its head and loss (teacher, lambda, temperature), its clipping, its optimiser
and rate, its checkpoint. The stack is made anew in each pass and nothing is kept, so lanes may join, leave, diverge or
resume at any step, and a finished student is an ordinary run. Its numbers are those of the student trained alone up
to the order in which a batched product is summed (on the x86 CPU measured: the same bits).

Where it is done unasked, and what was measured: `STACKING_PAYS`.
Shape suffixes: S student, B sequence, T position, H width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from distillaw.distill.losses import LossParts
from distillaw.models.parts import hidden_states
from distillaw.train.student import Student
from distillaw.train.teaching import Signal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STACKING_PAYS = frozenset({"cuda"})
"""Kinds of device on which students are stacked unasked.

Not "cpu". Tokens per CPU-second of whole steps, stacked over side by side, on one thread of a busy machine
(benchmarks/results/stacked.json), for S = 2, 4, 8:

    0.02M   256 tokens   0.95 1.11 1.36        1024 tokens   0.96 1.05 1.07
    0.1M    256 tokens   0.88 1.13 1.26        1024 tokens   0.98 1.00 1.07
    1M      256 tokens      -  1.03    -         1024 tokens      -  0.99    -

It gains 10 % only with batches of 256 tokens and four students or more; DISTILLAW_STACK=always asks for it.
"cuda", with captured graphs (train/captured.py), is on the list because small kernels leave a GPU idle. It has not been
measured, for want of one: `python -m benchmarks.engine.stacked --device cuda` does it; DISTILLAW_STACK=never turns it
off.
"""


def can_stack(student: torch.nn.Module) -> TypeGuard[Student]:
    """Whether a student can be part of a stack: in one process, dense, with its activations kept."""
    return (
        isinstance(student, Student) and student.routers is None and not student.recipe.checkpoint_activations
    )


def stacked_losses(
    students: Sequence[Student],
    tokens_BT: torch.Tensor,
    signals: Sequence[Signal],
    num_tokens: int,
    *,
    trusted: bool = False,
) -> list[LossParts]:
    """The loss of each student on the same sequences, as `Student.forward` gives it.

    Args:
        students: of one shape and precision, each `can_stack`.
        tokens_BT: context + 1 ids per sequence; each predicts the next.
        signals: each student's own teacher's.
        num_tokens: tokens of the whole step.
        trusted: the ids are not looked at (`Student.loss`).
    """
    with students[0].precision(tokens_BT.device.type):
        hidden_SBTH = stacked_hidden([student.model for student in students], tokens_BT[:, :-1])
    return [
        student.loss(hidden_BTH, tokens_BT, signal, num_tokens, trusted=trusted)
        for student, hidden_BTH, signal in zip(students, hidden_SBTH.unbind(0), signals, strict=True)
    ]


def stacked_hidden(models: Sequence["PreTrainedModel"], input_ids_BT: torch.Tensor) -> torch.Tensor:
    """Last hidden states of each model, (S, B, T, H); gradients reach the weights of each."""
    first = models[0]
    buffers = dict(first.named_buffers())
    bodies = [dict(model.base_model.named_parameters(prefix=model.base_model_prefix)) for model in models]
    stacked = {name: torch.stack([body[name] for body in bodies]) for name in bodies[0]}
    body = _Body(first)

    def one(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        parts = {f"model.{name}": value for name, value in {**buffers, **weights}.items()}
        return functional_call(body, parts, (input_ids_BT,))

    with _FoldedAttention():
        return vmap(one, randomness="different")(stacked)


class _Body(torch.nn.Module):
    """`hidden_states` as a module, which `functional_call` asks for."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        return hidden_states(self.model, input_ids_BT)


class _FoldedAttention(TorchFunctionMode):
    """Inside `vmap`, fold the students into the sequences around attention: its kernels have no rule of their own."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is functional.scaled_dot_product_attention:
            assert len(args) == 3, "transformers passes everything but query, key and value by name"
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                # transformers cannot look for packed sequences now and makes a mask; ours are never packed
                kwargs = {**(kwargs or {}), "attn_mask": None, "is_causal": True}
            return _Folded.apply(*args, kwargs)
        return func(*args, **(kwargs or {}))


class _Folded(torch.autograd.Function):
    """Attention over (S, B, heads, T, dim) as attention over (S B, heads, T, dim)."""

    @staticmethod
    def forward(*inputs):  # pyrefly: ignore[bad-override] - never without `vmap`
        """Refuse to be called outside `vmap`."""
        raise AssertionError("folded attention is for vmap alone")

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Nothing is kept: the fold is differentiated by autograd itself."""

    @staticmethod
    def vmap(info, in_dims, *args):
        """One call of the kernel for all students."""
        *tensors, options = args
        folded = [x.movedim(at, 0).flatten(0, 1) for x, at in zip(tensors, in_dims, strict=False)]
        out = functional.scaled_dot_product_attention(*folded, **options)
        return out.unflatten(0, (info.batch_size, -1)), 0
