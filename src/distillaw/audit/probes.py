"""Tiny models and samples by which a trainer shows what it does: logits by token id, and ids that occur once.

Every token of every sample has an id of its own, but pad = eos = 0, and a model's logits depend on the id alone. So
the gradient of the embedding, row by row, is the gradient by logits at one position of one sample, whatever the trainer
does in between; and the ids of a forward pass tell which samples it read, beside whom, and with which mask.

`on_two_ranks` runs a loop on two ranks: forks of this process that talk over gloo through a file.
"""

import contextlib
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

Span = tuple[int, int]
"""Prompt and answer tokens of a sample."""
SPANS: tuple[Span, ...] = (
    *((3, 1), (2, 3), (4, 5), (2, 2), (3, 7), (2, 1), (5, 2), (2, 6), (3, 0), (4, 0), (3, 4), (2, 5)),
    *((4, 2), (3, 6), (2, 4), (5, 1)),
)
"""Ragged, one-token answers among them; of two neighbours nothing counts."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt with its answer."""

    index: int
    ids: torch.Tensor
    """(T,); the last is eos where the answer has more than one token."""
    prompt: int

    @property
    def labels(self) -> torch.Tensor:
        """The ids where they count, else -100."""
        labels = self.ids.clone()
        labels[: self.prompt] = -100
        return labels


def make_samples(spans: Sequence[Span] = SPANS) -> tuple[list[Sample], int]:
    """Samples whose ids occur once, and the size of the vocabulary."""
    found, free = [], 1
    for index, (prompt, answer) in enumerate(spans):
        ids = torch.arange(free, free + prompt + answer)
        free += prompt + answer
        if answer > 1:
            ids[-1] = 0
        found.append(Sample(index, ids, prompt))
    return found, free + 1


def collate(samples: Sequence[Sample], *, inside: bool) -> dict[str, torch.Tensor]:
    """A micro-batch padded at the right with eos; labels as ids, or moved by one."""
    shape = (len(samples), max(len(s.ids) for s in samples))
    ids, mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, -100)
    for i, sample in enumerate(samples):
        size = len(sample.ids)
        ids[i, :size], mask[i, :size], labels[i, :size] = sample.ids, 1, sample.labels
    if not inside:
        labels = torch.cat([labels[:, 1:], torch.full((len(samples), 1), -100)], 1)
    index = torch.tensor([s.index for s in samples])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "index": index}


@dataclass(slots=True)
class ForwardPass:
    """One forward pass as the model saw it."""

    ids: torch.Tensor
    positions: torch.Tensor | None
    training: bool
    grad: bool
    separated: bool
    """Whether packed samples were kept apart: a block mask, segment lengths, or restarted positions without a mask."""


class ProbeLM(nn.Module):
    """logits = head(norm * embedding(id)) + bias, whatever stands before; keeps every call."""

    def __init__(self, ids: int, vocab_size: int, *, seed: int, dropout: float = 0.0, scale: float = 1.2) -> None:
        super().__init__()
        g, columns = torch.Generator().manual_seed(seed), vocab_size
        self.model = nn.Embedding(ids, columns, dtype=torch.float64)
        self.norm = nn.Parameter(torch.ones(columns, dtype=torch.float64))
        self.drop = nn.Dropout(dropout)
        self.lm_head = nn.Linear(columns, columns, dtype=torch.float64)
        with torch.no_grad():
            self.model.weight.copy_(torch.randn(ids, columns, generator=g, dtype=torch.float64) * scale)
            self.lm_head.weight.copy_(torch.linalg.qr(torch.randn(columns, columns, generator=g).double())[0])
            self.lm_head.bias.zero_()
        self.config = SimpleNamespace(vocab_size=columns, model_type="probe", use_cache=False)
        self.calls: list[ForwardPass] = []

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **more: Any,
    ) -> Any:
        """Logits (B, T, V), which are their own `.logits`."""
        apart = attention_mask is not None and attention_mask.dim() > 2
        apart = apart or any(key.startswith(("cu_seq", "seq_idx", "segment")) for key in more)
        restarts = position_ids is not None and bool((position_ids.diff(dim=-1) < 0).any())
        apart = apart or (restarts and attention_mask is None)
        positions = None if position_ids is None else position_ids.detach().clone()
        seen = ForwardPass(input_ids.detach().clone(), positions, self.training, torch.is_grad_enabled(), apart)
        self.calls.append(seen)
        hidden = self.drop(self.model(input_ids) * self.norm)
        # both what `model(ids)` and what `model(ids).logits` may mean
        logits: Any = self.lm_head(hidden)
        logits.logits, logits.last_hidden_state = logits, hidden
        if labels is not None:  # as transformers' models do
            ends = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            logits.loss = nn.functional.cross_entropy(*ends)
        return logits

    def table(self) -> torch.Tensor:
        """Logits of every id as the parameters are now, without dropout, (ids, V)."""
        with torch.no_grad():
            hidden = self.model.weight * self.norm
            return hidden @ self.lm_head.weight.T + self.lm_head.bias


@dataclass(slots=True)
class Update:
    """What was there when the optimizer stepped."""

    lr: float
    """Of the first group."""
    gradient: torch.Tensor
    """By logits, for every id, (ids, V)."""
    table: torch.Tensor
    """The student's logits by id before the step."""
    student: list[ForwardPass]
    teacher: list[ForwardPass]
    groups: list[dict[str, Any]]
    holds_teacher: bool
    teacher_gradient: bool
    before: torch.Tensor
    """The embedding before the step."""
    after: torch.Tensor | None = None
    optimizer: str = ""
    norm: float = 0.0
    """Of all gradients of the student together."""


@dataclass(slots=True)
class Recorder:
    """Listens to every optimizer step that moves the student."""

    student: ProbeLM
    teacher: ProbeLM
    updates: list[Update] = field(default_factory=list)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """To every optimizer of the process."""
        hooks = [register_optimizer_step_pre_hook(self._before), register_optimizer_step_post_hook(self._after)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _mine(self, optimizer: torch.optim.Optimizer) -> bool:
        own = {id(p) for p in self.student.parameters()}
        return any(id(p) in own for group in optimizer.param_groups for p in group["params"])

    def _before(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if not self._mine(optimizer):
            return
        student, teacher = self.student, self.teacher
        weight = student.model.weight
        raw = torch.zeros_like(weight) if weight.grad is None else weight.grad.detach().clone()
        head = student.lm_head.weight.detach().to(raw.dtype)
        by_logits = torch.linalg.solve(head.T, (raw / student.norm.detach()).T).T
        others = {id(p): name for name, p in teacher.named_parameters()}
        groups = [
            {
                "lr": float(group["lr"]),
                "weight_decay": float(group.get("weight_decay", 0.0)),
                "vectors": any(p.dim() < 2 for p in group["params"]),
            }
            for group in optimizer.param_groups
        ]
        self.updates.append(
            Update(
                lr=groups[0]["lr"],
                gradient=by_logits,
                table=student.table(),
                student=student.calls[:],
                teacher=teacher.calls[:],
                groups=groups,
                holds_teacher=any(id(p) in others for group in optimizer.param_groups for p in group["params"]),
                teacher_gradient=any(p.grad is not None and bool(p.grad.any()) for p in teacher.parameters()),
                before=weight.detach().clone(),
                optimizer=type(optimizer).__name__,
                norm=sum(float(p.grad.square().sum()) for p in student.parameters() if p.grad is not None) ** 0.5,
            )
        )
        student.calls.clear()
        teacher.calls.clear()

    def _after(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._mine(optimizer) and self.updates:
            self.updates[-1].after = self.student.model.weight.detach().clone()


T = TypeVar("T")
LIMIT = 60.0
"""Seconds until two ranks that wait for each other are given up."""


def on_two_ranks(run: Callable[..., T], shares: Sequence[Sequence[Sample]]) -> list[T]:
    """What `run(samples=..., rank=..., world_size=2)` gives on both ranks, each on its share of the samples.

    Raises:
        RuntimeError: a rank fails, or both wait for ever.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_rank, args=(rank, run, shares[rank], Path(folder)), daemon=True)
            for rank in range(2)
        ]
        for process in ranks:
            process.start()
        stuck = ranks
        try:
            for process in ranks:
                process.join(LIMIT)
            stuck = [p for p in ranks if p.is_alive()]
        finally:  # also where the audit's own time is up
            for process in stuck:
                process.kill()
                process.join()
        failed = [(Path(folder) / f"failed{rank}") for rank in range(2)]
        said = [path.read_text() for path in failed if path.exists()]
        if stuck or said:
            raise RuntimeError(said[0] if said else f"the ranks still wait for each other after {LIMIT:.0f} s")
        return [torch.load(Path(folder) / f"rank{rank}", weights_only=False) for rank in range(2)]


def _rank(rank: int, run: Callable[..., Any], samples: Sequence[Sample], folder: Path) -> None:
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)  # what libraries say of ranks; errors go to a file
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
        torch.save(run(samples=samples, rank=rank, world_size=2), folder / f"rank{rank}")
        torch.distributed.destroy_process_group()
    except BaseException as error:
        (folder / f"failed{rank}").write_text(
            f"{type(error).__name__}: {error} ({traceback.extract_tb(error.__traceback__)[-1].name})"
        )
        raise SystemExit(1) from None
