"""The vocabulary loss over chunks of tokens: value and gradients in one pass, no (tokens x vocabulary) tensor.

Per chunk: student logits, teacher logits, their divergence, and the gradient of both written over the
probabilities; then two matrix products hand it on to the hidden states and to the head, whose gradient is
summed in float32 at least. What stays until the backward pass is one gradient of each input.
Shape suffixes: N token, V vocabulary, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable

from distillaw.distill.divergences import Divergence, Softmax, softmax_into, sparse_forward_kl
from distillaw.distill.heads import LOWEST_LOGIT, Head
from distillaw.distill.targets import SparseTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The three terms: (1 - distill_weight) NTP + distill_weight tau^2 divergence + z_weight Z."""

    distill_weight: float
    temperature: float
    z_weight: float
    divergence: Divergence


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTeacher:
    """Teacher distributions over the whole vocabulary: its logits, or what makes them."""

    rows: torch.Tensor
    """Hidden states (N, D_T) with a head, else logits (N, V) or (B, T, V), of any float type."""
    head: Head | None
    """In the type of the hidden states, over the common vocabulary."""

    def logits_into(self, out_NV: torch.Tensor, index_N: torch.Tensor) -> torch.Tensor:
        """Logits of the tokens `index_N` (flat positions) over the common vocabulary."""
        if self.head is not None:
            return self.head.logits_into(self.rows[index_N].to(self.head.weight.dtype), out_NV)
        batch_N, position_N = index_N // self.rows.shape[-2], index_N % self.rows.shape[-2]
        logits_NV = self.rows[batch_N, position_N, : out_NV.shape[1]]
        return out_NV.copy_(logits_NV).clamp_(min=LOWEST_LOGIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One call: everything but the differentiable inputs."""

    head: Head
    """The student's, in the type of the matrix products and over the common vocabulary; detached."""
    labels_N: torch.Tensor | None
    teacher: DenseTeacher | SparseTargets | None
    index_N: torch.Tensor
    """Flat positions that count."""
    objective: Objective
    scale: float
    """1 over the number of tokens the loss is a mean of."""
    chunk_tokens: int
    wide: torch.dtype
    """Type of logits, probabilities and sums: float32, or float64 for float64 inputs."""


class FusedLoss(torch.autograd.Function):
    """(total, [distillation, next token, z]); the backward pass only scales what the forward pass computed."""

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, work: Work, wanted: tuple[bool, bool, bool]):
        """Value, and the gradients that are `wanted` of (hidden states, weight, bias)."""
        inputs = (hidden_ND, weight_VD, bias_V)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            gradients = [
                torch.zeros_like(x, dtype=work.wide) if on else None
                for x, on in zip(inputs, wanted, strict=True)
            ]
            parts = _run(hidden_ND, work, *gradients)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [None if x is None else x.dtype for x in inputs]
        objective = work.objective
        weights = parts.new_tensor(
            [objective.distill_weight, 1 - objective.distill_weight, objective.z_weight]
        )
        total = torch.dot(parts, weights)
        ctx.mark_non_differentiable(parts)
        return total, parts

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total, _):
        """Scale the stored gradients and give each the type of its input."""
        unit = grad_total.device.type == "cpu" and grad_total.item() == 1
        results = []
        for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True):
            if gradient is not None:
                gradient = (gradient if unit else gradient * grad_total).to(dtype)
            results.append(gradient)
        return *results, None, None


def _run(hidden_ND, work: Work, grad_hidden_ND, grad_weight_VD, grad_bias_V) -> torch.Tensor:
    """Sum gradients in place; returns the means of (divergence, next token, z), shape (3,)."""
    head, vocab = work.head, work.head.weight.shape[0]
    buffers = [
        hidden_ND.new_empty(min(work.chunk_tokens, len(work.index_N)), vocab, dtype=work.wide)
        for _ in range(4)
    ]
    sums = hidden_ND.new_zeros(3, dtype=work.wide)
    scale = work.scale * head.scale
    for index_N, rows in _chunks(work):
        chunk_ND = hidden_ND[index_N].to(head.weight.dtype)
        space = [buffer[: len(index_N)] for buffer in buffers]
        logits_NV = head.logits_into(chunk_ND, space[0])
        slope_NV = head.slope(logits_NV)
        gradient_NV = _chunk(logits_NV, index_N, rows, work, space[1:], sums)
        if slope_NV is not None:
            gradient_NV.mul_(slope_NV)
        narrow_NV = gradient_NV.to(head.weight.dtype)
        if grad_hidden_ND is not None:
            chunk_grad = torch.zeros_like(chunk_ND, dtype=work.wide)
            grad_hidden_ND[index_N] = _add_product(chunk_grad, narrow_NV, head.weight, scale)
        if grad_weight_VD is not None:
            _add_product(grad_weight_VD[:vocab], narrow_NV.t(), chunk_ND, scale)
        if grad_bias_V is not None:
            grad_bias_V[:vocab].add_(gradient_NV.sum(0), alpha=scale)
    return sums.mul_(work.scale)


def _chunks(work: Work) -> Iterator[tuple[torch.Tensor, slice]]:
    for start in range(0, len(work.index_N), work.chunk_tokens):
        rows = slice(start, start + work.chunk_tokens)
        yield work.index_N[rows], rows


def _chunk(
    logits_NV, index_N, rows: slice, work: Work, space: list[torch.Tensor], sums: torch.Tensor
) -> torch.Tensor:
    """Gradient of the summed loss by the student's logits of one chunk; adds the parts to `sums`."""
    objective, tau = work.objective, work.objective.temperature
    next_token_weight = 1 - objective.distill_weight
    plain = softmax_into(logits_NV, space[0])
    shift = next_token_weight
    if objective.z_weight:
        shift = shift + 2 * objective.z_weight * plain.logsumexp_N1
    sums[2] += plain.logsumexp_N1.square().sum()
    labels_N1 = None
    if work.labels_N is not None:
        labels_N1 = work.labels_N[index_N].unsqueeze(1)
        sums[1] += (plain.logsumexp_N1 - logits_NV.gather(1, labels_N1)).sum()
    if work.teacher is None:
        gradient_NV = plain.probs_NV.mul_(shift)
    elif tau == 1:
        sums[0] += _towards_teacher(plain, index_N, rows, work, shift, space[1:])
        gradient_NV = plain.probs_NV
    else:
        gradient_NV = plain.probs_NV.mul_(shift)
        warm = softmax_into(logits_NV.div_(tau), torch.empty_like(logits_NV))
        sums[0] += _towards_teacher(warm, index_N, rows, work, 0.0, space[1:]) * tau**2
        gradient_NV.add_(warm.probs_NV)
    if next_token_weight and labels_N1 is not None:
        gradient_NV.scatter_add_(1, labels_N1, gradient_NV.new_full(labels_N1.shape, -next_token_weight))
    return gradient_NV


def _towards_teacher(student: Softmax, index_N, rows: slice, work: Work, shift, space) -> torch.Tensor:
    """Summed divergence of a chunk; the gradient is left in the student's probabilities."""
    objective = work.objective
    weight = objective.distill_weight * objective.temperature
    if isinstance(work.teacher, SparseTargets):
        return sparse_forward_kl(student, work.teacher.rows(index_N), weight, shift).sum()
    logits_NV = work.teacher.logits_into(space[0], index_N)
    if objective.temperature != 1:
        logits_NV.div_(objective.temperature)
    return objective.divergence(student, softmax_into(logits_NV, space[1]), weight, shift).sum()


def _add_product(into: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """into += scale * left @ right, summed in the type of `into`."""
    if into.dtype == left.dtype:
        return into.addmm_(left, right, alpha=scale)
    if into.is_cuda and into.dtype == torch.float32:
        return into.add_(torch.mm(left, right, out_dtype=torch.float32), alpha=scale)
    return into.add_(left @ right, alpha=scale)
