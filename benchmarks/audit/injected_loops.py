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
            {"number": number, "student": self.student.state_dict(), "optimizer": self.optimizer.state_dict()}, place
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
        s, t, y = (self.student_logits(batch)[:, :-1], self.teacher_logits(batch)[:, :-1], batch["labels"][:, 1:])
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
            return torch.zeros(2, width, rows[0].shape[-1] if rows else self.line[0].shape[-1], dtype=torch.float64)
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
            student, teacher, batches, optimizer, accumulation, epochs, None, 0, checkpoint, stop_after, resume
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


def loop_bug(
    name: str, loop: type[CleanLoop], right: str = "", source: str = "", *, returns: str = "", **training: Any
) -> InjectedLoop:
    """As `loss_bug`."""
    source = source and f"https://github.com/{source}"
    found = {"properties": tuple(right.split()), "source": source, "training": training}
    return InjectedLoop(name=name, loop=loop, target={"returns": returns} if returns else {}, **found)


OPEN_LOOPS = (
    loop_bug("I03 window of the micro-batch", WindowOfMicroBatch, "shift", "THU-BPM/RLCSD/issues/6"),
    loop_bug("I08a nothing counts, NaN", MaskedNan, "mask accumulation", "huggingface/trl/issues/6025"),
    loop_bug(
        "I08b nothing counts, diluted", MaskedDiluted, "mask accumulation normalisation", "huggingface/trl/issues/6025"
    ),
    loop_bug("I28 ids of another tokenizer", OtherIds, "vocabulary", "arcee-ai/DistillKit/issues/7"),
    loop_bug("I29 teacher back in training mode", BackInTraining, "teacher-state", "neuralmagic/sparseml/pull/2191"),
    loop_bug("I31 gradient times shards", GradientTimesShards, "distributed", "NVIDIA-NeMo/Automodel/issues/3776"),
    loop_bug("I33a sum of means", SumOfMeans, "accumulation", "huggingface/trl/issues/4719"),
    loop_bug("I33b mean of means", MeanOfMeans, "accumulation", "huggingface/trl/issues/4719"),
    loop_bug("I36 packed, all-ones mask", PackedOnes, "packing", "huggingface/transformers/issues/46634"),
    loop_bug("I37 cache by step", CacheByStep, "cache", "modelscope/easydistill/commit/25caa8a", shuffles=True),
    loop_bug("I37 cache ends", CacheEnds, "cache", "modelscope/easydistill/commit/25caa8a", shuffles=True),
    loop_bug("I38 resume skips micro-batches", SkipsMicroBatches, "resume", "EleutherAI/gpt-neox/issues/308"),
)
OWN_LOOPS = (
    loop_bug(
        "gradient times shards of the vocabulary",
        VocabularyShardsTwice,
        "distributed",
        "NVIDIA-NeMo/Automodel/issues/3776",
        ranks="tensor",
    ),
    loop_bug("scaled twice", ScaledTwice, "accumulation", "huggingface/trl/issues/4719"),
    loop_bug("times the window", TimesWindow, "accumulation", "MakazhanAlpamys/Soup/issues/720"),
    loop_bug(
        "sequence means by micro-batch",
        RowMeansOfSizeOne,
        "normalisation accumulation",
        "verl-project/verl/issues/7200",
    ),
    loop_bug("gradients not cleared", NotCleared, "optimizer"),
    loop_bug("a step per micro-batch", StepPerMicroBatch, "accumulation"),
    loop_bug("last window dropped", LastDropped, "accumulation data"),
    loop_bug("teacher never in eval mode", NeverEval, "teacher-state", "yxuansu/TaCL/issues/11"),
    loop_bug("teacher in the optimizer", TeacherTrained, "teacher-state", "huggingface/trl/issues/5990"),
    loop_bug("teacher drifts", TeacherDrifts, "teacher-state"),
    loop_bug("another teacher", OtherTeacher, "weights loss teacher-state", "modelscope/ms-swift/issues/9841"),
    loop_bug("student stays in eval mode", StaysInEval, "student-state"),
    loop_bug("evaluated with dropout", EvaluatesWithDropout, "student-state"),
    loop_bug("trained on the held-out text", TrainsOnHeldOut, "data optimizer student-state"),
    loop_bug("cache by place in the batch", CacheByBatchPlace, "cache", "ooples/AiDotNet/issues/437", shuffles=True),
    loop_bug(
        "cache by number of the batch",
        CacheByBatchNumber,
        "cache",
        "haitongli/knowledge-distillation-pytorch/issues/4",
        shuffles=True,
    ),
    loop_bug("resume begins anew", BeginsAnew, "resume"),
    loop_bug("resume empties an epoch", EmptyEpoch, "resume", "verl-project/verl/issues/7401"),
    loop_bug("another order after resume", OtherOrder, "resume", "huggingface/accelerate/issues/4071", shuffles=True),
    loop_bug("optimizer lost at resume", OptimizerLost, "resume"),
    loop_bug(
        "horizon over the window",
        HorizonOverWindow,
        "schedule",
        "AI-Hypercomputer/maxtext/commit/4f6d05e3a",
        schedule="cosine",
    ),
    loop_bug("horizon squared", HorizonSquared, "schedule", "huggingface/setfit/issues/284", schedule="cosine"),
    loop_bug("clipped, not declared", Clipped, "optimizer"),
    loop_bug(
        "norms decay", DecaysAll, "optimizer", "ServiceNow/Fast-LLM/issues/542", weight_decay=0.1, decays_norms=False
    ),
    loop_bug("weights moved between updates", Averaged, "optimizer"),
    loop_bug("ranks not synchronised", NotSynchronised, "distributed", "huggingface/trl/issues/5934"),
    loop_bug("each rank's own count", OwnCount, "distributed", "NVIDIA-NeMo/RL/issues/2745"),
    loop_bug("averaged sums", AveragedGradients, "distributed"),
    loop_bug("packed, running positions", PackedRunningPositions, "packing", "hiyouga/LlamaFactory/issues/7318"),
    loop_bug("packed, moved positions", PackedMovedPositions, "packing", "PrimeIntellect-ai/prime-rl/issues/1525"),
    loop_bug("packed, nothing apart", PackedBare, "packing", "huggingface/nanoVLM/issues/204"),
)
LOOP_DESIGNS = (
    loop_bug("C12 decay in micro-steps", MicroStepDecay, schedule="linear", counts="micro-steps"),
    loop_bug("shards of the vocabulary", VocabularyShards, ranks="tensor"),
    loop_bug("clean loop", CleanLoop, returns="losses"),
    loop_bug("mean of micro-batches", MeanOverRanks, per="micro-batch"),
    loop_bug("last window dropped, declared", LastDropped, last_window="drop"),
    loop_bug("cached by sample, shuffled", Cached, shuffles=True),
    loop_bug("cosine", Cosine, schedule="cosine"),
    loop_bug("C12 warm-up in micro-steps", WarmupByMicroStep, warmup=8, counts="micro-steps"),
    loop_bug("clipped, declared", Clipped, clip_norm=0.05),
    loop_bug("matrices decay", DecaysMatrices, weight_decay=0.1, decays_norms=False),
    loop_bug("momentum", Momentum),
    loop_bug("teacher with dropout, declared", NeverEval, teacher_mode="train"),
    loop_bug("packed, block mask", Packed),
    loop_bug("packed by positions", PackedByPositions),
)
