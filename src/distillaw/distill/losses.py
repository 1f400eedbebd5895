"""The training loss: next-token cross-entropy, a divergence towards a teacher, and a z-loss.

    loss = (1 - lambda) NTP + lambda tau^2 D(p_T, p_S) + lambda_Z (log sum exp z_S)^2

Every term is a mean over the tokens that count; p are softmax(z / tau). It is computed from hidden states and
heads, chunk by chunk (distill/fused.py), so that no tensor of tokens x vocabulary exists. The forward KL differs
from the cross-entropy of arXiv 2502.08606v2 (section 2, "KD") by the teacher's entropy, which is constant for the
student, so that zero means a perfect match.
Shape suffixes: B sequence, T position, V vocabulary, H width.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from distillaw.distill import divergences
from distillaw.distill.fused import DenseTeacher, FusedLoss, Objective, Work
from distillaw.distill.heads import Head, as_head
from distillaw.distill.targets import SparseTargets
from distillaw.errors import ConfigError, DataError, VocabularyError

AnyHead = torch.nn.Linear | torch.Tensor | Head

CHUNK_ENTRIES = 2**20
"""Logits per chunk."""


class LossParts(NamedTuple):
    """The loss and its terms: total = (1 - lambda) next_token + lambda distillation + lambda_Z z.

    The last three are detached means per token, None where not computed.
    """

    total: torch.Tensor
    distillation: torch.Tensor | None
    """tau^2 times the divergence, nats."""
    next_token: torch.Tensor | None
    """Cross-entropy against the labels, nats."""
    z: torch.Tensor | None
    """Squared log sum exp of the logits."""


def distillation_loss(
    student_hidden_BTH: torch.Tensor, student_head: AnyHead, *args, **kwargs
) -> torch.Tensor:
    if isinstance(student_head, torch.Tensor) and not student_head.is_floating_point():
        return logits_loss(student_hidden_BTH, student_head, *args, **kwargs)  # until train/ has moved
    return loss_parts(student_hidden_BTH, student_head, *args, **kwargs).total


def loss_parts(
    student_hidden_BTH: torch.Tensor,
    student_head: AnyHead,
    labels_BT: torch.Tensor | None = None,
    *,
    teacher_hidden: torch.Tensor | None = None,
    teacher_head: AnyHead | None = None,
    teacher_logits: torch.Tensor | None = None,
    targets: SparseTargets | None = None,
    divergence: str = "forward-kl",
    beta: float = 0.5,
    skew: float = 0.1,
    distill_weight: float = 1.0,
    temperature: float = 1.0,
    z_weight: float = 0.0,
    num_tokens: float | torch.Tensor | None = None,
    ignore_index: int = -100,
    vocab_size: int | None = None,
    chunk_tokens: int | None = None,
) -> LossParts:
    """`distillation_loss` with its terms, for logging."""
    head = as_head(student_head)
    vocab = vocab_size or head.weight.shape[0]
    device = student_hidden_BTH.device
    dtype = student_hidden_BTH.dtype
    if torch.is_autocast_enabled(device.type) and dtype == torch.float32:
        dtype = torch.get_autocast_dtype(device.type)
    hidden_NH = student_hidden_BTH.flatten(0, -2)
    if labels_BT is None:
        labels_N, index_N = None, torch.arange(len(hidden_NH), device=device)
    else:
        labels_N = labels_BT.flatten()
        index_N = (labels_N != ignore_index).nonzero().squeeze(1)
    teacher: DenseTeacher | SparseTargets | None = None
    if targets is not None:
        teacher = targets.rows(None)
    elif teacher_logits is not None:
        teacher = DenseTeacher(rows=teacher_logits, head=None)
    elif teacher_hidden is not None:
        teacher = DenseTeacher(
            rows=teacher_hidden.flatten(0, -2).detach(), head=as_head(teacher_head).trimmed(vocab, dtype)
        )
    count = len(index_N) if num_tokens is None else float(num_tokens)
    work = Work(
        head=head.trimmed(vocab, dtype),
        labels_N=labels_N,
        teacher=teacher,
        index_N=index_N,
        objective=Objective(
            distill_weight=distill_weight if teacher is not None else 0.0,
            temperature=temperature,
            z_weight=z_weight,
            divergence=_divergence(divergence, beta=beta, skew=skew),
        ),
        scale=1 / max(count, 1),
        chunk_tokens=chunk_tokens or max(64, CHUNK_ENTRIES // vocab),
        wide=torch.float64 if dtype == torch.float64 else torch.float32,
    )
    inputs = (hidden_NH, head.weight, head.bias)
    wanted = tuple(torch.is_grad_enabled() and x is not None and x.requires_grad for x in inputs)
    total, parts = FusedLoss.apply(*inputs, work, wanted)
    distillation, next_token, z = parts.unbind()
    return LossParts(
        total, None if teacher is None else distillation, None if labels_N is None else next_token, z
    )


def _divergence(name: str, *, beta: float, skew: float) -> divergences.Divergence:
    """The divergence by name; JSD at its ends is, by the convention of GKD and TRL, the KL it tends to."""
    match name:
        case "forward-kl":
            return divergences.forward_kl
        case "reverse-kl":
            return divergences.reverse_kl
        case "jsd":
            ends = {0.0: divergences.forward_kl, 1.0: divergences.reverse_kl}
            return ends.get(beta) or divergences.jensen_shannon(beta)
        case "skew-kl":
            return divergences.skew_kl(skew) if skew else divergences.forward_kl
        case "skew-reverse-kl":
            return divergences.skew_reverse_kl(skew) if skew else divergences.reverse_kl
    raise ConfigError(
        f"divergence {name!r} is unknown; choose forward-kl, reverse-kl, jsd, skew-kl or skew-reverse-kl"
    )


def logits_loss(
    student_logits_BTV: torch.Tensor,
    labels_BT: torch.Tensor,
    teacher_logits_BTV: torch.Tensor | None = None,
    *,
    distill_weight: float = 1.0,
    temperature: float = 1.0,
    z_weight: float = 0.0,
) -> torch.Tensor:
    """Mean training loss per token, nats; differentiable in the student's logits.

    Args:
        student_logits_BTV: student logits, any float type; computed in float32 at least.
        labels_BT: next tokens, int64.
        teacher_logits_BTV: teacher logits over the same vocabulary; None trains on the labels alone.
        distill_weight: lambda in [0, 1]; ignored without a teacher.
        temperature: tau > 0.
        z_weight: lambda_Z >= 0.

    Returns:
        A scalar tensor.

    Raises:
        ValueError: shapes disagree, or a weight is out of its range.
    Source:
        Busbridge et al. 2025, arXiv 2502.08606v2, Eq. 2-6 (forms), section D.1 (defaults lambda = tau = 1).
    """
    if teacher_logits_BTV is not None and teacher_logits_BTV.shape != student_logits_BTV.shape:
        raise ValueError(
            f"student logits {tuple(student_logits_BTV.shape)} and teacher logits "
            f"{tuple(teacher_logits_BTV.shape)} differ: same batch and one vocabulary are needed"
        )
    if not 0 <= distill_weight <= 1 or temperature <= 0 or z_weight < 0:
        raise ValueError(
            f"distill_weight {distill_weight} must lie in [0, 1], temperature {temperature} above 0, "
            f"z_weight {z_weight} at or above 0"
        )
    weight = distill_weight if teacher_logits_BTV is not None else 0.0
    return _FusedLoss.apply(student_logits_BTV, labels_BT, teacher_logits_BTV, weight, temperature, z_weight)


class _FusedLoss(torch.autograd.Function):
    """Value and gradient together; the backward pass only scales what the forward pass computed."""

    @staticmethod
    def forward(ctx, student, labels, teacher, weight, temperature, z_weight):
        logits = student.detach().flatten(0, -2)
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        flat_labels = labels.flatten().unsqueeze(1)
        logsumexp = torch.logsumexp(logits, dim=-1, keepdim=True)
        gradient = torch.zeros_like(logits)
        value = logits.new_zeros(())
        if weight < 1:
            value = value + (1 - weight) * (logsumexp - logits.gather(1, flat_labels)).sum()
        if weight < 1 or z_weight:
            # d/dz of (1 - lambda) NTP + lambda_Z Z = softmax(z) * (1 - lambda + 2 lambda_Z lse) - onehot
            gradient = torch.exp(logits - logsumexp).mul_((1 - weight) + 2 * z_weight * logsumexp)
        if weight < 1:
            gradient.scatter_add_(1, flat_labels, gradient.new_full((len(logits), 1), weight - 1))
        if z_weight:
            value = value + z_weight * logsumexp.square().sum()
        if weight > 0:
            value = value + weight * _add_forward_kl(
                gradient, logits, teacher.flatten(0, -2), weight, temperature
            )
        ctx.save_for_backward(gradient.div_(len(logits)))
        ctx.shape, ctx.dtype = student.shape, student.dtype
        return value / len(logits)

    @staticmethod
    def backward(ctx, grad_output):
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_output).view(ctx.shape).to(ctx.dtype), None, None, None, None, None


def _add_forward_kl(
    gradient: torch.Tensor, student: torch.Tensor, teacher: torch.Tensor, weight: float, temperature: float
) -> torch.Tensor:
    """Sum of tau^2 KL over tokens; adds weight * tau (p_S - p_T), its gradient, in place."""
    log_student = functional.log_softmax(student / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher.to(student.dtype) / temperature, dim=-1)
    target = log_teacher.exp()
    kl = (target * (log_teacher - log_student)).sum() * temperature**2
    gradient.add_(log_student.exp_().sub_(target), alpha=weight * temperature)
    return kl
