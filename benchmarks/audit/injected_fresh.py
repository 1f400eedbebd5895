"""Bugs and designs that were written when the audit was finished, run once before anything was changed for them."""

import torch
from torch.nn import functional

from benchmarks.audit.injected_loops import IGNORE, CleanLoop, loop_bug, own_tokens
from benchmarks.audit.injected_losses import CleanLoss, loss_bug


class Smoothing(CleanLoss):
    def hard(self, s, y):
        n = (y != IGNORE).sum().clamp(min=1)
        flat = {"ignore_index": IGNORE, "reduction": "sum", "label_smoothing": 0.1}
        return functional.cross_entropy(s.flatten(0, 1), y.flatten(), **flat) / n


class Confident(CleanLoss):
    """Each token weighted by the teacher's largest probability."""

    def per_token(self, log_p, log_q):
        return super().per_token(log_p, log_q) * log_p.exp().amax(-1)


class ElementMean(CleanLoss):
    def per_token(self, log_p, log_q):
        return self.entries(log_p, log_q).mean(-1)


class StudentDetached(CleanLoss):
    def log_q(self, s):
        return super().log_q(s).detach()


class TopP(CleanLoss):
    """A nucleus of 0.9 of the teacher, renormalised, where all of it was declared."""

    def entries(self, log_p, log_q):
        p, order = log_p.exp().sort(-1, descending=True)
        kept = torch.where(p.cumsum(-1) - p < 0.9, p, 0.0)
        kept = torch.zeros_like(p).scatter(-1, order, kept / kept.sum(-1, keepdim=True))
        return torch.where(kept > 0, kept * (kept.clamp_min(1e-30).log() - log_q), 0.0)


class LastPromptToo(CleanLoss):
    """The mask opens one position early."""

    def mask(self, y):
        mask = y != IGNORE
        return mask | torch.cat([mask[:, 1:], mask[:, :1] & False], 1)


class AlphaSquared(CleanLoss):
    def mixed(self, kd, ce):
        return self.alpha * (self.alpha * kd) + (1 - self.alpha) * ce


class Bounded(CleanLoss):
    """Logits are clamped to 2 before the softmax."""

    def log_q(self, s):
        return super().log_q(s.clamp(-2, 2))


class RowsNotMoved(CleanLoss):
    """Teacher rows are laid out without the left pads."""

    def aligned(self, s, t, y):
        first = (y != IGNORE).int().argmax(1)
        moved = torch.stack([row.roll(int(n) % 2, 0) for row, n in zip(t, first, strict=True)])
        return s[:, :-1], moved[:, :-1], y[:, 1:]


class WithoutEos(CleanLoss):
    """The first column is left out of both softmaxes."""

    def common(self, s, t):
        return s[..., 1:], t[..., 1:]


class FullWindow(CleanLoop):
    """The incomplete last window is divided as if it were whole."""

    def micro(self, batch, count, size):
        return super().micro(batch, count, size) * size / self.accumulation


class LastMicroOnly(CleanLoop):
    def micro(self, batch, count, size):
        self.optimizer.zero_grad()
        return super().micro(batch, count, size)


class EarlySchedule(CleanLoop):
    """The schedule is stepped before the first update."""

    def rate(self):
        for group in self.optimizer.param_groups:
            group["lr"] = 0.5 * (1 - (self.number + 1) / self.total)


class EvaluationEats(CleanLoop):
    """The evaluation takes a batch from the training iterator."""

    def windows(self, epochs):
        return [w[:-1] if len(w) == self.accumulation else w for w in super().windows(epochs)]


class MicroRanks(CleanLoop):
    """Counts are averaged over ranks, gradients summed."""

    def count(self, window):
        total = super().count(window)
        return max(total // self.world, 1)


class TokensOfTheBatch(CleanLoop):
    """Each micro-batch is weighted by its share of positions, not of tokens."""

    def micro(self, batch, count, size):
        kd, ce = self.sums(batch)
        return (0.5 * kd + 0.5 * ce) / max(own_tokens(batch), 1) * batch["input_ids"].numel() / 100


class Tvd(CleanLoss):
    def entries(self, log_p, log_q):
        return (log_p.exp() - log_q.exp()).abs() / 2


class Logits(CleanLoss):
    def aligned(self, s, t, y):
        self.gap = (s - t)[:, :-1] / self.t
        return s[:, :-1], t[:, :-1], y[:, 1:]

    def per_token(self, log_p, log_q):
        return self.gap.square().mean(-1)


class HardOnly(CleanLoss):
    def mixed(self, kd, ce):
        return ce


class SkewReverse(CleanLoss):
    def entries(self, log_p, log_q):
        m = torch.logaddexp(log_q + torch.tensor(0.1).log(), log_p + torch.tensor(0.9).log())
        return log_q.exp() * (log_q - m)


class OnePlusOne(CleanLoss):
    def mixed(self, kd, ce):
        return kd + ce


_WEIGHTS = {"weights_add_up": False}
FRESH = (
    loss_bug("labels smoothed", Smoothing, "loss"),
    loss_bug("tokens weighted by confidence", Confident, "normalisation weights loss"),
    loss_bug("mean over the vocabulary", ElementMean, "normalisation"),
    loss_bug("student detached", StudentDetached, "weights loss"),
    loss_bug("nucleus", TopP, "top-k loss"),
    loss_bug("mask opens early", LastPromptToo, "mask"),
    loss_bug("alpha squared", AlphaSquared, "weights"),
    loss_bug("logits clamped", Bounded, "loss"),
    loss_bug("rows laid out without pads", RowsNotMoved, "shift"),
    loss_bug("a column left out", WithoutEos, "vocabulary loss"),
    loop_bug("last window as if whole", FullWindow, "accumulation"),
    loop_bug("last micro-batch only", LastMicroOnly, "mask accumulation optimizer"),
    loop_bug("schedule steps early", EarlySchedule, "schedule", schedule="linear"),
    loop_bug("evaluation eats data", EvaluationEats, "data accumulation"),
    loop_bug("counts averaged over ranks", MicroRanks, "distributed"),
    loop_bug("micro-batches by positions", TokensOfTheBatch, "accumulation normalisation"),
)
FRESH_DESIGNS = (
    loss_bug("total variation", Tvd, divergence="tvd"),
    loss_bug("squared error of logits", Logits, divergence="mse-logits"),
    loss_bug("labels alone", HardOnly, **_WEIGHTS | {"distill_weight": 0.0, "hard_weight": 1.0, "divergence": "none"}),
    loss_bug("skew reverse KL", SkewReverse, divergence="skew-reverse-kl", skew=0.1),
    loss_bug("both terms whole", OnePlusOne, **_WEIGHTS | {"distill_weight": 1.0, "hard_weight": 1.0}),
    loop_bug("no accumulation", CleanLoop, accumulation=1),
)
