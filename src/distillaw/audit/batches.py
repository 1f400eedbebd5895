"""Tiny batches with hostile geometry: ragged prompts, pad = eos, one-token answers, rows that nothing counts in.

Token ids within a row are distinct wherever the vocabulary allows it, so that a label or a row that is another's can be
told whose it is. Shape suffixes: B row, T position, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from distillaw.audit.objective import Rows

Span = tuple[int, int, int, int]
"""Left pads, prompt tokens, answer tokens, right pads."""
RAGGED: tuple[Span, ...] = ((0, 3, 5, 4), (2, 5, 1, 4), (0, 2, 8, 2), (1, 4, 4, 3))
"""Four rows of twelve: a one-token answer, left and right pads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch of a loss: logits of both models, ids, and what counts."""

    student: torch.Tensor
    """(B, T, V), float64."""
    teacher: torch.Tensor
    """(B, T, V_T), float64."""
    ids: torch.Tensor
    """(B, T), int64."""
    targets: torch.Tensor
    """(B, T): the next token where it counts, else -100."""
    real: torch.Tensor
    """(B, T), bool: no padding."""
    prompts: torch.Tensor
    """(B,): place of the first answer token."""

    def rows(self, num_tokens: float | None = None) -> Rows:
        """Flattened."""
        rows, width = self.ids.shape
        following = torch.zeros_like(self.real)
        following[:, :-1] = self.real[:, 1:]
        return Rows(
            student=self.student.flatten(0, 1),
            teacher=self.teacher.flatten(0, 1),
            targets=self.targets.flatten(),
            row=torch.arange(rows).repeat_interleave(width),
            position=torch.arange(width).repeat(rows),
            real=(self.real & following).flatten(),
            part=torch.zeros(rows * width, dtype=torch.int64),
            num_rows=rows,
            ends=torch.arange(width).repeat(rows) == width - 1,
            num_tokens=num_tokens,
        )

    def labels(self, *, inside: bool, ignore_index: int) -> torch.Tensor:
        """As the target takes them: the ids themselves (moved inside), or the next tokens."""
        labels = self.targets
        if inside:
            labels = torch.full_like(self.targets, -100)
            labels[:, 1:] = self.targets[:, :-1]
        return labels.masked_fill(labels == -100, ignore_index)

    def pick(self, rows: Sequence[int]) -> "Batch":
        """Some of the rows, in this order."""
        return Batch(**{name: getattr(self, name)[list(rows)] for name in self.__dataclass_fields__})

    def padded(self, more: int) -> "Batch":
        """The same with pads at the right, whose logits are noise."""
        g = torch.Generator().manual_seed(7)

        def longer(x: torch.Tensor, value: float) -> torch.Tensor:
            tail = torch.full((x.shape[0], more, *x.shape[2:]), value, dtype=x.dtype)
            return torch.cat([x, tail.normal_(generator=g) if x.dim() == 3 else tail], 1)

        tails = {"student": 0, "teacher": 0, "ids": 0, "targets": -100, "real": False}
        return replace(self, **{name: longer(getattr(self, name), value) for name, value in tails.items()})

    def with_logits(self, student: torch.Tensor, teacher: torch.Tensor) -> "Batch":
        """Other logits, the same tokens."""
        return replace(self, student=student, teacher=teacher)


def make_batch(
    spans: Sequence[Span] = RAGGED, *, vocab: int = 17, teacher_vocab: int = 0, seed: int = 0, scale: float = 1.5
) -> Batch:
    """Random logits over ragged rows; id 0 is pad and eos, and the last answer token is an eos.

    Args:
        spans: of each row; all sum to one width.
        teacher_vocab: 0: as the student's.
        scale: standard deviation of logits; the teacher's is half as large again.
    """
    g = torch.Generator().manual_seed(seed)
    width = sum(spans[0])
    ids = torch.zeros(len(spans), width, dtype=torch.int64)
    real = torch.zeros(len(spans), width, dtype=torch.bool)
    targets = torch.full_like(ids, -100)
    prompts = torch.zeros(len(spans), dtype=torch.int64)
    for i, (left, prompt, answer, _) in enumerate(spans):
        length = prompt + answer
        words = 1 + torch.randperm(min(vocab, teacher_vocab or vocab) - 1, generator=g)
        row = words.repeat(length // len(words) + 1)[:length]
        if answer > 1:
            row[-1] = 0
        ids[i, left : left + length] = row
        real[i, left : left + length] = True
        prompts[i] = left + prompt
        if answer:
            targets[i, left + prompt - 1 : left + length - 1] = row[prompt:]

    def logits(columns: int, size: float) -> torch.Tensor:
        return torch.randn(len(spans), width, columns, generator=g, dtype=torch.float64) * size

    student, teacher = logits(vocab, scale), logits(teacher_vocab or vocab, scale * 1.5)
    # at every second position the teacher's likeliest token is the label, for losses that choose by it
    agrees = (targets >= 0) & (torch.arange(width) % 2 == 0)
    teacher[agrees, targets[agrees]] += 6 * scale
    return Batch(student=student, teacher=teacher, ids=ids, targets=targets, real=real, prompts=prompts)
