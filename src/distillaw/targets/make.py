"""The teacher's targets of some windows, as blocks of bytes: the one place where a target is made.

The same windows in the same group give the same bytes on one machine: offsets depend on seed and window alone, and a
shard is always cut into the same groups. The teacher's logits exist for a few rows at a time.
Shape suffixes: B window, T position, P position of all windows, D hidden width, V vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from distillaw.data.shards import Split
from distillaw.distill.heads import LOWEST_LOGIT
from distillaw.models.oracle import AnyTeacher
from distillaw.models.teacher import Teacher
from distillaw.targets import blocks
from distillaw.targets.estimators import Rows, estimate
from distillaw.targets.scheme import Scheme
from distillaw.targets.shard import Sums

HEAD_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Logits that exist at once."""
ESTIMATED_LOGITS = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Logits that become targets at once: on CPUs what stays in their caches, which halves the time."""
FORWARD_TOKENS = {"cpu": 1 << 11, "cuda": 1 << 15}
"""Tokens the teacher reads at once."""


def windows_per_forward(context: int, device: str) -> int:
    """Windows the teacher reads at once on a kind of device."""
    return max(1, FORWARD_TOKENS.get(device, FORWARD_TOKENS["cuda"]) // context)


@dataclass(slots=True, kw_only=True)
class TargetMaker:
    """A teacher, the text it reads and what is kept of it."""

    teacher: AnyTeacher
    split: Split
    scheme: Scheme
    seed: int
    forward_seconds: float = 0.0
    """Spent so far in the teacher itself: what an online teacher would cost."""

    @torch.no_grad()
    def make(self, windows: Sequence[int] | NDArray[np.integer]) -> tuple[list[bytes], Sums]:
        """The block of each window, and the sums over their positions."""
        tokens_BU = torch.from_numpy(self.split.windows(windows))
        offsets_BT = np.stack([window_offsets(self.seed, int(w), self.split.context) for w in windows])
        device = self.teacher.device
        labels_P = tokens_BU[:, 1:].flatten().to(device)
        offsets_P = torch.from_numpy(offsets_BT).flatten().to(device)
        parts, done = [], 0
        for logits_PV in self._logits(tokens_BU[:, :-1].to(device)):
            rows = slice(done, done + len(logits_PV))
            parts.append(estimate(logits_PV, labels_P[rows], offsets_P[rows], self.scheme))
            done = rows.stop
        rows = _join(parts)
        sums = Sums(
            loss=float(rows["loss"].sum(dtype=np.float64)), entropy=float(rows["entropy"].sum(dtype=np.float64)),
            mass=float(rows["mass"].sum(dtype=np.float64)),
        )  # fmt: skip
        context = self.split.context
        spans = [slice(i * context, (i + 1) * context) for i in range(len(tokens_BU))]
        cut = [{name: value[span] for name, value in rows.items()} for span in spans]
        return [_encode(window, self.scheme, self.teacher.vocab_size) for window in cut], sums

    def _logits(self, inputs_BT: torch.Tensor) -> Iterator[torch.Tensor]:
        """The teacher's logits of all positions in order, a chunk of rows (P, V) at a time."""
        kind = self.teacher.device.type
        most = max(1, ESTIMATED_LOGITS.get(kind, ESTIMATED_LOGITS["cuda"]) // self.teacher.vocab_size)
        parts = self._head_logits(inputs_BT)
        while True:
            began = self._now()
            logits_PV = next(parts, None)
            self.forward_seconds += self._now() - began
            if logits_PV is None:
                return
            yield from logits_PV.split(most)

    def _head_logits(self, inputs_BT: torch.Tensor) -> Iterator[torch.Tensor]:
        head, vocab = self.teacher.head, self.teacher.vocab_size
        size = max(1, HEAD_LOGITS.get(inputs_BT.device.type, HEAD_LOGITS["cuda"]) // vocab)
        if head is None:  # whole logits or none: as many windows as their room allows
            for group_BT in inputs_BT.split(max(1, size // inputs_BT.shape[1])):
                yield self.teacher.logits(group_BT).flatten(0, 1).clamp(min=LOWEST_LOGIT)
            return
        assert isinstance(self.teacher, Teacher), "an oracle has no head"
        for rows_PD in self.teacher.hidden(inputs_BT).flatten(0, 1).split(size):
            yield head.logits_into(rows_PD, rows_PD.new_empty(len(rows_PD), vocab))

    def _now(self) -> float:
        if self.teacher.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def window_offsets(seed: int, window: int, context: int) -> NDArray[np.float64]:
    """The random offset of each position of a window, uniform in [0, 1), shape (context,)."""
    return np.random.Generator(np.random.Philox(key=[seed, window])).random(context)


def _join(parts: list[Rows]) -> dict[str, NDArray]:
    """All chunks, one array per field, on the host."""
    names = [f.name for f in fields(Rows) if getattr(parts[0], f.name) is not None]
    return {name: torch.cat([getattr(part, name) for part in parts]).cpu().numpy() for name in names}


def _encode(rows: dict[str, NDArray], scheme: Scheme, vocab_size: int) -> bytes:
    entropy, loss = rows["entropy"], rows["loss"]
    if scheme.estimator == "full":
        return blocks.encode_full(rows["logits"], entropy, loss)
    if scheme.estimator == "sampled":
        return blocks.encode_sampled(rows["ids"], entropy, loss)
    kept = rows["ids"] < vocab_size
    return blocks.encode_top(
        rows["ids"][kept], rows["nats"][kept], kept.sum(axis=1), fixed=scheme.estimator == "top-k",
        entropy_P=entropy, loss_P=loss,
    )  # fmt: skip
