"""The declared objective in closed form, in float64: value per token, weight per token, gradient by logits.

    loss = sum_t a_t D_t + b_t CE_t (+ z),   a_t = distill_weight T^2 w_t,   b_t = hard_weight w_t

D and CE know nothing of masks and means, w nothing of divergences: so a gradient that is observed can be taken apart
into what a position computes and how much it counts (recognise.py). Definitions are those of distill/divergences.py,
written here once more in the plainest form and differentiated by autograd, so that neither hides a fault of the other.
Shape suffixes: P position (rows and time flattened), V vocabulary.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from distillaw.audit.contract import DeclaredLoss, load

LOW = -1e30
"""Stands for -inf among logits."""
PerToken = Callable[[torch.Tensor, torch.Tensor, DeclaredLoss], torch.Tensor]
"""(student logits, teacher logits, objective) -> value per position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Positions of one or several batches, flattened, with all that a loss may know of them."""

    student: torch.Tensor
    """(P, V), float64."""
    teacher: torch.Tensor
    """(P, V_T), float64."""
    targets: torch.Tensor
    """(P,), the next token where it counts, else -100."""
    row: torch.Tensor
    """(P,), number of the row."""
    position: torch.Tensor
    """(P,), place within the row."""
    real: torch.Tensor
    """(P,), whether the token and its next are no padding."""
    part: torch.Tensor
    """(P,), number of the micro-batch."""
    num_rows: int
    ends: torch.Tensor
    """(P,), whether it is the last position of its row of the batch."""
    num_tokens: float | None = None
    """What the argument num_tokens says."""

    @property
    def counted(self) -> torch.Tensor:
        """Supervised positions."""
        return self.targets >= 0

    def of(self, part: int) -> torch.Tensor:
        """Positions of one micro-batch."""
        return self.part == part


def log_pair(student: torch.Tensor, teacher: torch.Tensor, o: DeclaredLoss) -> tuple[torch.Tensor, torch.Tensor]:
    """Log p and log q of a position, at the temperature, cut and truncated as declared."""
    vocab = min(student.shape[-1], teacher.shape[-1])
    assert o.temperature is not None
    u = student[..., :vocab] / o.temperature
    v = (teacher[..., :vocab] / (o.teacher_temperature or o.temperature)).clamp_min(LOW)
    if not o.top_k or o.top_k >= vocab:
        return v.log_softmax(-1), u.log_softmax(-1)
    ids = (v if o.top_k_of == "teacher" else u).topk(o.top_k, -1).indices
    dropped = torch.ones_like(v, dtype=torch.bool).scatter(-1, ids, False)
    if o.top_k_rule == "subset":
        return v.masked_fill(dropped, LOW).log_softmax(-1), u.masked_fill(dropped, LOW).log_softmax(-1)
    if o.top_k_rule == "renormalised":
        return v.masked_fill(dropped, LOW).log_softmax(-1), u.log_softmax(-1)
    log_p, log_q = v.log_softmax(-1), u.log_softmax(-1)
    if o.top_k_rule == "zero":
        return log_p.masked_fill(dropped, LOW), log_q

    def with_tail(x: torch.Tensor) -> torch.Tensor:
        tail = x.masked_fill(~dropped, LOW).logsumexp(-1, keepdim=True)
        return torch.cat([x.gather(-1, ids), tail], -1)

    return with_tail(log_p), with_tail(log_q)


def entries(log_p: torch.Tensor, log_q: torch.Tensor, o: DeclaredLoss) -> torch.Tensor:
    """What each vocabulary entry adds to the divergence."""
    p, q = log_p.exp(), log_q.exp()
    beta, skew = o.beta or 0.0, o.skew or 0.0

    def mixture(share: float) -> torch.Tensor:
        if share <= 0 or share >= 1:
            return log_p if share >= 1 else log_q
        return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))

    match o.divergence:
        case "forward-kl":
            return p * (log_p - log_q)
        case "reverse-kl":
            return q * (log_q - log_p)
        case "jsd" if 0 < beta < 1:
            m = mixture(beta)
            return beta * p * (log_p - m) + (1 - beta) * q * (log_q - m)
        case "jsd":
            return p * (log_p - log_q) if beta == 0 else q * (log_q - log_p)
        case "symmetric-kl":
            return beta * p * (log_p - log_q) + (1 - beta) * q * (log_q - log_p)
        case "skew-kl":
            return p * (log_p - mixture(skew))
        case "skew-reverse-kl":
            return q * (log_q - mixture(1 - skew))
        case "tvd":
            return (p - q).abs() / 2
        case "mse-probs":
            return (p - q).square() / p.shape[-1]
    raise ValueError(o.divergence)


def per_token(student: torch.Tensor, teacher: torch.Tensor, o: DeclaredLoss) -> torch.Tensor:
    """The declared divergence of each position, (P,), without T^2 and weights."""
    if o.divergence == "none":
        return student.sum(-1) * 0
    if o.divergence == "mse-logits":
        vocab = min(student.shape[-1], teacher.shape[-1])
        assert o.temperature is not None
        gap = student[..., :vocab] / o.temperature - teacher[..., :vocab] / (o.teacher_temperature or o.temperature)
        return gap.square().mean(-1)
    log_p, log_q = log_pair(student, teacher, o)
    if o.divergence is not None and ":" in o.divergence:
        return load(o.divergence)(log_p, log_q)
    each = entries(log_p, log_q, o)
    if o.clip_rule == "entry":
        each = each.clamp(max=o.clip)
    total = each.sum(-1)
    return total.clamp(max=o.clip) if o.clip_rule == "token" else total


def hard_token(student: torch.Tensor, targets: torch.Tensor, o: DeclaredLoss) -> torch.Tensor:
    """Cross-entropy to the label of each position, 0 where there is none, (P,)."""
    has = targets >= 0
    losses = torch.nn.functional.cross_entropy(
        student / o.hard_temperature, targets.clamp_min(0), reduction="none", label_smoothing=o.label_smoothing
    )
    return torch.where(has, losses, 0.0)


def weights(rows: Rows, o: DeclaredLoss, *, per: str = "update") -> tuple[torch.Tensor, torch.Tensor]:
    """How much each position counts in the divergence and in the cross-entropy, (P,) each; 1/T^2 and all included."""
    masks = {"labels": rows.counted, "attention": rows.real, "all": everywhere(rows, o), "given": rows.counted}
    assert o.mask and o.reduction and o.temperature and o.distill_weight is not None
    assert o.hard_weight is not None
    soft = _reduced(masks[o.mask], rows, o.reduction, o, per)
    hard = _reduced(rows.counted, rows, o.hard_reduction or o.reduction, o, per)
    squared = o.temperature**2 if o.temperature_squared else 1.0
    return soft * o.distill_weight * squared, hard * o.hard_weight


def everywhere(rows: Rows, o: DeclaredLoss) -> torch.Tensor:
    """All positions that a loss sees, (P,): where it moves labels itself the last of a row has no target."""
    return ~rows.ends if o.shift == "inside" else torch.ones_like(rows.ends)


def _reduced(mask: torch.Tensor, rows: Rows, reduction: str, o: DeclaredLoss, per: str) -> torch.Tensor:
    if per == "micro-batch":
        parts = int(rows.part.max()) + 1
        total = torch.zeros(len(mask), dtype=torch.float64)
        for part in range(parts):
            here = rows.of(part)
            numbers = torch.unique(rows.row[here], return_inverse=True)
            one = dataclasses.replace(rows, row=numbers[1], num_rows=len(numbers[0]), ends=rows.ends[here])
            total[here] = _share(mask[here], one, reduction, o) / parts
        return total
    return _share(mask, rows, reduction, o)


def _share(mask: torch.Tensor, rows: Rows, reduction: str, o: DeclaredLoss) -> torch.Tensor:
    """One over what a counted position is divided by."""
    m = mask.to(torch.float64)
    count = m.sum().clamp_min(1)
    per_row = torch.zeros(rows.num_rows, dtype=torch.float64).index_add(0, rows.row, m)
    rule = o.empty_rows or ("skip" if reduction == "sequence-mean" else "count")
    filled = float((per_row > 0).sum()) if rule == "skip" else float(rows.num_rows)
    match reduction:
        case "token-mean":
            return m / count
        case "sequence-mean":
            return m / per_row.clamp_min(1)[rows.row] / max(filled, 1)
        case "sum":
            return m
        case "row-mean":
            return m / max(filled, 1)
        case "position-mean":
            return m / everywhere(rows, o).sum()
        case "constant":
            return m / o.denominator
        case "given":
            return m / (count if rows.num_tokens is None else rows.num_tokens)
    raise ValueError(reduction)


def slope(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """Gradient of a sum, by autograd."""
    with torch.enable_grad():
        x = at.detach().clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(function(x).sum(), x, allow_unused=True)
    return torch.zeros_like(at) if gradient is None else gradient


@dataclass(frozen=True, slots=True)
class Closed:
    """What the contract says of some positions."""

    value: float
    gradient: torch.Tensor
    """(P, V)."""
    soft: torch.Tensor
    """D by logits, (P, V)."""
    hard: torch.Tensor
    """CE by logits, (P, V)."""
    z: torch.Tensor
    """The z-loss's part of the gradient, (P, V)."""
    a: torch.Tensor
    b: torch.Tensor
    entropy: float
    """Of the teacher, weighted as the divergence: what a cross-entropy to it is above the KL."""


def closed_form(rows: Rows, o: DeclaredLoss, *, per: str = "update") -> Closed:
    """Value and gradient of the declared objective."""
    a, b = weights(rows, o, per=per)
    common = min(rows.student.shape[-1], rows.teacher.shape[-1])
    columns = common if o.vocabulary == "cut-both" else rows.student.shape[-1]
    soft = slope(lambda s: per_token(s, rows.teacher, o), rows.student)
    hard = slope(lambda s: hard_token(s[:, :columns], rows.targets, o), rows.student)
    value = a @ per_token(rows.student, rows.teacher, o).where(a != 0, 0)
    value = value + b @ hard_token(rows.student[:, :columns], rows.targets, o)
    z = torch.zeros_like(soft)
    if o.z_weight:
        share = _reduced(rows.counted, rows, o.hard_reduction or o.reduction or "", o, per) * o.z_weight
        z = share[:, None] * slope(lambda s: s.logsumexp(-1).square(), rows.student)
        value = value + share @ rows.student.logsumexp(-1).square()
    # where nothing counts nothing may be looked at: a teacher's row there can be anything
    soft = torch.where((a != 0)[:, None] | soft.isfinite(), soft, 0.0)
    gradient = torch.where((a != 0)[:, None], a[:, None] * soft, 0.0) + b[:, None] * hard + z
    log_p, _ = log_pair(rows.student, rows.teacher, o)
    entropy = -(a @ (log_p.exp() * log_p).sum(-1))
    return Closed(float(value.detach()), gradient.detach(), soft, hard, z, a, b, float(entropy.detach()))
