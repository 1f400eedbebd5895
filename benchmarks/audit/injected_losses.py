"""A clean distillation loss, real bugs put into it one at a time, and designs that look like bugs and are none.

Each bug is a subclass that changes one step of the clean loss; its source is the thread or commit it was seen in.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from distillaw.audit.contract import Contract, DeclaredLoss, DeclaredTarget, checked

IGNORE = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """One bug, or one design that must not be flagged."""

    name: str
    loss: type["CleanLoss"]
    properties: tuple[str, ...] = ()
    """Any of them is the right reason; none for a design."""
    source: str = ""
    objective: dict[str, Any] = field(default_factory=dict)
    """What is declared otherwise than by the clean loss."""
    dtype: str = "float64"

    def contract(self) -> Contract:
        """What the loss is declared to compute."""
        return checked(declared(self.loss, dtype=self.dtype, **self.objective))


def declared(loss: type["CleanLoss"], *, dtype: str = "float64", **objective: Any) -> Contract:
    """The contract of the clean loss, some fields changed."""
    fields: dict[str, Any] = {
        "divergence": "forward-kl",
        "temperature": 3.0,
        "temperature_squared": True,
        "distill_weight": 0.5,
        "hard_weight": 0.5,
        "weights_add_up": True,
        "reduction": "token-mean",
        "mask": "labels",
        "shift": "inside",
        "nothing_counts": "zero",
        "reported": "objective",
    } | objective
    arguments = {} if loss in (SamplingTemperature, SampledTokens) else {"distill_weight": "alpha"}
    return Contract(target=DeclaredTarget(arguments=arguments, dtype=dtype), objective=DeclaredLoss(**fields))


class CleanLoss:
    """alpha T^2 D(p, q) + (1 - alpha) CE, a mean over labelled tokens; every step can be replaced."""

    divergence = "forward-kl"

    def __call__(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        labels: torch.Tensor,
        temperature: float = 3.0,
        alpha: float = 0.5,
        beta: float = 0.5,
        top_k: int = 0,
    ) -> torch.Tensor:
        """Logits (B, T, V) and labels (B, T), which are the input ids where they count."""
        self.t, self.alpha, self.beta, self.k = temperature, alpha, beta, top_k
        self.labels = labels
        s, t, y = self.aligned(student_logits, teacher_logits, labels)
        s_kd, t_kd = self.common(s, t)
        log_q, log_p = self.log_q(s_kd), self.log_p(t_kd)
        mask = self.mask(y)
        kd = self.reduced(self.per_token(log_p, log_q), mask) * self.factor()
        return self.mixed(kd, self.hard(s, y))

    def aligned(self, s: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return s[:, :-1], t[:, :-1], y[:, 1:]

    def common(self, s: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vocab = min(s.shape[-1], t.shape[-1])
        return s[..., :vocab], t[..., :vocab]

    def log_q(self, s: torch.Tensor) -> torch.Tensor:
        return functional.log_softmax(
            s.float() / self.t if s.dtype in (torch.bfloat16, torch.float16) else s / self.t, -1
        )

    def log_p(self, t: torch.Tensor) -> torch.Tensor:
        return functional.log_softmax(
            t.float() / self.t if t.dtype in (torch.bfloat16, torch.float16) else t / self.t, -1
        )

    def mask(self, y: torch.Tensor) -> torch.Tensor:
        return y != IGNORE

    def entries(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        return log_p.exp() * (log_p - log_q)

    def per_token(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        return self.entries(log_p, log_q).sum(-1)

    def reduced(self, kd: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (kd * mask).sum() / mask.sum().clamp(min=1)

    def factor(self) -> float:
        return self.t**2

    def hard(self, s: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        total = functional.cross_entropy(
            s.flatten(0, 1).float() if s.dtype == torch.bfloat16 else s.flatten(0, 1),
            y.flatten(),
            ignore_index=IGNORE,
            reduction="sum",
        )
        return total / (y != IGNORE).sum().clamp(min=1)

    def mixed(self, kd: torch.Tensor, ce: torch.Tensor) -> torch.Tensor:
        return self.alpha * kd + (1 - self.alpha) * ce


class Jsd(CleanLoss):
    def per_token(self, log_p, log_q):
        b = self.beta
        if b in (0.0, 1.0):
            return (log_p.exp() * (log_p - log_q)).sum(-1) if b == 0 else (log_q.exp() * (log_q - log_p)).sum(-1)
        m = torch.logaddexp(log_p + torch.tensor(b).log(), log_q + torch.tensor(1 - b).log())
        return (b * log_p.exp() * (log_p - m) + (1 - b) * log_q.exp() * (log_q - m)).sum(-1)


class TopK(CleanLoss):
    """The teacher's k likeliest tokens, renormalised."""

    def ids(self, log_p):
        return log_p.topk(self.k, -1).indices

    def per_token(self, log_p, log_q):
        ids = self.ids(log_p)
        kept = log_p.gather(-1, ids).log_softmax(-1)
        return (kept.exp() * (kept - log_q.gather(-1, ids))).sum(-1)


# --- shift --------------------------------------------------------------------------------------------------


class SliceAtPrompt(CleanLoss):
    def aligned(self, s, t, y):
        # logits[prompt_len:], all positions to the end, no label mask
        self.window = torch.zeros_like(y, dtype=torch.bool)
        for i, row in enumerate(y != IGNORE):
            self.window[i, int(row.nonzero()[0]) if bool(row.any()) else y.shape[1] :] = True
        return s, t, y

    def mask(self, y):
        return self.window

    def hard(self, s, y):
        return CleanLoss.hard(self, s[:, :-1], y[:, 1:])


class TeacherLater(CleanLoss):
    def aligned(self, s, t, y):
        return s[:, :-1], t[:, 1:], y[:, 1:]


class StudentLater(CleanLoss):
    def aligned(self, s, t, y):
        self.plain = s
        return s[:, 1:], t[:, :-1], y[:, 1:]

    def hard(self, s, y):
        return CleanLoss.hard(self, self.plain[:, :-1], y)


class MaskNotMoved(CleanLoss):
    def mask(self, y):
        return self.labels[:, :-1] != IGNORE


class NotMoved(CleanLoss):
    def aligned(self, s, t, y):
        return s, t, y


class MovedTwice(CleanLoss):
    def aligned(self, s, t, y):
        return s[:, :-2], t[:, :-2], y[:, 2:]


class WindowOfTheBatch(CleanLoss):
    """Teacher rows are laid out against the longest answer and read with that of the batch less one."""

    def aligned(self, s, t, y):
        counted = (y[:, 1:] != IGNORE).sum(1)
        moved = torch.stack([row.roll(int(n != counted.max()), 0) for row, n in zip(t[:, :-1], counted, strict=True)])
        return s[:, :-1], moved, y[:, 1:]


# --- mask ---------------------------------------------------------------------------------------------------


class EosIsPad(CleanLoss):
    def aligned(self, s, t, y):
        return s[:, :-1], t[:, :-1], torch.where(y == 0, IGNORE, y)[:, 1:]


class NoMask(CleanLoss):
    def reduced(self, kd, mask):
        return kd.mean()


class OtherSentinel(CleanLoss):
    def mask(self, y):
        return y != -1


class PaddedMean(CleanLoss):
    def reduced(self, kd, mask):
        return (kd * mask).sum() / mask.sum()


# --- normalisation ------------------------------------------------------------------------------------------


class DividedTwice(CleanLoss):
    def reduced(self, kd, mask):
        n = mask.sum().clamp(min=1)
        return (kd / n * mask).sum() / n


class BatchMean(CleanLoss):
    def reduced(self, kd, mask):
        return (kd * mask).sum() / mask.shape[0]


class OverMaxLength(CleanLoss):
    def reduced(self, kd, mask):
        return (kd * mask).sum() / mask.shape[0] / mask.shape[1]


class PairsCounted(TopK):
    def reduced(self, kd, mask):
        return super().reduced(kd, mask) / self.k


class RowMeans(CleanLoss):
    def reduced(self, kd, mask):
        per_row = (kd * mask).sum(1) / mask.sum(1).clamp(min=1)
        return per_row.mean()


# --- temperature --------------------------------------------------------------------------------------------


class NoSquare(CleanLoss):
    def factor(self):
        return 1.0


class SamplingTemperature(CleanLoss):
    def __call__(self, student_logits, teacher_logits, labels, temperature=1.0):
        return super().__call__(student_logits, teacher_logits, labels, temperature=0.9, alpha=0.5)

    def factor(self):
        return 1.0


class TemperatureIgnored(CleanLoss):
    def log_q(self, s):
        return functional.log_softmax(s, -1)

    def log_p(self, t):
        return functional.log_softmax(t, -1)


class StudentOnly(CleanLoss):
    def log_p(self, t):
        return functional.log_softmax(t, -1)


class HardToo(CleanLoss):
    def hard(self, s, y):
        return CleanLoss.hard(self, s / self.t, y)


# --- direction ----------------------------------------------------------------------------------------------


class MixtureSwapped(Jsd):
    def per_token(self, log_p, log_q):
        b = self.beta
        m = torch.logaddexp(log_q + torch.tensor(b).log(), log_p + torch.tensor(1 - b).log())
        return (b * log_p.exp() * (log_p - m) + (1 - b) * log_q.exp() * (log_q - m)).sum(-1)


class BetaNotForwarded(Jsd):
    def per_token(self, log_p, log_q):
        self.beta = 0.5
        return super().per_token(log_p, log_q)


class Reversed(CleanLoss):
    def entries(self, log_p, log_q):
        return log_q.exp() * (log_q - log_p)


class Subtracted(CleanLoss):
    def mixed(self, kd, ce):
        return -self.alpha * kd + (1 - self.alpha) * ce


# --- loss ---------------------------------------------------------------------------------------------------


class SequenceSoftmax(CleanLoss):
    def log_q(self, s):
        return functional.log_softmax(s / self.t, 1)


class ClippedEntries(CleanLoss):
    def entries(self, log_p, log_q):
        return super().entries(log_p, log_q).clamp(max=0.05)


class WithItself(CleanLoss):
    def per_token(self, log_p, log_q):
        return (log_p.exp() * (log_p - log_p)).sum(-1) + 0 * log_q.sum(-1)


class WrongTerm(CleanLoss):
    def mixed(self, kd, ce):
        return (1 - self.alpha) * kd + self.alpha * ce


class TeacherDropped(CleanLoss):
    def mixed(self, kd, ce):
        return (1 - self.alpha) * ce


class SoftmaxFirst(CleanLoss):
    def entries(self, log_p, log_q):
        return log_p.exp() * (log_p - log_q.exp())


class Viewed(CleanLoss):
    """Positions and vocabulary mixed by a view of a transposed tensor."""

    def common(self, s, t):
        shape = s.shape
        return s.transpose(1, 2).reshape(shape), t.transpose(1, 2).reshape(shape)


class TiesPull(CleanLoss):
    """TVD whose gradient is -0.5 by the student's probability where p equals q, with the right value."""

    def per_token(self, log_p, log_q):
        p, q = log_p.exp(), log_q.exp()
        rank = torch.arange(q.shape[-1]) * torch.where(p == q, -0.5, 0.0)  # ties pull at some more than at others
        pull = q * rank
        return (p - q).abs().sum(-1) / 2 + (pull - pull.detach()).sum(-1)


class _Clamped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_q, log_p):
        ctx.save_for_backward(log_q, log_p)
        return (log_p.exp() * (log_p.clamp(min=-3) - log_q)).sum(-1)

    @staticmethod
    def backward(ctx, grad):
        _, log_p = ctx.saved_tensors
        return -log_p.exp() * grad[..., None], None


class ClampedForward(CleanLoss):
    def per_token(self, log_p, log_q):
        return _Clamped.apply(log_q, log_p.detach())


# --- top-k, vocabulary --------------------------------------------------------------------------------------


class ShardIds(TopK):
    def ids(self, log_p):
        self.halves = log_p.tensor_split(2, -1)
        found = torch.cat([half.topk(self.k // 2, -1).indices for half in self.halves], -1)
        return found

    def per_token(self, log_p, log_q):
        halves = log_p.tensor_split(2, -1)
        values = torch.cat([half.topk(self.k, -1).values for half in halves], -1)
        ids = torch.cat([half.topk(self.k, -1).indices for half in halves], -1)
        best = values.topk(self.k, -1)
        ids, kept = ids.gather(-1, best.indices), best.values.log_softmax(-1)
        return (kept.exp() * (kept - log_q.gather(-1, ids))).sum(-1)


class NotRenormalised(TopK):
    def per_token(self, log_p, log_q):
        ids = self.ids(log_p)
        kept = log_p.gather(-1, ids)
        return (kept.exp() * (kept - log_q.gather(-1, ids))).sum(-1)


class BothRenormalised(TopK):
    def per_token(self, log_p, log_q):
        ids = self.ids(log_p)
        p, q = log_p.gather(-1, ids).log_softmax(-1), log_q.gather(-1, ids).log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1)


class ZeroFilled(CleanLoss):
    def common(self, s, t):
        more = t.shape[-1] - s.shape[-1]
        return functional.pad(s, (0, max(more, 0))), functional.pad(t, (0, max(-more, 0)))


class IdsMoved(CleanLoss):
    def common(self, s, t):
        s, t = super().common(s, t)
        return s, t.roll(1, -1)


class IdsPermuted(CleanLoss):
    def common(self, s, t):
        s, t = super().common(s, t)
        order = torch.arange(t.shape[-1])
        order[[1, 2, 3]] = order[[2, 3, 1]]
        return s, t[..., order]


# --- precision ----------------------------------------------------------------------------------------------


class LowPrecision(CleanLoss):
    def log_q(self, s):
        return functional.log_softmax(s / self.t, -1)

    def log_p(self, t):
        return functional.log_softmax(t / self.t, -1)

    def entries(self, log_p, log_q):
        return log_p.exp() * log_p - log_p.exp() * log_q


class LinearMixture(Jsd):
    def per_token(self, log_p, log_q):
        p, q = log_p.float().exp(), log_q.float().exp()
        m = (self.beta * p + (1 - self.beta) * q).log()
        return (self.beta * p * (p.log() - m) + (1 - self.beta) * q * (q.log() - m)).sum(-1)


class BeforeEqualHeads(CleanLoss):
    """Cuts after the softmax."""

    def common(self, s, t):
        self.vocab = min(s.shape[-1], t.shape[-1])
        return s, t

    def per_token(self, log_p, log_q):
        return super().per_token(log_p[..., : self.vocab], log_q[..., : self.vocab])


_JSD = {"divergence": "jsd", "beta": 0.2}
_TOP = {"top_k": 4, "top_k_rule": "renormalised", "distill_weight": 1.0, "hard_weight": 0.0}


def loss_bug(
    name: str, loss: type[CleanLoss], right: str = "", source: str = "", *, dtype: str = "float64", **objective: Any
) -> Injected:
    """A row of the tables: the properties that are right reasons, the source below github.com, what is declared."""
    source = source and f"https://github.com/{source}"
    found = {"properties": tuple(right.split()), "source": source, "objective": objective, "dtype": dtype}
    return Injected(name=name, loss=loss, **found)


OPEN = (
    loss_bug("I03 window of the batch", WindowOfTheBatch, "shift", "THU-BPM/RLCSD/issues/6"),
    loss_bug("I04 slice at the prompt", SliceAtPrompt, "shift mask", "huggingface/trl/issues/2058"),
    loss_bug("I06 EOS is pad", EosIsPad, "mask", "huggingface/trl/issues/6357"),
    loss_bug("I08 nothing counts", PaddedMean, "mask", "huggingface/trl/issues/6025"),
    loss_bug("I10 divided twice", DividedTwice, "normalisation", "modelscope/easydistill/issues/16"),
    loss_bug("I13 no T squared", NoSquare, "temperature", "IntelLabs/distiller/issues/122"),
    loss_bug(
        "I14 sampling temperature",
        SamplingTemperature,
        "temperature weights options",
        "huggingface/trl/issues/5731",
        temperature=1.0,
        temperature_squared=False,
        distill_weight=1.0,
        hard_weight=0.0,
    ),
    loss_bug("I15 mixture swapped", MixtureSwapped, "direction", "huggingface/trl/issues/3043", **_JSD),
    loss_bug(
        "I17 beta not forwarded",
        BetaNotForwarded,
        "direction options",
        "linkedin/Liger-Kernel/issues/609",
        divergence="jsd",
        beta=0.9,
    ),
    loss_bug("I20 softmax over the sequence", SequenceSoftmax, "loss", "salesforce/ALBEF/issues/58"),
    loss_bug("I21 entries clipped", ClippedEntries, "loss", "huggingface/trl/issues/5990"),
    loss_bug("I25 ids of the shard", ShardIds, "top-k vocabulary", "modelscope/ms-swift/issues/8319", **_TOP),
    loss_bug("I26 zero-filled columns", ZeroFilled, "vocabulary", "arcee-ai/DistillKit/issues/37", vocabulary="cut"),
    loss_bug("I28 other token map", IdsPermuted, "vocabulary", "arcee-ai/DistillKit/issues/7"),
)
"""Of the open recipes those that a loss can have."""
OWN = (
    loss_bug("student a position later", StudentLater, "shift", "DeepOpt-com/WrinkleFree-Monorepo/issues/13"),
    loss_bug("teacher a position later", TeacherLater, "shift", "linkedin/fmchisel/issues/23"),
    loss_bug("mask not moved", MaskNotMoved, "shift mask", "sgl-project/SpecForge/issues/885"),
    loss_bug("labels not moved", NotMoved, "shift", "KempnerInstitute/KempnerForge/issues/155"),
    loss_bug("labels moved twice", MovedTwice, "shift", "KempnerInstitute/KempnerForge/issues/155"),
    loss_bug("no mask in the KL", NoMask, "mask", "AI-Hypercomputer/maxtext/issues/3478"),
    loss_bug("another sentinel", OtherSentinel, "mask", "NVIDIA-NeMo/Automodel/issues/3897"),
    loss_bug("batchmean", BatchMean, "normalisation", "neuralmagic/sparseml/issues/592"),
    loss_bug("over the padded length", OverMaxLength, "normalisation", "arcee-ai/DistillKit/commit/4b42daa"),
    loss_bug("pairs counted", PairsCounted, "normalisation", "axolotl-ai-cloud/axolotl/commit/067b021c8", **_TOP),
    loss_bug("row means", RowMeans, "normalisation", "verl-project/verl/issues/7200"),
    loss_bug("temperature ignored", TemperatureIgnored, "temperature", "huggingface/trl/issues/6526"),
    loss_bug("temperature of the student alone", StudentOnly, "temperature", "THUDM/slime/issues/2085"),
    loss_bug("hard loss at T", HardToo, "temperature", "huggingface/trl/issues/5731"),
    loss_bug("reversed", Reversed, "direction", "linkedin/Liger-Kernel/issues/609"),
    loss_bug("subtracted", Subtracted, "loss direction", "Unakar/Logic-RL/issues/58"),
    loss_bug(
        "teacher with itself",
        WithItself,
        "loss weights",
        "labmlai/annotated_deep_learning_paper_implementations/issues/66",
    ),
    loss_bug("alpha on the wrong term", WrongTerm, "weights", "lucidrains/vit-pytorch/issues/91"),
    loss_bug("teacher dropped", TeacherDropped, "weights loss", "NousResearch/atropos/issues/456"),
    loss_bug("softmax first", SoftmaxFirst, "loss", "microsoft/ProDA/issues/20"),
    loss_bug("view mixes axes", Viewed, "loss", "irfanICMLL/structure_knowledge_distillation/issues/11"),
    loss_bug("gradient at ties", TiesPull, "loss", "linkedin/Liger-Kernel/issues/1373", divergence="tvd"),
    loss_bug("clamped in the forward pass", ClampedForward, "value", "ByteDance-Seed/VeOmni/issues/771"),
    loss_bug("not renormalised", NotRenormalised, "top-k", "arcee-ai/DistillKit", **_TOP),
    loss_bug("both renormalised", BothRenormalised, "top-k", "axolotl-ai-cloud/axolotl", **_TOP),
    loss_bug("cut after the softmax", BeforeEqualHeads, "vocabulary", "microsoft/LMOps/pull/331", vocabulary="cut"),
    loss_bug("columns moved by one", IdsMoved, "vocabulary", "huggingface/trl/issues/6457"),
    loss_bug(
        "low-precision reductions",
        LowPrecision,
        "precision",
        "vllm-project/speculators/issues/788",
        dtype="bfloat16",
        distill_weight=1.0,
        hard_weight=0.0,
    ),
    loss_bug(
        "log of a mixture", LinearMixture, "precision", "linkedin/Liger-Kernel/issues/862", dtype="float32", **_JSD
    ),
)
"""Made from the list."""


# --- designs ------------------------------------------------------------------------------------------------


class SoftCrossEntropy(CleanLoss):
    def entries(self, log_p, log_q):
        return -log_p.exp() * log_q


class Skewed(CleanLoss):
    def per_token(self, log_p, log_q):
        m = torch.logaddexp(log_p + torch.tensor(0.1).log(), log_q + torch.tensor(0.9).log())
        return (log_p.exp() * (log_p - m)).sum(-1)


class FilledRowMeans(CleanLoss):
    def _mean(self, x, mask):
        filled = (mask.sum(1) > 0).sum().clamp(min=1)
        return ((x * mask).sum(1) / mask.sum(1).clamp(min=1)).sum() / filled

    def reduced(self, kd, mask):
        return self._mean(kd, mask)

    def hard(self, s, y):
        each = functional.cross_entropy(s.transpose(1, 2), y, ignore_index=IGNORE, reduction="none")
        return self._mean(each, y != IGNORE)


class Tail(TopK):
    def per_token(self, log_p, log_q):
        ids = self.ids(log_p)
        p, q = log_p.gather(-1, ids), log_q.gather(-1, ids)
        off = torch.ones_like(log_p, dtype=torch.bool).scatter(-1, ids, False)
        rest_p = log_p.masked_fill(~off, -1e30).logsumexp(-1)
        rest_q = log_q.masked_fill(~off, -1e30).logsumexp(-1)
        return (p.exp() * (p - q)).sum(-1) + rest_p.exp() * (rest_p - rest_q)


class PreShifted(CleanLoss):
    def aligned(self, s, t, y):
        return s, t, y


class PolicyGradient(CleanLoss):
    """Reverse KL by its score function: a detached reward times log q, in expectation; its value is no divergence."""

    def entries(self, log_p, log_q):
        return log_q.exp() * (log_q - log_p).detach()


class SampledTokens(CleanLoss):
    """Reverse KL by the student's own tokens, which are the labels: a detached advantage times log q."""

    def __call__(self, student_logits, teacher_logits, labels):
        s, t, y = student_logits[:, :-1], teacher_logits[:, :-1], labels[:, 1:]
        at = y.clamp(min=0)[..., None]
        log_q, log_p = (x.log_softmax(-1).gather(-1, at).squeeze(-1) for x in (s, t))
        mask = y != IGNORE
        return ((log_q - log_p).detach() * log_q * mask).sum() / mask.sum().clamp(min=1)


class NoFloor(CleanLoss):
    def reduced(self, kd, mask):
        return (kd * mask).sum() / mask.sum()


class CountedRowMeans(FilledRowMeans):
    def _mean(self, x, mask):
        return ((x * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


class Summed(CleanLoss):
    def reduced(self, kd, mask):
        return (kd * mask).sum()

    def hard(self, s, y):
        return functional.cross_entropy(s.flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum")


class FixedDenominator(CleanLoss):
    def reduced(self, kd, mask):
        return (kd * mask).sum() / 512

    def hard(self, s, y):
        return functional.cross_entropy(s.flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum") / 512


class ClippedTokens(CleanLoss):
    def per_token(self, log_p, log_q):
        return super().per_token(log_p, log_q).clamp(max=0.3)


class AlphaOnLabels(CleanLoss):
    def mixed(self, kd, ce):
        return (1 - self.alpha) * kd + self.alpha * ce


class Float32Inside(CleanLoss):
    def log_q(self, s):
        return functional.log_softmax(s.float() / self.t, -1)

    def log_p(self, t):
        return functional.log_softmax(t.float() / self.t, -1)


class PromptToo(CleanLoss):
    """Every position is distilled, labels or not."""

    def reduced(self, kd, mask):
        return kd.mean()


class Symmetric(CleanLoss):
    def entries(self, log_p, log_q):
        b = self.beta
        return b * log_p.exp() * (log_p - log_q) + (1 - b) * log_q.exp() * (log_q - log_p)


class Smoothed(CleanLoss):
    def hard(self, s, y):
        total = functional.cross_entropy(
            s.flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum", label_smoothing=0.1
        )
        return total / (y != IGNORE).sum().clamp(min=1)


DESIGNS = (
    loss_bug("clean", CleanLoss, dtype="bfloat16"),
    loss_bug("clean JSD", Jsd, **_JSD),
    loss_bug("clean top-k", TopK, **_TOP),
    loss_bug("clean, heads cut", CleanLoss, vocabulary="cut"),
    loss_bug("C02 cross-entropy to soft targets", SoftCrossEntropy, reported="cross-entropy"),
    loss_bug("C03 skew KL", Skewed, divergence="skew-kl", skew=0.1),
    loss_bug("C08 sequence mean", FilledRowMeans, reduction="sequence-mean"),
    loss_bug("C10 reverse KL", Reversed, divergence="reverse-kl"),
    loss_bug("C10 reverse KL by its score", PolicyGradient, divergence="reverse-kl", reported="other"),
    loss_bug("C11 tail bucket", Tail, **_TOP | {"top_k_rule": "tail"}),
    loss_bug("C11 both renormalised", BothRenormalised, **_TOP | {"top_k_rule": "subset"}),
    loss_bug("C12 labels come moved", PreShifted, shift="outside"),
    loss_bug("no T squared", NoSquare, temperature_squared=False),
    loss_bug(
        "C10 reverse KL by sampled tokens",
        SampledTokens,
        divergence="reverse-kl",
        temperature=1.0,
        distill_weight=1.0,
        hard_weight=0.0,
        sampled="labels",
        reported="other",
    ),
    loss_bug("no floor, not declared", NoFloor, nothing_counts=None),
    loss_bug("C08 empty rows counted, not declared", CountedRowMeans, reduction="sequence-mean"),
    loss_bug("prompts distilled too", PromptToo, mask="all", reduction="position-mean", hard_reduction="token-mean"),
    loss_bug("sum", Summed, reduction="sum"),
    loss_bug("constant denominator", FixedDenominator, reduction="constant", denominator=512.0),
    loss_bug("entries clipped", ClippedEntries, clip=0.05, clip_rule="entry"),
    loss_bug("tokens clipped", ClippedTokens, clip=0.3, clip_rule="token"),
    loss_bug("float32 inside", Float32Inside),
    loss_bug("symmetric KL", Symmetric, divergence="symmetric-kl", beta=0.3),
    loss_bug("smoothed labels", Smoothed, label_smoothing=0.1),
    loss_bug("not renormalised", NotRenormalised, **_TOP | {"top_k_rule": "zero", "reported": "other"}),
)
"""Correct but unusual, when declared."""
