"""Value and gradient of each divergence between a teacher p and a student q, for one chunk of tokens.

With u the student's logits over the temperature and q = softmax(u), every gradient has the form

    d D / d u_i = q_i (g_i - sum_j q_j g_j),     g = dD/dq

so a multiple of q that other terms of the loss ask for ("shift", a number or one per token) is added on the
way for nothing. Each function returns D per token and leaves `weight * dD/du + shift * q` in the student's
probability buffer; it may overwrite every buffer it is given. Mixtures are formed in the linear domain and
floored at the smallest normal number: where a mixture underflows both of its parts have, and count nothing.

Sources: Agarwal et al. 2023, arXiv 2306.13649 (JSD(beta)); Ko et al. 2024, arXiv 2402.03898 (skew KL and skew
reverse KL, alpha there); Anshumann et al. 2025, arXiv 2503.16870 (sampled targets).
Shape suffixes: N token, V vocabulary, K kept token.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from distillaw.distill.heads import SparseTargets
from distillaw.errors import ConfigError


class Softmax(NamedTuple):
    """A distribution per token in three forms: logits and probabilities (N, V), log sum exp (N, 1)."""

    logits: torch.Tensor
    probs: torch.Tensor
    logsumexp: torch.Tensor

    def log_probs_(self) -> torch.Tensor:
        """Logarithms of the probabilities, in the buffer of the logits."""
        return self.logits.sub_(self.logsumexp)


Shift = torch.Tensor | float
Divergence = Callable[[Softmax, Softmax, float, Shift], torch.Tensor]
"""(student, teacher, weight, shift) -> value per token (N,); the gradient is left in `student.probs`."""


def softmax_into(logits_NV: torch.Tensor, out_NV: torch.Tensor) -> Softmax:
    """Softmax with one exponential per entry: the largest probability gives log sum exp without another.

    `out_NV` may be the logits themselves if nobody asks for them again.
    """
    top_N1 = logits_NV.amax(-1, keepdim=True)
    torch.softmax(logits_NV, dim=-1, out=out_NV)
    return Softmax(logits_NV, out_NV, top_N1 - out_NV.amax(-1, keepdim=True).log_())


def forward_kl(student: Softmax, teacher: Softmax, weight: float, shift: Shift) -> torch.Tensor:
    """KL(p || q): g = -p / q."""
    q_NV, p_NV = student.probs, teacher.probs
    product_NV = teacher.logits.sub_(student.logits).mul_(p_NV)
    value_N = product_NV.sum(-1) + (student.logsumexp - teacher.logsumexp).squeeze(1)
    _scale(q_NV, shift + weight).sub_(p_NV, alpha=weight)
    return value_N.clamp_(min=0)


def reverse_kl(student: Softmax, teacher: Softmax, weight: float, shift: Shift) -> torch.Tensor:
    """KL(q || p): g = log(q / p) + 1."""
    ratio_NV = student.log_probs_().sub_(teacher.log_probs_())
    return _through_softmax(student.probs, ratio_NV, weight, shift).clamp_(min=0)


def jensen_shannon(beta: float) -> Divergence:
    """Generalised JSD: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q, 0 < beta < 1."""

    def divergence(student: Softmax, teacher: Softmax, weight: float, shift: Shift) -> torch.Tensor:
        log_m_NV = _mixture(student, teacher, teacher_share=beta).log_()
        teacher_N = teacher.log_probs_().sub_(log_m_NV).mul_(teacher.probs).sum(-1)
        ratio_NV = student.log_probs_().sub_(log_m_NV)
        student_N = _through_softmax(student.probs, ratio_NV, weight * (1 - beta), shift)
        return (beta * teacher_N + (1 - beta) * student_N).clamp_(min=0)

    return divergence


def skew_kl(skew: float) -> Divergence:
    """KL(p || m), m = skew p + (1 - skew) q, 0 < skew < 1: g = -(1 - skew) p / m."""

    def divergence(student: Softmax, teacher: Softmax, weight: float, shift: Shift) -> torch.Tensor:
        m_NV = _mixture(student, teacher, teacher_share=skew)
        ratio_NV = torch.div(teacher.probs, m_NV, out=student.logits)
        value_N = teacher.log_probs_().sub_(m_NV.log_()).mul_(teacher.probs).sum(-1)
        _through_softmax(student.probs, ratio_NV, -weight * (1 - skew), shift)
        return value_N.clamp_(min=0)

    return divergence


def skew_reverse_kl(skew: float) -> Divergence:
    """KL(q || m), m = (1 - skew) p + skew q, 0 < skew < 1: g = log(q / m) - skew q / m + 1."""

    def divergence(student: Softmax, teacher: Softmax, weight: float, shift: Shift) -> torch.Tensor:
        m_NV = _mixture(student, teacher, teacher_share=1 - skew)
        share_NV = torch.div(student.probs, m_NV, out=teacher.logits)
        ratio_NV = student.log_probs_().sub_(m_NV.log_())
        value_N = m_NV.copy_(ratio_NV).mul_(student.probs).sum(-1)
        _through_softmax(student.probs, ratio_NV.sub_(share_NV, alpha=skew), weight, shift)
        return value_N.clamp_(min=0)

    return divergence


def _mixture(student: Softmax, teacher: Softmax, *, teacher_share: float) -> torch.Tensor:
    m_NV = torch.lerp(student.probs, teacher.probs, teacher_share)
    return m_NV.clamp_(min=torch.finfo(m_NV.dtype).tiny)


def _through_softmax(q_NV: torch.Tensor, g_NV: torch.Tensor, weight: float, shift: Shift) -> torch.Tensor:
    """Leave `weight * q (g - sum q g) + shift * q` in `q_NV`; returns sum q g per token."""
    g_NV.mul_(q_NV)
    mean_N1 = g_NV.sum(-1, keepdim=True)
    q_NV.mul_(shift - weight * mean_N1).add_(g_NV, alpha=weight)
    return mean_N1.squeeze(1)


def _scale(q_NV: torch.Tensor, factor: Shift) -> torch.Tensor:
    return q_NV if isinstance(factor, float) and factor == 1 else q_NV.mul_(factor)


def sparse_forward_kl(student: Softmax, targets: SparseTargets, weight: float, shift: Shift) -> torch.Tensor:
    """KL or cross-entropy towards sparse targets; the same contract as the dense divergences.

    With w the weights, S their tokens, r the residual, r_s = sum of q outside S and W = sum w + r:
    value = -sum_S w log q - r log r_s, less sum_S -w log w - r log r (with a residual: the KL of the coarse
    distributions) or less the teacher's entropy (without); gradient = q (W - [outside S] r / r_s) - w.
    """
    q_NV, w_NK, ids_NK = student.probs, targets.weights.to(student.probs.dtype), targets.ids
    log_q_NK = student.logits.gather(1, ids_NK) - student.logsumexp
    value_N = -(w_NK * log_q_NK).sum(-1)
    mass_N1 = w_NK.sum(-1, keepdim=True)
    if targets.residual is None:
        _scale(q_NV, shift + weight * mass_N1).scatter_add_(1, ids_NK, w_NK * -weight)
        return value_N if targets.entropy is None else value_N - targets.entropy.to(value_N.dtype)
    r_N1 = targets.residual.to(q_NV.dtype).unsqueeze(1)
    kept_NK = q_NV.gather(1, ids_NK).masked_fill_(w_NK == 0, 0)
    q_NV.scatter_add_(1, ids_NK, -kept_NK)
    outside_N1 = q_NV.sum(-1, keepdim=True).clamp_(min=torch.finfo(q_NV.dtype).tiny)
    total_N1 = shift + weight * (mass_N1 + r_N1)
    q_NV.mul_(total_N1 - weight * r_N1 / outside_N1)
    q_NV.scatter_add_(1, ids_NK, total_N1 * kept_NK - weight * w_NK)
    own_N = torch.xlogy(w_NK, w_NK).sum(-1) + torch.xlogy(r_N1, r_N1).squeeze(1)
    return value_N + own_N - (r_N1 * outside_N1.log()).squeeze(1)


def divergence_named(name: str, *, beta: float, skew: float) -> Divergence:
    """A dense divergence by name; JSD at its ends is, as GKD and TRL have it, the KL it tends to.

    Raises:
        ConfigError: no such divergence.
    """
    match name:
        case "forward-kl":
            return forward_kl
        case "reverse-kl":
            return reverse_kl
        case "jsd":
            return {0.0: forward_kl, 1.0: reverse_kl}.get(beta) or jensen_shannon(beta)
        case "skew-kl":
            return skew_kl(skew) if skew else forward_kl
        case "skew-reverse-kl":
            return skew_reverse_kl(skew) if skew else reverse_kl
    raise ConfigError(f"divergence {name!r} is unknown; choose forward-kl, reverse-kl, jsd, skew-kl or skew-reverse-kl")
