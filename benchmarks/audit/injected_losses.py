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
            return (
                (log_p.exp() * (log_p - log_q)).sum(-1) if b == 0 else (log_q.exp() * (log_q - log_p)).sum(-1)
            )
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
        moved = torch.stack(
            [row.roll(int(n != counted.max()), 0) for row, n in zip(t[:, :-1], counted, strict=True)]
        )
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
        rank = torch.arange(q.shape[-1]) * torch.where(
            p == q, -0.5, 0.0
        )  # ties pull at some more than at others
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


_T = "https://github.com/"
_JSD = {"divergence": "jsd", "beta": 0.2}
_TOP = {"top_k": 4, "top_k_rule": "renormalised", "distill_weight": 1.0, "hard_weight": 0.0}
OPEN = (
    Injected(
        name="I03 window of the batch",
        loss=WindowOfTheBatch,
        properties=("shift",),
        source=_T + "THU-BPM/RLCSD/issues/6",
    ),
    Injected(
        name="I04 slice at the prompt",
        loss=SliceAtPrompt,
        properties=("shift", "mask"),
        source=_T + "huggingface/trl/issues/2058",
    ),
    Injected(
        name="I06 EOS is pad", loss=EosIsPad, properties=("mask",), source=_T + "huggingface/trl/issues/6357"
    ),
    Injected(
        name="I08 nothing counts",
        loss=PaddedMean,
        properties=("mask",),
        source=_T + "huggingface/trl/issues/6025",
    ),
    Injected(
        name="I10 divided twice",
        loss=DividedTwice,
        properties=("normalisation",),
        source=_T + "modelscope/easydistill/issues/16",
    ),
    Injected(
        name="I13 no T squared",
        loss=NoSquare,
        properties=("temperature",),
        source=_T + "IntelLabs/distiller/issues/122",
    ),
    Injected(
        name="I14 sampling temperature",
        loss=SamplingTemperature,
        properties=("temperature", "weights", "options"),
        source=_T + "huggingface/trl/issues/5731",
        objective={
            "temperature": 1.0,
            "temperature_squared": False,
            "distill_weight": 1.0,
            "hard_weight": 0.0,
        },
    ),
    Injected(
        name="I15 mixture swapped",
        loss=MixtureSwapped,
        properties=("direction",),
        source=_T + "huggingface/trl/issues/3043",
        objective=_JSD,
    ),
    Injected(
        name="I17 beta not forwarded",
        loss=BetaNotForwarded,
        properties=("direction", "options"),
        source=_T + "linkedin/Liger-Kernel/issues/609",
        objective={"divergence": "jsd", "beta": 0.9},
    ),
    Injected(
        name="I20 softmax over the sequence",
        loss=SequenceSoftmax,
        properties=("loss",),
        source=_T + "salesforce/ALBEF/issues/58",
    ),
    Injected(
        name="I21 entries clipped",
        loss=ClippedEntries,
        properties=("loss",),
        source=_T + "huggingface/trl/issues/5990",
    ),
    Injected(
        name="I25 ids of the shard",
        loss=ShardIds,
        properties=("top-k", "vocabulary"),
        source=_T + "modelscope/ms-swift/issues/8319",
        objective=_TOP,
    ),
    Injected(
        name="I26 zero-filled columns",
        loss=ZeroFilled,
        properties=("vocabulary",),
        source=_T + "arcee-ai/DistillKit/issues/37",
        objective={"vocabulary": "cut"},
    ),
    Injected(
        name="I28 other token map",
        loss=IdsPermuted,
        properties=("vocabulary",),
        source=_T + "arcee-ai/DistillKit/issues/7",
    ),
)
"""Of the open recipes those that a loss can have."""
OWN = (
    Injected(
        name="student a position later",
        loss=StudentLater,
        properties=("shift",),
        source=_T + "DeepOpt-com/WrinkleFree-Monorepo/issues/13",
    ),
    Injected(
        name="teacher a position later",
        loss=TeacherLater,
        properties=("shift",),
        source=_T + "linkedin/fmchisel/issues/23",
    ),
    Injected(
        name="mask not moved",
        loss=MaskNotMoved,
        properties=("shift", "mask"),
        source=_T + "sgl-project/SpecForge/issues/885",
    ),
    Injected(
        name="labels not moved",
        loss=NotMoved,
        properties=("shift",),
        source=_T + "KempnerInstitute/KempnerForge/issues/155",
    ),
    Injected(
        name="labels moved twice",
        loss=MovedTwice,
        properties=("shift",),
        source=_T + "KempnerInstitute/KempnerForge/issues/155",
    ),
    Injected(
        name="no mask in the KL",
        loss=NoMask,
        properties=("mask",),
        source=_T + "AI-Hypercomputer/maxtext/issues/3478",
    ),
    Injected(
        name="another sentinel",
        loss=OtherSentinel,
        properties=("mask",),
        source=_T + "NVIDIA-NeMo/Automodel/issues/3897",
    ),
    Injected(
        name="batchmean",
        loss=BatchMean,
        properties=("normalisation",),
        source=_T + "neuralmagic/sparseml/issues/592",
    ),
    Injected(
        name="over the padded length",
        loss=OverMaxLength,
        properties=("normalisation",),
        source=_T + "arcee-ai/DistillKit/commit/4b42daa",
    ),
    Injected(
        name="pairs counted",
        loss=PairsCounted,
        properties=("normalisation",),
        source=_T + "axolotl-ai-cloud/axolotl/commit/067b021c8",
        objective=_TOP,
    ),
    Injected(
        name="row means",
        loss=RowMeans,
        properties=("normalisation",),
        source=_T + "verl-project/verl/issues/7200",
    ),
    Injected(
        name="temperature ignored",
        loss=TemperatureIgnored,
        properties=("temperature",),
        source=_T + "huggingface/trl/issues/6526",
    ),
    Injected(
        name="temperature of the student alone",
        loss=StudentOnly,
        properties=("temperature",),
        source=_T + "THUDM/slime/issues/2085",
    ),
    Injected(
        name="hard loss at T",
        loss=HardToo,
        properties=("temperature",),
        source=_T + "huggingface/trl/issues/5731",
    ),
    Injected(
        name="reversed",
        loss=Reversed,
        properties=("direction",),
        source=_T + "linkedin/Liger-Kernel/issues/609",
    ),
    Injected(
        name="subtracted",
        loss=Subtracted,
        properties=("loss", "direction"),
        source=_T + "Unakar/Logic-RL/issues/58",
    ),
    Injected(
        name="teacher with itself",
        loss=WithItself,
        properties=("loss", "weights"),
        source=_T + "labmlai/annotated_deep_learning_paper_implementations/issues/66",
    ),
    Injected(
        name="alpha on the wrong term",
        loss=WrongTerm,
        properties=("weights",),
        source=_T + "lucidrains/vit-pytorch/issues/91",
    ),
    Injected(
        name="teacher dropped",
        loss=TeacherDropped,
        properties=("weights", "loss"),
        source=_T + "NousResearch/atropos/issues/456",
    ),
    Injected(
        name="softmax first", loss=SoftmaxFirst, properties=("loss",), source=_T + "microsoft/ProDA/issues/20"
    ),
    Injected(
        name="view mixes axes",
        loss=Viewed,
        properties=("loss",),
        source=_T + "irfanICMLL/structure_knowledge_distillation/issues/11",
    ),
    Injected(
        name="gradient at ties",
        loss=TiesPull,
        properties=("loss",),
        source=_T + "linkedin/Liger-Kernel/issues/1373",
        objective={"divergence": "tvd"},
    ),
    Injected(
        name="clamped in the forward pass",
        loss=ClampedForward,
        properties=("value",),
        source=_T + "ByteDance-Seed/VeOmni/issues/771",
    ),
    Injected(
        name="not renormalised",
        loss=NotRenormalised,
        properties=("top-k",),
        source=_T + "arcee-ai/DistillKit",
        objective=_TOP,
    ),
    Injected(
        name="both renormalised",
        loss=BothRenormalised,
        properties=("top-k",),
        source=_T + "axolotl-ai-cloud/axolotl",
        objective=_TOP,
    ),
    Injected(
        name="cut after the softmax",
        loss=BeforeEqualHeads,
        properties=("vocabulary",),
        source=_T + "microsoft/LMOps/pull/331",
        objective={"vocabulary": "cut"},
    ),
    Injected(
        name="columns moved by one",
        loss=IdsMoved,
        properties=("vocabulary",),
        source=_T + "huggingface/trl/issues/6457",
    ),
    Injected(
        name="low-precision reductions",
        dtype="bfloat16",
        loss=LowPrecision,
        properties=("precision",),
        source=_T + "vllm-project/speculators/issues/788",
        objective={"distill_weight": 1.0, "hard_weight": 0.0},
    ),
    Injected(
        name="log of a mixture",
        dtype="float32",
        loss=LinearMixture,
        properties=("precision",),
        source=_T + "linkedin/Liger-Kernel/issues/862",
        objective=_JSD,
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
        return (
            functional.cross_entropy(s.flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum") / 512
        )


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
    Injected(name="clean", loss=CleanLoss, dtype="bfloat16"),
    Injected(name="clean JSD", loss=Jsd, objective=_JSD),
    Injected(name="clean top-k", loss=TopK, objective=_TOP),
    Injected(name="clean, heads cut", loss=CleanLoss, objective={"vocabulary": "cut"}),
    Injected(
        name="C02 cross-entropy to soft targets",
        loss=SoftCrossEntropy,
        objective={"reported": "cross-entropy"},
    ),
    Injected(name="C03 skew KL", loss=Skewed, objective={"divergence": "skew-kl", "skew": 0.1}),
    Injected(name="C08 sequence mean", loss=FilledRowMeans, objective={"reduction": "sequence-mean"}),
    Injected(name="C10 reverse KL", loss=Reversed, objective={"divergence": "reverse-kl"}),
    Injected(
        name="C10 reverse KL by its score",
        loss=PolicyGradient,
        objective={"divergence": "reverse-kl", "reported": "other"},
    ),
    Injected(name="C11 tail bucket", loss=Tail, objective=_TOP | {"top_k_rule": "tail"}),
    Injected(name="C11 both renormalised", loss=BothRenormalised, objective=_TOP | {"top_k_rule": "subset"}),
    Injected(name="C12 labels come moved", loss=PreShifted, objective={"shift": "outside"}),
    Injected(name="no T squared", loss=NoSquare, objective={"temperature_squared": False}),
    Injected(
        name="C10 reverse KL by sampled tokens",
        loss=SampledTokens,
        objective={
            "divergence": "reverse-kl",
            "temperature": 1.0,
            "distill_weight": 1.0,
            "hard_weight": 0.0,
            "sampled": "labels",
            "reported": "other",
        },
    ),
    Injected(name="no floor, not declared", loss=NoFloor, objective={"nothing_counts": None}),
    Injected(
        name="C08 empty rows counted, not declared",
        loss=CountedRowMeans,
        objective={"reduction": "sequence-mean"},
    ),
    Injected(
        name="prompts distilled too",
        loss=PromptToo,
        objective={"mask": "all", "reduction": "position-mean", "hard_reduction": "token-mean"},
    ),
    Injected(name="sum", loss=Summed, objective={"reduction": "sum"}),
    Injected(
        name="constant denominator",
        loss=FixedDenominator,
        objective={"reduction": "constant", "denominator": 512.0},
    ),
    Injected(name="entries clipped", loss=ClippedEntries, objective={"clip": 0.05, "clip_rule": "entry"}),
    Injected(name="tokens clipped", loss=ClippedTokens, objective={"clip": 0.3, "clip_rule": "token"}),
    Injected(name="float32 inside", loss=Float32Inside),
    Injected(name="symmetric KL", loss=Symmetric, objective={"divergence": "symmetric-kl", "beta": 0.3}),
    Injected(name="smoothed labels", loss=Smoothed, objective={"label_smoothing": 0.1}),
    Injected(
        name="not renormalised",
        loss=NotRenormalised,
        objective=_TOP | {"top_k_rule": "zero", "reported": "other"},
    ),
)
"""Correct but unusual, when declared."""
