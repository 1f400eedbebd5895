"""A clean distillation loop, real bugs put into it one at a time, and designs that look like bugs and are none.

The loop takes micro-batches of ids, mask, labels and sample numbers, evaluates, stops, resumes, and runs on two ranks.
"""

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from distillaw.audit.contract import Contract, DeclaredLoss, DeclaredTarget, Training, checked

IGNORE = -100
T = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectedLoop:
    """One bug, or one design that must not be flagged."""

    name: str
    loop: type["CleanLoop"]
    properties: tuple[str, ...] = ()
    source: str = ""
    objective: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    target: dict[str, Any] = field(default_factory=dict)

    def contract(self) -> Contract:
        """What the loop is declared to do."""
        objective: dict[str, Any] = {
            "divergence": "forward-kl",
            "temperature": T,
            "temperature_squared": True,
            "distill_weight": 0.5,
            "hard_weight": 0.5,
            "reduction": "token-mean",
            "mask": "labels",
            "shift": "inside",
        }
        training: dict[str, Any] = {"accumulation": 4, "per": "update", "lr": 0.5}
        return checked(
            Contract(
                target=DeclaredTarget(kind="loop", **self.target),
                objective=DeclaredLoss(**(objective | self.objective)),
                training=Training(**(training | self.training)),
            )
        )


class CleanLoop:
    """Updates of `accumulation` micro-batches, each token of an update counting alike, over ranks too."""

    def __call__(
        self,
        student,
        teacher,
        batches,
        optimizer,
        accumulation,
        epochs=1,
        evaluation=None,
        eval_every=0,
        checkpoint=None,
        stop_after=None,
        resume=None,
        rank=0,
        world_size=1,
    ):
        self.student, self.teacher, self.optimizer = student, teacher, optimizer
        self.batches, self.accumulation, self.world, self.rank = batches, accumulation, world_size, rank
        self.prepare()
        windows = self.windows(epochs)
        self.total = len(windows)
        done = self.load(resume) if resume else 0
        losses = []
        for number, window in list(enumerate(windows))[done:]:
            self.number = number
            self.clear()
            count = self.count(window)
            logged = 0.0
            for batch in window:
                loss = self.micro(batch, count, len(window))
                loss.backward()
                logged += float(loss.detach())
            losses.append(logged)
            self.gradients()
            self.rate()
            self.optimizer.step()
            self.after_step()
            if evaluation is not None and eval_every and (self.number + 1) % eval_every == 0:
                self.evaluate(evaluation)
            if stop_after is not None and self.number + 1 - done >= stop_after:
                self.save(checkpoint, self.number + 1)
                break
        return losses

    def prepare(self):
        self.teacher.eval()
        self.teacher.requires_grad_(False)
        self.student.train()

    def order(self, epoch):
        return self.batches

    def windows(self, epochs):
        found = []
        for epoch in range(epochs):
            batches = self.order(epoch)
            found += [batches[i : i + self.accumulation] for i in range(0, len(batches), self.accumulation)]
        return found

    def clear(self):
        self.optimizer.zero_grad()

    def count(self, window):
        count = torch.tensor(sum(int((b["labels"][:, 1:] != IGNORE).sum()) for b in window))
        if self.world > 1:
            torch.distributed.all_reduce(count)
        return max(int(count), 1)

    def student_logits(self, batch):
        return self.student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    def teacher_logits(self, batch):
        with torch.no_grad():
            return self.teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    def sums(self, batch):
        s, t = self.student_logits(batch)[:, :-1], self.teacher_logits(batch)[:, :-1]
        y = batch["labels"][:, 1:]
        log_p, log_q = (t / T).log_softmax(-1), (s / T).log_softmax(-1)
        kd = ((log_p.exp() * (log_p - log_q)).sum(-1) * (y != IGNORE)).sum() * T**2
        ce = functional.cross_entropy(s.flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum")
        return kd, ce

    def micro(self, batch, count, size):
        kd, ce = self.sums(batch)
        return (0.5 * kd + 0.5 * ce) / count

    def gradients(self):
        if self.world > 1:
            for p in self.student.parameters():
                torch.distributed.all_reduce(p.grad)

    def rate(self):
        pass

    def after_step(self):
        pass

    def evaluate(self, batches):
        self.student.eval()
        with torch.no_grad():
            for batch in batches:
                self.sums(batch)
        self.student.train()

    def save(self, place, number):
        torch.save(
            {
                "number": number,
                "student": self.student.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            place,
        )

    def load(self, place):
        state = torch.load(Path(place))
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        return state["number"]


def own_tokens(batch):
    return int((batch["labels"][:, 1:] != IGNORE).sum())


# --- accumulation -------------------------------------------------------------------------------------------


class SumOfMeans(CleanLoop):
    def micro(self, batch, count, size):
        kd, ce = self.sums(batch)
        return (0.5 * kd + 0.5 * ce) / max(own_tokens(batch), 1)


class MeanOfMeans(SumOfMeans):
    def micro(self, batch, count, size):
        return super().micro(batch, count, size) / size


class MeanOverRanks(MeanOfMeans):
    def gradients(self):
        super().gradients()
        if self.world > 1:
            for p in self.student.parameters():
                p.grad.div_(self.world)


class MaskedDiluted(CleanLoop):
    """A mean over micro-batches in which those without a token count too: floor 1."""

    def micro(self, batch, count, size):
        kd, ce = self.sums(batch)
        return (0.5 * kd + 0.5 * ce) / max(own_tokens(batch), 1) / self.accumulation


class MaskedNan(CleanLoop):
    def micro(self, batch, count, size):
        kd, ce = self.sums(batch)
        return (0.5 * kd + 0.5 * ce) / count if own_tokens(batch) else (kd + ce) / torch.zeros(())


class ScaledTwice(CleanLoop):
    def micro(self, batch, count, size):
        return super().micro(batch, count, size) / size


class TimesWindow(CleanLoop):
    def micro(self, batch, count, size):
        return super().micro(batch, count, size) * size


class RowMeansOfSizeOne(CleanLoop):
    def micro(self, batch, count, size):
        s, t, y = (
            self.student_logits(batch)[:, :-1],
            self.teacher_logits(batch)[:, :-1],
            batch["labels"][:, 1:],
        )
        log_p, log_q = (t / T).log_softmax(-1), (s / T).log_softmax(-1)
        mask = y != IGNORE
        kd = (log_p.exp() * (log_p - log_q)).sum(-1) * mask * T**2
        ce = functional.cross_entropy(s.transpose(1, 2), y, ignore_index=IGNORE, reduction="none")
        return ((0.5 * kd + 0.5 * ce).sum(1) / mask.sum(1).clamp(min=1)).sum() / 8


class NotCleared(CleanLoop):
    def clear(self):
        pass


class StepPerMicroBatch(CleanLoop):
    def windows(self, epochs):
        return [[b] for _ in range(epochs) for b in self.order(0)]


class LastDropped(CleanLoop):
    def windows(self, epochs):
        return [w for w in super().windows(epochs) if len(w) == self.accumulation]


# --- teacher and student ------------------------------------------------------------------------------------


class NeverEval(CleanLoop):
    def prepare(self):
        self.student.train()
        self.teacher.train()


class BackInTraining(CleanLoop):
    def evaluate(self, batches):
        super().evaluate(batches)
        self.teacher.train()  # a wrapper's train() that reaches the teacher


class TeacherTrained(CleanLoop):
    def prepare(self):
        super().prepare()
        self.teacher.requires_grad_(True)
        self.optimizer.add_param_group({"params": list(self.teacher.parameters())})


class TeacherDrifts(CleanLoop):
    def after_step(self):
        with torch.no_grad():
            for p, q in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                p.lerp_(q, 0.01)


class OtherTeacher(CleanLoop):
    """The student as it was at the start is routed to where the teacher should be."""

    def prepare(self):
        super().prepare()
        self.teacher = copy.deepcopy(self.student).eval()


class StaysInEval(CleanLoop):
    def evaluate(self, batches):
        super().evaluate(batches)
        self.student.eval()


class EvaluatesWithDropout(CleanLoop):
    def evaluate(self, batches):
        with torch.no_grad():
            for batch in batches:
                self.sums(batch)


class TrainsOnHeldOut(CleanLoop):
    """The evaluation's gradient is left in the buffers."""

    def evaluate(self, batches):
        self.student.eval()
        self.optimizer.zero_grad()
        for batch in batches:
            (sum(self.sums(batch)) / 10).backward()
        self.student.train()

    def clear(self):
        if self.number == 0:
            self.optimizer.zero_grad()


class OtherIds(CleanLoop):
    """The teacher is fed the ids of another tokenizer of the same size."""

    def teacher_logits(self, batch):
        ids = batch["input_ids"]
        order = torch.arange(int(self.student.model.weight.shape[0]))
        order[[1, 2, 3, 11, 12]] = order[[2, 3, 1, 12, 11]]
        return super().teacher_logits(batch | {"input_ids": order[ids]})


class WindowOfMicroBatch(CleanLoop):
    """Teacher rows laid out with the longest sample of all, read with the longest of the micro-batch."""

    def teacher_logits(self, batch):
        if not hasattr(self, "longest"):
            self.longest = max(b["input_ids"].shape[1] for b in self.batches)
        t = super().teacher_logits(batch)
        return t.roll(min(self.longest - t.shape[1], 1), 1)


# --- cache --------------------------------------------------------------------------------------------------


class Cached(CleanLoop):
    """Teacher rows are stored once, by sample."""

    def prepare(self):
        super().prepare()
        self.width = max(b["input_ids"].shape[1] for b in self.batches)
        self.store, self.line = {}, []
        for batch in self.batches:
            rows = CleanLoop.teacher_logits(self, batch)
            rows = functional.pad(rows, (0, 0, 0, self.width - rows.shape[1]))
            for index, row in zip(batch["index"].tolist(), rows, strict=True):
                self.store[index] = row
                self.line.append(row)
        self.teacher.calls.clear()
        self.read = 0

    def teacher_logits(self, batch):
        if int(batch["index"][0]) not in self.store:
            return super().teacher_logits(batch)
        return torch.stack([self.store[i] for i in batch["index"].tolist()])[:, : batch["input_ids"].shape[1]]

    def order(self, epoch):
        order = torch.randperm(len(self.batches), generator=torch.Generator().manual_seed(epoch)).tolist()
        return [self.batches[i] for i in order]


class CacheByStep(Cached):
    """Rows of the update's number in file order; past the end there are zeros."""

    def teacher_logits(self, batch):
        if int(batch["index"][0]) not in self.store:
            return CleanLoop.teacher_logits(self, batch)
        first = self.number * 2
        rows = self.line[first : first + 2]
        width = batch["input_ids"].shape[1]
        if len(rows) < len(batch["index"]):
            return torch.zeros(
                2, width, rows[0].shape[-1] if rows else self.line[0].shape[-1], dtype=torch.float64
            )
        return torch.stack(rows)[:, :width]


class CacheByBatchPlace(Cached):
    def teacher_logits(self, batch):
        if int(batch["index"][0]) not in self.store:
            return CleanLoop.teacher_logits(self, batch)
        return torch.stack(self.line[: len(batch["index"])])[:, : batch["input_ids"].shape[1]]


class CacheByBatchNumber(Cached):
    """Outputs of one shuffled epoch read by the number of the batch in another."""

    def windows(self, epochs):
        self.numbers = {id(b): i for i, b in enumerate(self.order(0))}
        return super().windows(epochs)

    def teacher_logits(self, batch):
        if int(batch["index"][0]) not in self.store:
            return super().teacher_logits(batch)
        place = self.numbers[id(batch)] * 2
        return torch.stack(self.line[place : place + 2])[:, : batch["input_ids"].shape[1]]


class CacheEnds(Cached):
    """In the second epoch the rows are those of nothing: the divergence is left out."""

    def sums(self, batch):
        kd, ce = super().sums(batch)
        return (kd * 0 if self.number >= self.total // 2 else kd), ce


# --- resume -------------------------------------------------------------------------------------------------


class _Rewound(CleanLoop):
    """What the loop reads after a resume is changed by `rewind`."""

    def __call__(
        self,
        student,
        teacher,
        batches,
        optimizer,
        accumulation,
        epochs=1,
        checkpoint=None,
        stop_after=None,
        resume=None,
    ):
        self.resumed = torch.load(resume)["number"] if resume else 0
        return super().__call__(
            student,
            teacher,
            batches,
            optimizer,
            accumulation,
            epochs,
            None,
            0,
            checkpoint,
            stop_after,
            resume,
        )

    def windows(self, epochs):
        windows = super().windows(epochs)
        return self.rewind(windows, epochs) if self.resumed else windows

    def rewind(self, windows, epochs):
        return windows


class SkipsMicroBatches(_Rewound):
    def rewind(self, windows, epochs):
        flat = [b for w in windows for b in w]
        rest = flat[self.resumed :]
        new = [rest[i : i + self.accumulation] for i in range(0, len(rest), self.accumulation)]
        return windows[: self.resumed] + new[: len(windows) - self.resumed]


class BeginsAnew(_Rewound):
    def rewind(self, windows, epochs):
        return windows[: self.resumed] + windows[: len(windows) - self.resumed]


class EmptyEpoch(_Rewound):
    """A checkpoint at the end of an epoch makes the next one empty."""

    def rewind(self, windows, epochs):
        per_epoch = len(windows) // epochs
        return windows[: self.resumed] if self.resumed % per_epoch == 0 else windows


class OtherOrder(_Rewound):
    def order(self, epoch):
        seed = 0 if self.resumed else epoch
        order = torch.randperm(len(self.batches), generator=torch.Generator().manual_seed(seed)).tolist()
        return [self.batches[i] for i in order]


class Momentum(CleanLoop):
    def prepare(self):
        super().prepare()
        for group in self.optimizer.param_groups:
            group["momentum"] = 0.9


class OptimizerLost(Momentum):
    def load(self, place):
        state = torch.load(Path(place))
        self.student.load_state_dict(state["student"])
        return state["number"]


# --- schedule, optimizer ------------------------------------------------------------------------------------


class Cosine(CleanLoop):
    horizon = 1.0

    def rate(self):
        done = min(1.0, self.number / (self.total * self.horizon))
        for group in self.optimizer.param_groups:
            group["lr"] = 0.5 * (1 + math.cos(math.pi * done)) / 2


class HorizonOverWindow(Cosine):
    horizon = 0.25


class HorizonSquared(Cosine):
    horizon = 4.0


class WarmupByMicroStep(CleanLoop):
    """Warm-up of 8 micro-steps, counted and stepped by micro-step."""

    def rate(self):
        for group in self.optimizer.param_groups:
            group["lr"] = 0.5 * min(1.0, (self.number * self.accumulation + 1) / 8)


class MicroStepDecay(CleanLoop):
    """A linear decay counted and stepped by micro-step, over incomplete windows too."""

    def windows(self, epochs):
        found = super().windows(epochs)
        self.starts = [0]
        for window in found:
            self.starts.append(self.starts[-1] + len(window))
        return found

    def rate(self):
        for group in self.optimizer.param_groups:
            group["lr"] = 0.5 * (1 - self.starts[self.number] / self.starts[-1])


class Clipped(CleanLoop):
    def gradients(self):
        super().gradients()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 0.05)


class DecaysAll(CleanLoop):
    def prepare(self):
        super().prepare()
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.1


class DecaysMatrices(CleanLoop):
    def prepare(self):
        super().prepare()
        parameters = list(self.student.parameters())
        self.optimizer = torch.optim.SGD(
            [
                {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
                {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
            ],
            lr=0.5,
        )


class Averaged(CleanLoop):
    def after_step(self):
        with torch.no_grad():
            for p in self.student.parameters():
                p.mul_(0.999)


# --- ranks --------------------------------------------------------------------------------------------------


class _SummedTwice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        torch.distributed.all_reduce(grad)
        return grad


class GradientTimesShards(CleanLoop):
    def micro(self, batch, count, size):
        kd, ce = self.sums(batch)
        kd = _SummedTwice.apply(kd) if self.world > 1 else kd
        return (0.5 * kd + 0.5 * ce) / count


class VocabularyShards(CleanLoop):
    """Each rank has half of the vocabulary of the same batch; `twice`: the backward pass of the sum is a sum again."""

    twice = False

    def count(self, window):
        return max(sum(own_tokens(b) for b in window), 1)

    def sums(self, batch):
        if self.world == 1:
            return super().sums(batch)
        s, t = self.student_logits(batch)[:, :-1], self.teacher_logits(batch)[:, :-1]
        y = batch["labels"][:, 1:]
        log_p, log_q = (t / T).log_softmax(-1), (s / T).log_softmax(-1)
        half = (torch.arange(s.shape[-1]) % 2 == self.rank).double()
        part = ((log_p.exp() * (log_p - log_q) * half).sum(-1) * (y != IGNORE)).sum() * T**2
        part = _SummedTwice.apply(part) if self.twice else part
        ce = functional.cross_entropy(s.flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum")
        return part, ce / 2


class VocabularyShardsTwice(VocabularyShards):
    twice = True


class NotSynchronised(CleanLoop):
    def gradients(self):
        pass


class OwnCount(CleanLoop):
    def count(self, window):
        return max(sum(own_tokens(b) for b in window), 1)


class AveragedGradients(CleanLoop):
    def gradients(self):
        super().gradients()
        if self.world > 1:
            for p in self.student.parameters():
                p.grad.div_(self.world)


# --- packing ------------------------------------------------------------------------------------------------


class Packed(CleanLoop):
    """Two samples a row, kept apart by a block mask, positions from 0."""

    mask, restart, moved = "block", True, 0

    def pack(self, batch):
        ids, labels, places, segments = [], [], [], []
        for n, (row, mask, label) in enumerate(
            zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
        ):
            size = int(mask.sum())
            ids.append(row[:size])
            labels.append(label[:size])
            places.append(torch.arange(size))
            segments.append(torch.full((size,), n))
        segment = torch.cat(segments)
        block = (segment[:, None] == segment[None, :]).tril()
        at = torch.cat(places) if self.restart else torch.arange(len(segment))
        at = at.roll(self.moved)
        mask = {"block": block[None, None], "ones": torch.ones(1, len(segment)), "none": None}[self.mask]
        return {
            "input_ids": torch.cat(ids)[None],
            "labels": torch.cat(labels)[None],
            "attention_mask": mask,
            "position_ids": at[None],
        }

    def student_logits(self, batch):
        keys = ("input_ids", "attention_mask", "position_ids")
        return self.student(**{k: batch[k] for k in keys}).logits

    def teacher_logits(self, batch):
        keys = ("input_ids", "attention_mask", "position_ids")
        with torch.no_grad():
            return self.teacher(**{k: batch[k] for k in keys}).logits

    def sums(self, batch):
        return super().sums(self.pack(batch))


class PackedOnes(Packed):
    mask = "ones"


class PackedRunningPositions(Packed):
    restart = False


class PackedMovedPositions(Packed):
    moved = 1


class PackedBare(Packed):
    mask, restart = "none", False


class PackedByPositions(Packed):
    mask = "none"


_G = "https://github.com/"
OPEN_LOOPS = (
    InjectedLoop(
        name="I03 window of the micro-batch",
        loop=WindowOfMicroBatch,
        properties=("shift",),
        source=_G + "THU-BPM/RLCSD/issues/6",
    ),
    InjectedLoop(
        name="I08a nothing counts, NaN",
        loop=MaskedNan,
        properties=("mask", "accumulation"),
        source=_G + "huggingface/trl/issues/6025",
    ),
    InjectedLoop(
        name="I08b nothing counts, diluted",
        loop=MaskedDiluted,
        properties=("mask", "accumulation", "normalisation"),
        source=_G + "huggingface/trl/issues/6025",
    ),
    InjectedLoop(
        name="I28 ids of another tokenizer",
        loop=OtherIds,
        properties=("vocabulary",),
        source=_G + "arcee-ai/DistillKit/issues/7",
    ),
    InjectedLoop(
        name="I29 teacher back in training mode",
        loop=BackInTraining,
        properties=("teacher-state",),
        source=_G + "neuralmagic/sparseml/pull/2191",
    ),
    InjectedLoop(
        name="I31 gradient times shards",
        loop=GradientTimesShards,
        properties=("distributed",),
        source=_G + "NVIDIA-NeMo/Automodel/issues/3776",
    ),
    InjectedLoop(
        name="I33a sum of means",
        loop=SumOfMeans,
        properties=("accumulation",),
        source=_G + "huggingface/trl/issues/4719",
    ),
    InjectedLoop(
        name="I33b mean of means",
        loop=MeanOfMeans,
        properties=("accumulation",),
        source=_G + "huggingface/trl/issues/4719",
    ),
    InjectedLoop(
        name="I36 packed, all-ones mask",
        loop=PackedOnes,
        properties=("packing",),
        source=_G + "huggingface/transformers/issues/46634",
    ),
    InjectedLoop(
        name="I37 cache by step",
        loop=CacheByStep,
        properties=("cache",),
        source=_G + "modelscope/easydistill/commit/25caa8a",
        training={"shuffles": True},
    ),
    InjectedLoop(
        name="I37 cache ends",
        loop=CacheEnds,
        properties=("cache",),
        source=_G + "modelscope/easydistill/commit/25caa8a",
        training={"shuffles": True},
    ),
    InjectedLoop(
        name="I38 resume skips micro-batches",
        loop=SkipsMicroBatches,
        properties=("resume",),
        source=_G + "EleutherAI/gpt-neox/issues/308",
    ),
)
OWN_LOOPS = (
    InjectedLoop(
        name="gradient times shards of the vocabulary",
        loop=VocabularyShardsTwice,
        properties=("distributed",),
        source=_G + "NVIDIA-NeMo/Automodel/issues/3776",
        training={"ranks": "tensor"},
    ),
    InjectedLoop(
        name="scaled twice",
        loop=ScaledTwice,
        properties=("accumulation",),
        source=_G + "huggingface/trl/issues/4719",
    ),
    InjectedLoop(
        name="times the window",
        loop=TimesWindow,
        properties=("accumulation",),
        source=_G + "MakazhanAlpamys/Soup/issues/720",
    ),
    InjectedLoop(
        name="sequence means by micro-batch",
        loop=RowMeansOfSizeOne,
        properties=("normalisation", "accumulation"),
        source=_G + "verl-project/verl/issues/7200",
    ),
    InjectedLoop(name="gradients not cleared", loop=NotCleared, properties=("optimizer",)),
    InjectedLoop(name="a step per micro-batch", loop=StepPerMicroBatch, properties=("accumulation",)),
    InjectedLoop(name="last window dropped", loop=LastDropped, properties=("accumulation", "data")),
    InjectedLoop(
        name="teacher never in eval mode",
        loop=NeverEval,
        properties=("teacher-state",),
        source=_G + "yxuansu/TaCL/issues/11",
    ),
    InjectedLoop(
        name="teacher in the optimizer",
        loop=TeacherTrained,
        properties=("teacher-state",),
        source=_G + "huggingface/trl/issues/5990",
    ),
    InjectedLoop(name="teacher drifts", loop=TeacherDrifts, properties=("teacher-state",)),
    InjectedLoop(
        name="another teacher",
        loop=OtherTeacher,
        properties=("weights", "loss", "teacher-state"),
        source=_G + "modelscope/ms-swift/issues/9841",
    ),
    InjectedLoop(name="student stays in eval mode", loop=StaysInEval, properties=("student-state",)),
    InjectedLoop(name="evaluated with dropout", loop=EvaluatesWithDropout, properties=("student-state",)),
    InjectedLoop(
        name="trained on the held-out text",
        loop=TrainsOnHeldOut,
        properties=("data", "optimizer", "student-state"),
    ),
    InjectedLoop(
        name="cache by place in the batch",
        loop=CacheByBatchPlace,
        properties=("cache",),
        source=_G + "ooples/AiDotNet/issues/437",
        training={"shuffles": True},
    ),
    InjectedLoop(
        name="cache by number of the batch",
        loop=CacheByBatchNumber,
        properties=("cache",),
        source=_G + "haitongli/knowledge-distillation-pytorch/issues/4",
        training={"shuffles": True},
    ),
    InjectedLoop(name="resume begins anew", loop=BeginsAnew, properties=("resume",)),
    InjectedLoop(
        name="resume empties an epoch",
        loop=EmptyEpoch,
        properties=("resume",),
        source=_G + "verl-project/verl/issues/7401",
    ),
    InjectedLoop(
        name="another order after resume",
        loop=OtherOrder,
        properties=("resume",),
        source=_G + "huggingface/accelerate/issues/4071",
        training={"shuffles": True},
    ),
    InjectedLoop(name="optimizer lost at resume", loop=OptimizerLost, properties=("resume",)),
    InjectedLoop(
        name="horizon over the window",
        loop=HorizonOverWindow,
        properties=("schedule",),
        source=_G + "AI-Hypercomputer/maxtext/commit/4f6d05e3a",
        training={"schedule": "cosine"},
    ),
    InjectedLoop(
        name="horizon squared",
        loop=HorizonSquared,
        properties=("schedule",),
        source=_G + "huggingface/setfit/issues/284",
        training={"schedule": "cosine"},
    ),
    InjectedLoop(name="clipped, not declared", loop=Clipped, properties=("optimizer",)),
    InjectedLoop(
        name="norms decay",
        loop=DecaysAll,
        properties=("optimizer",),
        source=_G + "ServiceNow/Fast-LLM/issues/542",
        training={"weight_decay": 0.1, "decays_norms": False},
    ),
    InjectedLoop(name="weights moved between updates", loop=Averaged, properties=("optimizer",)),
    InjectedLoop(
        name="ranks not synchronised",
        loop=NotSynchronised,
        properties=("distributed",),
        source=_G + "huggingface/trl/issues/5934",
    ),
    InjectedLoop(
        name="each rank's own count",
        loop=OwnCount,
        properties=("distributed",),
        source=_G + "NVIDIA-NeMo/RL/issues/2745",
    ),
    InjectedLoop(name="averaged sums", loop=AveragedGradients, properties=("distributed",)),
    InjectedLoop(
        name="packed, running positions",
        loop=PackedRunningPositions,
        properties=("packing",),
        source=_G + "hiyouga/LlamaFactory/issues/7318",
    ),
    InjectedLoop(
        name="packed, moved positions",
        loop=PackedMovedPositions,
        properties=("packing",),
        source=_G + "PrimeIntellect-ai/prime-rl/issues/1525",
    ),
    InjectedLoop(
        name="packed, nothing apart",
        loop=PackedBare,
        properties=("packing",),
        source=_G + "huggingface/nanoVLM/issues/204",
    ),
)
LOOP_DESIGNS = (
    InjectedLoop(
        name="C12 decay in micro-steps",
        loop=MicroStepDecay,
        training={"schedule": "linear", "counts": "micro-steps"},
    ),
    InjectedLoop(name="shards of the vocabulary", loop=VocabularyShards, training={"ranks": "tensor"}),
    InjectedLoop(name="clean loop", loop=CleanLoop, target={"returns": "losses"}),
    InjectedLoop(name="mean of micro-batches", loop=MeanOverRanks, training={"per": "micro-batch"}),
    InjectedLoop(name="last window dropped, declared", loop=LastDropped, training={"last_window": "drop"}),
    InjectedLoop(name="cached by sample, shuffled", loop=Cached, training={"shuffles": True}),
    InjectedLoop(name="cosine", loop=Cosine, training={"schedule": "cosine"}),
    InjectedLoop(
        name="C12 warm-up in micro-steps",
        loop=WarmupByMicroStep,
        training={"warmup": 8, "counts": "micro-steps"},
    ),
    InjectedLoop(name="clipped, declared", loop=Clipped, training={"clip_norm": 0.05}),
    InjectedLoop(
        name="matrices decay", loop=DecaysMatrices, training={"weight_decay": 0.1, "decays_norms": False}
    ),
    InjectedLoop(name="momentum", loop=Momentum),
    InjectedLoop(name="teacher with dropout, declared", loop=NeverEval, training={"teacher_mode": "train"}),
    InjectedLoop(name="packed, block mask", loop=Packed),
    InjectedLoop(name="packed by positions", loop=PackedByPositions),
)
