"""The vocabulary loss over chunks of tokens: value and gradients in one pass, no (tokens x vocabulary) tensor.

Per chunk: student logits, teacher logits, and, a block of rows at a time that stays in a processor's cache, their
divergence and its gradient, written over the student's logits; then two matrix products hand it on to the hidden
states and to the head, whose gradient is summed in float32 at least. Chunks are larger than blocks because matrix
products of few rows are slow. What stays until the backward pass is one gradient per input. Compiling the chunk with
torch.compile saved 5 % of it on a CPU for 18 s of compilation (dev/LOG.md), so it is not compiled.
Shape suffixes: B sequence, T position, N token, V vocabulary, H width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable

from distillaw.distill.divergences import Divergence, Shift, Softmax, softmax_into, sparse_forward_kl
from distillaw.distill.heads import LOWEST_LOGIT, Head, SparseTargets, truncate_


@dataclass(frozen=True, slots=True, kw_only=True)
class LossObjective:
    """The three terms: (1 - distill_weight) NTP + distill_weight tau^2 divergence + z_weight Z."""

    distill_weight: float
    temperature: float
    z_weight: float
    divergence: Divergence
    top_k: int = 0
    """Tokens kept of a dense teacher; 0 keeps all."""
    top_p: float = 1.0
    """Mass kept of a dense teacher; 1 keeps all."""

    @property
    def term_weights(self) -> tuple[float, float, float]:
        """Weights of (divergence times tau^2, next token, z)."""
        return self.distill_weight, 1 - self.distill_weight, self.z_weight


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTeacher:
    """Teacher distributions over the whole vocabulary: its logits, or what makes them."""

    rows: torch.Tensor
    """Hidden states (N, H) with a head, else logits (N, V) or (B, T, V), of any float type; detached."""
    head: Head | None
    """In the type of its matrix product, over the common vocabulary."""

    def logits_into(self, out_NV: torch.Tensor, index_N: torch.Tensor) -> torch.Tensor:
        """Logits at the flat positions `index_N`, over the common vocabulary."""
        if self.head is not None:
            return self.head.logits_into(self.rows[index_N].to(self.head.weight.dtype), out_NV)
        where = (index_N,)
        if self.rows.dim() == 3:
            length = self.rows.shape[1]
            where = (index_N.div(length, rounding_mode="floor"), index_N % length)
        return out_NV.copy_(self.rows[..., : out_NV.shape[1]][where]).clamp_(min=LOWEST_LOGIT)


Signal = torch.Tensor | SparseTargets | None
"""A teacher's for a block of rows: logits (N, V), sparse targets of all rows, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One call: everything but the differentiable inputs."""

    head: Head
    """The student's, in the type of the matrix products and over the common vocabulary; detached."""
    labels: torch.Tensor | None
    """Next tokens (N,)."""
    teacher: DenseTeacher | SparseTargets | None
    index: torch.Tensor
    """Flat positions that count, at most N of them."""
    objective: LossObjective
    scale: float
    """1 over the number of tokens that the loss is a mean of."""
    chunk_tokens: int
    """Rows of the matrix products."""
    block_tokens: int
    """Rows between them."""
    wide: torch.dtype
    """Type of logits, probabilities and sums: float32, or float64 for float64 inputs."""

    def chunks(self) -> Iterator[torch.Tensor]:
        """The positions that count, a chunk at a time."""
        return iter(self.index.split(self.chunk_tokens)) if len(self.index) else iter(())

    def buffers(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Room for a chunk of logits, of the student and of a dense teacher, and for blocks beside them."""
        is_dense = isinstance(self.teacher, DenseTeacher)
        is_warm = self.teacher is not None and self.objective.temperature != 1
        chunk = min(self.chunk_tokens, len(self.index))
        weight = self.head.weight

        def room(count: int, rows: int) -> list[torch.Tensor]:
            shape = (rows, len(weight))
            return [torch.empty(shape, dtype=self.wide, device=weight.device) for _ in range(count)]

        return room(1 + is_dense, chunk), room(1 + is_dense + is_warm, min(self.block_tokens, chunk))


class FusedLoss(torch.autograd.Function):
    """(total, means of the three terms); the backward pass only scales what the forward pass computed."""

    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, bias_V, work: Work, wanted: tuple[bool, bool, bool]):
        """Value, and the gradients that are `wanted` of (hidden states, weight, bias)."""
        inputs = (hidden_NH, weight_VH, bias_V)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            gradients = [
                torch.zeros_like(x, dtype=work.wide) if on else None for x, on in zip(inputs, wanted, strict=True)
            ]
            terms = _run(hidden_NH, work, *gradients)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [None if x is None else x.dtype for x in inputs]
        ctx.mark_non_differentiable(terms)
        # a term that is not asked for may be infinite without harm
        total = sum(weight * term for weight, term in zip(work.objective.term_weights, terms, strict=True) if weight)
        return total, terms

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs):  # pyrefly: ignore[bad-override] - once_differentiable hides its type
        """Scale the stored gradients and give each the type of its input."""
        grad_total = grad_outputs[0]
        is_unit = grad_total.device.type == "cpu" and grad_total.item() == 1
        results = []
        for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True):
            if gradient is not None:
                gradient = (gradient if is_unit else gradient * grad_total).to(dtype)
            results.append(gradient)
        return *results, None, None


def _run(
    hidden_NH: torch.Tensor,
    work: Work,
    grad_hidden_NH: torch.Tensor | None,
    grad_weight_VH: torch.Tensor | None,
    grad_bias_V: torch.Tensor | None,
) -> torch.Tensor:
    """Add to the gradients in place; returns the means of (divergence, next token, z), shape (3,)."""
    head = work.head
    vocab, dtype, scale = len(head.weight), head.weight.dtype, work.scale * head.scale
    any_gradient = not (grad_hidden_NH is None and grad_weight_VH is None and grad_bias_V is None)
    (buffers, space), sums = work.buffers(), hidden_NH.new_zeros(3, dtype=work.wide)
    sparse = work.teacher if isinstance(work.teacher, SparseTargets) else None
    for index_N in work.chunks():
        chunk_NH = hidden_NH[index_N].to(dtype)
        logits_NV, *teacher = (buffer[: len(index_N)] for buffer in buffers)
        head.logits_into(chunk_NH, logits_NV)
        slope_NV = head.slope(logits_NV)
        if isinstance(work.teacher, DenseTeacher):
            work.teacher.logits_into(teacher[0], index_N)
        for first in range(0, len(index_N), work.block_tokens):
            rows = slice(first, first + work.block_tokens)
            signal = teacher[0][rows] if teacher else sparse
            _block(logits_NV[rows], index_N[rows], signal, work, space, sums)
        if not any_gradient:
            continue
        if slope_NV is not None:
            logits_NV.mul_(slope_NV)  # they hold their gradient by now
        narrow_NV = logits_NV.to(dtype)
        if grad_hidden_NH is not None:
            chunk_grad_NH = torch.zeros_like(chunk_NH, dtype=work.wide)
            grad_hidden_NH[index_N] = _add_product(chunk_grad_NH, narrow_NV, head.weight, scale)
        if grad_weight_VH is not None:
            _add_product(grad_weight_VH[:vocab], narrow_NV.t(), chunk_NH, scale)
        if grad_bias_V is not None:
            grad_bias_V[:vocab].add_(logits_NV.sum(0), alpha=scale)
    return sums.mul_(work.scale)


def _block(
    logits_NV: torch.Tensor,
    index_N: torch.Tensor,
    teacher: Signal,
    work: Work,
    space: list[torch.Tensor],
    sums: torch.Tensor,
) -> None:
    """Turn the student's logits of a few rows into the gradient of the summed loss; adds the terms to `sums`."""
    objective = work.objective
    _, next_token_weight, z_weight = objective.term_weights
    kept_NV, *space = (buffer[: len(index_N)] for buffer in space)
    labels_N1 = None if work.labels is None else work.labels[index_N].unsqueeze(1)
    label_logits_N1 = None if labels_N1 is None else logits_NV.gather(1, labels_N1)
    # without a teacher nobody asks for the logits again
    plain = softmax_into(logits_NV if teacher is None else kept_NV.copy_(logits_NV), logits_NV)
    sums[2] += plain.logsumexp.square().sum()
    if label_logits_N1 is not None:
        sums[1] += (plain.logsumexp - label_logits_N1).sum()
    # next token and z-loss ask for this multiple of softmax(z)
    shift = next_token_weight + 2 * z_weight * plain.logsumexp if z_weight else next_token_weight
    gradient_NV = plain.probs
    if teacher is None:
        gradient_NV.mul_(shift)
    elif objective.temperature == 1:
        sums[0] += _towards_teacher(plain, teacher, index_N, objective, shift, space)
    else:
        gradient_NV.mul_(shift)
        warm = softmax_into(kept_NV.div_(objective.temperature), space[0])
        value = _towards_teacher(warm, teacher, index_N, objective, 0.0, space[1:])
        sums[0] += value * objective.temperature**2
        gradient_NV.add_(warm.probs)
    if next_token_weight and labels_N1 is not None:
        gradient_NV.scatter_add_(1, labels_N1, gradient_NV.new_full(labels_N1.shape, -next_token_weight))


def _towards_teacher(
    student: Softmax,
    teacher: torch.Tensor | SparseTargets,
    index_N: torch.Tensor,
    objective: LossObjective,
    shift: Shift,
    space: list[torch.Tensor],
) -> torch.Tensor:
    """Summed divergence of a block; the gradient is left in the student's probabilities."""
    weight = objective.distill_weight * objective.temperature
    if isinstance(teacher, SparseTargets):
        return sparse_forward_kl(student, teacher.rows(index_N), weight, shift).sum()
    if objective.temperature != 1:
        teacher.div_(objective.temperature)
    if objective.top_k or objective.top_p < 1:
        truncate_(teacher, objective.top_k, objective.top_p)
    return objective.divergence(student, softmax_into(teacher, space[0]), weight, shift).sum()


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """`total += scale * left @ right`, summed in the type of `total`; returns it."""
    if total.dtype == left.dtype:
        return total.addmm_(left, right, alpha=scale)
    if total.is_cuda:
        return total.add_(torch.mm(left, right, out_dtype=total.dtype), alpha=scale)
    return total.add_(left @ right, alpha=scale)
