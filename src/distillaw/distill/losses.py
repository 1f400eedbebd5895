"""The training loss: next-token cross-entropy, a divergence towards a teacher, and a z-loss.

    loss = (1 - lambda) NTP + lambda tau^2 D(p_T, p_S) + lambda_Z (log sum exp z_S)^2

Every term is a mean over the tokens that count; p are softmax(z / tau). It is computed from hidden states and
heads, chunk by chunk (distill/fused.py), so that no tensor of tokens x vocabulary exists. The forward KL differs
from the cross-entropy of arXiv 2502.08606v2 (section 2, "KD") by the teacher's entropy, which is constant for the
student, so that zero means a perfect match. What is checked before the work begins is in distill/checks.py.
Shape suffixes: B sequence, T position, N token (B and T flattened), V vocabulary, H student width.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import torch

from distillaw.distill import checks
from distillaw.distill.divergences import divergence_named
from distillaw.distill.fused import DenseTeacher, FusedLoss, LossObjective, Work
from distillaw.distill.heads import Head, SparseTargets, as_head

AnyHead = torch.nn.Linear | torch.Tensor | Head

CHUNK_ENTRIES = {"cpu": 2**20, "other": 2**26}
"""Logits of a chunk: on an accelerator 256 MiB in float32 keep it busy (not measured)."""
MIN_CHUNK_TOKENS = 256
"""Fewer rows than this make the matrix products slow, however large the vocabulary."""
BLOCK_ENTRIES = {"cpu": 2**19, "other": 2**26}
"""Logits of a block: 2 MiB in float32 and their companions stay in a processor's cache."""

P = ParamSpec("P")
R = TypeVar("R")


class LossParts(NamedTuple):
    """The loss and its terms: total = (1 - lambda) next_token + lambda distillation + lambda_Z z.

    The last three are detached means per token.
    """

    total: torch.Tensor
    """Differentiable in the student's hidden states and head."""
    distillation: torch.Tensor | None
    """tau^2 times the divergence, nats; None without a teacher or at lambda = 0."""
    next_token: torch.Tensor | None
    """Cross-entropy against the labels, nats; None without labels."""
    z: torch.Tensor
    """Squared log sum exp of the logits."""


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
    top_k: int = 0,
    top_p: float = 1.0,
    distill_weight: float = 1.0,
    temperature: float = 1.0,
    z_weight: float = 0.0,
    num_tokens: float | torch.Tensor | None = None,
    ignore_index: int | None = -100,
    vocab_size: int | None = None,
    chunk_tokens: int | None = None,
) -> LossParts:
    """`distillation_loss` together with its terms, for logging; same arguments, same errors."""
    head = as_head(student_head)
    given = as_head(teacher_head) if teacher_head is not None else None
    checks.check_numbers(
        distill_weight=distill_weight,
        temperature=temperature,
        z_weight=z_weight,
        beta=beta,
        skew=skew,
        chunk_tokens=chunk_tokens,
    )
    checks.check_sources(teacher_hidden, given, teacher_logits, targets)
    checks.check_shapes(student_hidden_BTH, head, labels_BT, teacher_hidden, given, teacher_logits, targets)
    vocab = checks.common_vocabulary(vocab_size, head, given, teacher_logits)
    if targets is not None:
        checks.check_targets(targets, divergence=divergence, temperature=temperature, vocab=vocab)
    teacher = targets.rows(None) if targets is not None else _dense(teacher_hidden, given, teacher_logits, vocab)
    checks.check_use(labels_BT, teacher is not None, distill_weight)
    if teacher is not None and (top_k or top_p != 1):
        checks.check_truncation(
            top_k, top_p, divergence=divergence, beta=beta, skew=skew, vocab=vocab, is_stored=targets is not None
        )
    teacher = teacher if distill_weight else None
    labels_N, index_N = _counted(labels_BT, student_hidden_BTH, ignore_index, vocab)
    hidden_NH = student_hidden_BTH.flatten(0, -2)
    dtype = _product_dtype(hidden_NH, head.weight)
    work = Work(
        head=head.trimmed(vocab, dtype),
        labels=labels_N,
        teacher=teacher,
        index=index_N,
        objective=LossObjective(
            distill_weight=distill_weight if teacher is not None else 0.0,
            temperature=temperature,
            z_weight=z_weight,
            divergence=divergence_named(divergence, beta=beta, skew=skew),
            top_k=top_k,
            top_p=top_p,
        ),
        scale=1 / checks.token_count(num_tokens, len(index_N)),
        chunk_tokens=chunk_tokens or max(MIN_CHUNK_TOKENS, _entries(CHUNK_ENTRIES, hidden_NH) // vocab),
        block_tokens=max(1, _entries(BLOCK_ENTRIES, hidden_NH) // vocab),
        wide=torch.promote_types(dtype, torch.float32),
    )
    inputs = (hidden_NH, head.weight, head.bias)
    wanted = tuple(torch.is_grad_enabled() and x is not None and x.requires_grad for x in inputs)
    total, parts = FusedLoss.apply(*inputs, work, wanted)
    distillation, next_token, z = parts.unbind()
    return LossParts(total, None if teacher is None else distillation, None if labels_N is None else next_token, z)


def _with_arguments_of(model: Callable[P, object]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Give a function the signature of another, for readers and type checkers alike."""

    def decorate(function: Callable[..., R]) -> Callable[P, R]:
        returns = inspect.signature(function).return_annotation
        vars(function)["__signature__"] = inspect.signature(model).replace(return_annotation=returns)
        return function

    return decorate


@_with_arguments_of(loss_parts)
def distillation_loss(*arguments, **options) -> torch.Tensor:
    """Mean training loss per token in nats, from hidden states; its gradients are computed on the way.

    Args:
        student_hidden_BTH: last hidden states, (B, T, H) or (N, H), float64, float32, bfloat16 or float16.
        student_head: a `torch.nn.Linear`, its weight (V, H), or a `Head` (bias, logit scale, soft cap). Gets its
            gradient like any input, tied to the embedding or not.
        labels_BT: next tokens, int64; `ignore_index` marks positions that count for nothing, in no term. May be
            None at distill_weight 1.
        teacher_hidden: teacher's last hidden states (B, T, H_T), with
        teacher_head: in the forms of `student_head`; or
        teacher_logits: (B, T, V), any float type, -inf for impossible tokens; or
        targets: stored `SparseTargets`, for the forward KL at their own temperature. Without any of these four
            the loss is the next-token cross-entropy, whatever distill_weight says.
        divergence: of p (teacher) and q (student), both at the temperature:
            "forward-kl" KL(p || q);
            "reverse-kl" KL(q || p);
            "jsd" beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q;
            "skew-kl" KL(p || skew p + (1 - skew) q);
            "skew-reverse-kl" KL(q || (1 - skew) p + skew q).
        beta: of "jsd", in [0, 1]. JSD / beta tends to the forward KL as beta -> 0, JSD / (1 - beta) to the reverse
            KL as beta -> 1; at the ends themselves those KLs are taken, as GKD and TRL do.
        skew: of the skewed KLs, in [0, 1); 0 is the plain KL.
        top_k: keep only the teacher's k likeliest tokens, renormalised; 0 keeps all.
        top_p: keep only the fewest of its likeliest tokens whose mass, at the temperature, is at least this. With
            top_k: of those k. Not for the reverse KL, which is infinite off the teacher's support, nor for `targets`.
        distill_weight: lambda in [0, 1].
        temperature: tau > 0; the divergence is multiplied by tau^2, next token and z-loss stay at 1.
        z_weight: lambda_Z >= 0.
        num_tokens: what the sum over tokens is divided by; default: the positions that count here. With the number
            of the whole step (all micro-batches and ranks) the sum of the losses is the step's mean, exactly.
        ignore_index: the label of positions left out; None: there is none, and labels are not looked at, so that
            nothing waits for an accelerator.
        vocab_size: use the first so many tokens of both heads, which may be padded to different sizes; padding
            rows get a zero gradient. Default: all, and then both sizes must agree.
        chunk_tokens: tokens worked on at a time; default from the vocabulary and the device.

    Returns:
        A scalar, float32 at least; 0 with zero gradients where no position counts.

    Raises:
        ConfigError: an option out of range, or options that exclude each other.
        DataError: shapes or types that do not fit.
        VocabularyError: teacher and student have different vocabularies, or a label lies outside.

    Validity:
        Matrix products run in the type of the inputs (under autocast, in its type), everything else in float32;
        the head's gradient is summed in float32. Not twice differentiable.

    Source:
        Busbridge et al. 2025, arXiv 2502.08606v2, Eq. 2-6 (forms), section D.1 (defaults lambda = tau = 1);
        divergences: distill/divergences.py; sparse targets, truncation: distill/heads.py.

    Example:
        >>> hidden, head = torch.zeros(1, 3, 4), torch.nn.Linear(4, 8, bias=False)
        >>> round(distillation_loss(hidden, head, torch.tensor([[1, 2, -100]])).item(), 4)  # log 8
        2.0794
    """
    return loss_parts(*arguments, **options).total


def _dense(
    hidden: torch.Tensor | None, head: Head | None, logits: torch.Tensor | None, vocab: int
) -> DenseTeacher | None:
    if hidden is not None and head is not None:
        head = head.trimmed(vocab, _product_dtype(hidden, head.weight))
        return DenseTeacher(rows=hidden.detach().flatten(0, -2), head=head)
    if logits is not None:
        return DenseTeacher(rows=logits.detach(), head=None)
    return None


def _counted(
    labels_BT: torch.Tensor | None, hidden: torch.Tensor, ignore_index: int | None, vocab: int
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Flat labels, and the flat positions that count."""
    if labels_BT is None:
        return None, torch.arange(hidden.shape[:-1].numel(), device=hidden.device)
    labels_N = labels_BT.flatten()
    if ignore_index is None:
        return labels_N, torch.arange(len(labels_N), device=labels_N.device)
    index_N = (labels_N != ignore_index).nonzero().squeeze(1)
    checks.check_ids(labels_N[index_N], vocab, "labels")
    return labels_N, index_N


def _product_dtype(hidden: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
    """Type of hidden @ weight.T: autocast's where it is on, else the wider of the two."""
    dtype, device = torch.promote_types(hidden.dtype, weight.dtype), hidden.device.type
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return dtype


def _entries(table: dict[str, int], tensor: torch.Tensor) -> int:
    return table["cpu" if tensor.device.type == "cpu" else "other"]
