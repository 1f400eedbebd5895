"""Where the teacher's signal for a batch comes from: the model beside the student, or targets stored before.

One signal serves every student that reads the same batch, so several students share each teacher forward.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch

from distillaw.distill.heads import Head
from distillaw.distill.targets import SparseTargets
from distillaw.models.oracle import AnyTeacher
from distillaw.targets.store import TargetStore


class Signal(NamedTuple):
    """What `loss_parts` takes of a teacher; all None without one."""

    teacher_hidden: torch.Tensor | None = None
    teacher_head: Head | None = None
    teacher_logits: torch.Tensor | None = None
    targets: SparseTargets | None = None


class Source(Protocol):
    """Gives the signal of a batch."""

    def signal(self, tokens_BT: torch.Tensor, windows: np.ndarray) -> Signal:
        """The signal for sequences of context + 1 tokens, which are these windows of the split."""
        ...


class Alone:
    """No teacher."""

    def signal(self, tokens_BT: torch.Tensor, windows: np.ndarray) -> Signal:
        """Nothing."""
        return Signal()


class OnlineTeacher:
    """The teacher reads each batch just before its students do."""

    def __init__(self, teacher: AnyTeacher) -> None:
        self._teacher = teacher

    def signal(self, tokens_BT: torch.Tensor, windows: np.ndarray) -> Signal:
        """Its hidden states and head, or its logits where its head cannot be taken apart."""
        inputs = tokens_BT[:, :-1]
        if self._teacher.head is None:
            return Signal(teacher_logits=self._teacher.logits(inputs))
        return Signal(teacher_hidden=self._teacher.hidden(inputs), teacher_head=self._teacher.head)


class StoredTargets:
    """Targets that the teacher left on disk; it need not be in memory, or even exist any more."""

    def __init__(self, store: TargetStore, device: torch.device) -> None:
        self._store, self._device = store, device

    def signal(self, tokens_BT: torch.Tensor, windows: np.ndarray) -> Signal:
        """The targets of the windows, sparse or whole."""
        targets = self._store.read(windows)
        if isinstance(targets, SparseTargets):
            return Signal(targets=targets.to(self._device))
        return Signal(teacher_logits=targets.to(self._device))
