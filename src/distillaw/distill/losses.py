"""The training loss: next-token cross-entropy, forward KL towards a teacher, and a z-loss.

    loss = (1 - lambda) NTP + lambda tau^2 KL(p_T || p_S) + lambda_Z (log sum exp z_S)^2

NTP, KL and Z are means over the tokens of the batch; p are softmax(z / tau). The KL differs from the
cross-entropy of arXiv 2502.08606v2 (section 2, "KD") by the teacher's entropy, which is constant for the
student, so that zero means a perfect match. Forward and backward are one pass each with the gradient written
out (`softmax(z) - target` and its kin): no intermediate of the vocabulary's width is kept but the gradient.
Shape suffixes: B sequence, T position, V vocabulary.
"""

import torch
from torch.nn import functional


def distillation_loss(
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
