"""What the loss refuses, each with the values seen and what to do; nothing here touches the work itself."""

from collections.abc import Callable

import torch

from distillaw.distill.heads import Head, SparseTargets
from distillaw.errors import ConfigError, DataError, VocabularyError
from distillaw.runs.spec import is_reverse_kl

_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "distill_weight": (lambda value: 0 <= value <= 1, "lie in [0, 1]"),
    "temperature": (lambda value: 0 < value < float("inf"), "be above 0"),
    "z_weight": (lambda value: 0 <= value < float("inf"), "be 0 or above"),
    "beta": (lambda value: 0 <= value <= 1, "lie in [0, 1]"),
    "skew": (lambda value: 0 <= value < 1, "lie in [0, 1)"),
    "chunk_tokens": (lambda value: value >= 1, "be 1 or more"),
}


def check_numbers(**numbers: float | None) -> None:
    """Every number in its range."""
    for name, value in numbers.items():
        holds, rule = _RULES[name]
        if value is not None and not holds(value):
            raise ConfigError(f"distillation loss: {name} is {value} and must {rule}")


def check_sources(
    hidden: torch.Tensor | None, head: Head | None, logits: torch.Tensor | None, targets: SparseTargets | None
) -> None:
    """One kind of teacher at most, and a whole one."""
    if (hidden is None) != (head is None):
        missing = "teacher_head" if head is None else "teacher_hidden"
        raise ConfigError(f"distillation loss: {missing} is missing; hidden states and head go together")
    kinds = {"teacher_hidden": hidden, "teacher_logits": logits, "targets": targets}
    given = [name for name, value in kinds.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"distillation loss: {' and '.join(given)} are given; pass one kind of teacher")


def check_use(labels: torch.Tensor | None, has_teacher: bool, distill_weight: float) -> None:
    """Labels are there where the loss needs them."""
    if labels is None and (distill_weight < 1 or not has_teacher):
        why = f"distill_weight is {distill_weight}" if has_teacher else "there is no teacher"
        raise ConfigError(f"distillation loss: {why}, so the next tokens are needed: pass labels")


def check_shapes(
    hidden: torch.Tensor,
    head: Head,
    labels: torch.Tensor | None,
    teacher_hidden: torch.Tensor | None,
    teacher_head: Head | None,
    teacher_logits: torch.Tensor | None,
    targets: SparseTargets | None,
) -> None:
    """Widths fit their heads, and everything is about the same positions."""
    if hidden.dim() not in (2, 3) or not hidden.is_floating_point():
        raise DataError(
            f"student hidden states: {tuple(hidden.shape)} {hidden.dtype}; (batch, time, width) floats are needed"
        )
    _check_width("student", hidden, head)
    if teacher_hidden is not None and teacher_head is not None:
        _check_width("teacher", teacher_hidden, teacher_head)
    if labels is not None and (labels.is_floating_point() or labels.dtype == torch.bool):
        raise DataError(f"labels: {labels.dtype}; next tokens are integers")
    positions = hidden.shape[:-1]
    ids = None if targets is None else targets.ids
    others = {"teacher_hidden": teacher_hidden, "teacher_logits": teacher_logits, "targets": ids}
    shapes = {name: each.shape[:-1] for name, each in others.items() if each is not None}
    for name, shape in (shapes if labels is None else {"labels": labels.shape} | shapes).items():
        if shape != positions:
            raise DataError(
                f"{name}: positions {tuple(shape)}, but the student's hidden states have {tuple(positions)}; "
                "pass the same sequences, labels already moved by one token"
            )


def _check_width(whose: str, hidden: torch.Tensor, head: Head) -> None:
    if hidden.shape[-1] != head.weight.shape[1]:
        raise DataError(
            f"{whose}: hidden states {tuple(hidden.shape)} do not fit a head {tuple(head.weight.shape)} "
            "(vocabulary, width)"
        )


def common_vocabulary(
    vocab_size: int | None, head: Head, teacher_head: Head | None, teacher_logits: torch.Tensor | None
) -> int:
    """Number of tokens that the loss is over.

    Raises:
        VocabularyError: the sizes differ and `vocab_size` does not say what they share, or it is above one of them.
    """
    sizes = {"student": head.weight.shape[0]}
    if teacher_head is not None:
        sizes["teacher"] = teacher_head.weight.shape[0]
    if teacher_logits is not None:
        sizes["teacher"] = teacher_logits.shape[-1]
    seen = " and ".join(f"{name} {size}" for name, size in sizes.items())
    if vocab_size is None:
        if len(set(sizes.values())) > 1:
            raise VocabularyError(
                f"vocabularies of {seen} tokens: one vocabulary is needed. If both use one tokenizer and are only "
                "padded differently, pass vocab_size, the tokenizer's number of tokens"
            )
        return sizes["student"]
    if not 1 <= vocab_size <= min(sizes.values()):
        raise VocabularyError(f"vocab_size {vocab_size}: heads have {seen} rows; it must lie between 1 and the smaller")
    return vocab_size


def check_targets(targets: SparseTargets, *, divergence: str, temperature: float, vocab: int) -> None:
    """Stored targets carry a forward KL at one temperature and nothing else."""
    if divergence != "forward-kl":
        raise ConfigError(
            f"stored targets with {divergence}: they hold a few tokens per position, and only the forward KL needs "
            "no more of the teacher. Use forward-kl, or teacher_logits"
        )
    if temperature != targets.temperature:
        raise ConfigError(
            f"stored targets at temperature {targets.temperature} cannot give temperature {temperature}: "
            f"pass temperature={targets.temperature} or store them again"
        )
    check_ids(targets.ids, vocab, "targets")


def check_truncation(
    top_k: int, top_p: float, *, divergence: str, beta: float, skew: float, vocab: int, is_stored: bool
) -> None:
    """A truncation that keeps something and drops something, of a whole teacher, under a divergence that is finite."""
    if not 0 <= top_k < vocab:
        raise ConfigError(
            f"distillation loss: top_k is {top_k}; it must lie between 1 and {vocab - 1}, less than the vocabulary, or "
            "be 0 to keep all tokens"
        )
    if not 0 < top_p <= 1:
        raise ConfigError(f"distillation loss: top_p is {top_p} and must lie in (0, 1]; 1 keeps all tokens")
    if is_stored:
        raise ConfigError(
            f"distillation loss: top_k {top_k} and top_p {top_p} with stored targets, which were reduced when they "
            "were stored. Truncate a teacher that reads along, or leave top_k and top_p out"
        )
    if is_reverse_kl(divergence, beta=beta, skew=skew):
        raise ConfigError(
            f"distillation loss: {divergence} (beta {beta}, skew {skew}) towards a truncated teacher (top_k {top_k}, "
            f"top_p {top_p}) is infinite wherever the student has mass and the teacher none. Use forward-kl, or "
            "skew-reverse-kl with skew above 0"
        )


def check_ids(ids: torch.Tensor, vocab: int, name: str) -> None:
    """Every id is a token."""
    if ids.numel() == 0:
        return
    low, high = torch.aminmax(ids)
    if low < 0 or high >= vocab:
        raise VocabularyError(
            f"{name}: ids from {int(low)} to {int(high)}, but the vocabulary has {vocab} tokens (0 to {vocab - 1}); "
            "is this text of another tokenizer, or another ignore_index?"
        )


def token_count(num_tokens: float | torch.Tensor | None, counted: int) -> float:
    """What sums are divided by: above 0, and 1 where there is nothing to divide."""
    if counted == 0:
        return 1.0
    count = float(counted if num_tokens is None else num_tokens)
    if not 0 < count < float("inf"):
        raise ConfigError(
            f"num_tokens is {count}, but {counted} positions count here; pass the number of tokens of the whole step"
        )
    return count
