"""The teacher's targets of some windows, as blocks of bytes: the one place where a target is made.

Systematic resampling (Madow 1949; Douc, Cappe & Moulines 2005, arXiv cs/0507025) puts N equally spaced points with
one random offset through the cumulative distribution. An id of probability p gets floor or ceil of N p points, N p on
average: unbiased like the independent draws of RS-KD (arXiv 2503.16870), but the variance of its weight is
f (1 - f) / N^2, f the fraction of N p, where draws have p (1 - p) / N. The order of the ids changes no variance, so
it is that of the vocabulary, which needs no sort.

The same windows in the same group give the same bytes on one machine: offsets depend on seed and window alone, and a
shard is always cut into the same groups. The teacher's logits exist for a few rows at a time.
Shape suffixes: B window, T position, P position of all windows, N sample, K kept id, D hidden width, V vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distillaw.data.shards import Split
from distillaw.distill.heads import LOWEST_LOGIT, keep_top
from distillaw.models.teacher import AnyTeacher, ModelTeacher
from distillaw.targets import codec
from distillaw.targets.manifest import Scheme
from distillaw.targets.store import Sums


def estimate(
    logits_PV: torch.Tensor, labels_P: torch.Tensor, offsets_P: torch.Tensor, scheme: Scheme
) -> dict[str, torch.Tensor]:
    """What a scheme keeps of some positions.

    Args:
        logits_PV: the teacher's logits, finite (a masked token: -1e30), any float type; computed in float32.
        labels_P: the tokens that follow, int64.
        offsets_P: random offsets in [0, 1), float64; used by `sampled`.

    Returns:
        `entropy` of softmax(logits / temperature) and `loss`, -log softmax(logits)[label] at temperature 1, both in
        nats; `mass`, the probability of the ids kept. Of `sampled` besides `ids`, (P, N) ascending with repeats; of
        `top-*` `ids`, (P, K) ascending, dropped slots V, and `nats`, their negative log-probabilities; of `full` the
        `logits`.
    """
    logits_PV = logits_PV.float()
    scaled_PV = logits_PV if scheme.temperature == 1 else logits_PV / scheme.temperature
    logsumexp_P = scaled_PV.logsumexp(dim=-1)
    probs_PV = (scaled_PV - logsumexp_P[:, None]).exp_()
    entropy_P = logsumexp_P - torch.einsum("pv,pv->p", probs_PV, scaled_PV)
    normaliser_P = logsumexp_P if scheme.temperature == 1 else logits_PV.logsumexp(dim=-1)
    scores = {"entropy": entropy_P, "loss": normaliser_P - logits_PV.gather(1, labels_P[:, None])[:, 0]}
    if scheme.estimator == "full":
        return {**scores, "logits": logits_PV, "mass": torch.ones_like(entropy_P)}
    if scheme.estimator == "sampled":
        ids_PN = sample_systematic(probs_PV, offsets_P, scheme.samples)
        first_PN = torch.ones_like(ids_PN, dtype=torch.bool)
        first_PN[:, 1:] = ids_PN[:, 1:] != ids_PN[:, :-1]
        mass_P = (probs_PV.gather(1, ids_PN) * first_PN).sum(dim=-1)
        return {**scores, "ids": ids_PN, "mass": mass_P}
    ids_PK, kept_PK = keep_top(probs_PV, scheme.k, scheme.p if scheme.estimator == "top-p" else 1.0)
    ids_PK, order_PK = torch.where(kept_PK, ids_PK, probs_PV.shape[1]).sort(dim=-1)
    kept_PK = kept_PK.gather(1, order_PK)
    nats_PK = logsumexp_P[:, None] - scaled_PV.gather(1, torch.where(kept_PK, ids_PK, 0))
    return {**scores, "ids": ids_PK, "nats": nats_PK, "mass": ((-nats_PK).exp() * kept_PK).sum(dim=-1)}


def sample_systematic(probs_PV: torch.Tensor, offsets_P: torch.Tensor, samples: int) -> torch.Tensor:
    """Systematic samples of each row.

    Args:
        probs_PV: probabilities, float; rows need not sum to exactly 1.
        offsets_P: uniform in [0, 1), float64.

    Returns:
        Ids, ascending, int64, shape (P, N); E[share of id v] = p(v).
    """
    cumulative_PV = probs_PV.cumsum(dim=-1, dtype=torch.float64)
    points_PN = (torch.arange(samples, device=probs_PV.device) + offsets_P[:, None]) / samples
    total_P1 = cumulative_PV[:, -1:]
    points_PN = torch.minimum(points_PN * total_P1, total_P1 * (1 - 2**-52))  # (N - 1 + offset) / N may round to 1
    return torch.searchsorted(cumulative_PV, points_PN, right=True)


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
    bias: str = ""
    """Beyond what the scheme leaves out: a dump has one (targets/foreign.py), a model none."""

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
        rows = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
        sums = Sums(**{name: float(rows[name].sum(dtype=np.float64)) for name in ("loss", "entropy", "mass")})
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
        assert isinstance(self.teacher, ModelTeacher), "an oracle has no head"
        for rows_PD in self.teacher.hidden(inputs_BT).flatten(0, 1).split(size):
            yield head.logits_into(rows_PD, rows_PD.new_empty(len(rows_PD), vocab))

    def _now(self) -> float:
        if self.teacher.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def window_offsets(seed: int, window: int, context: int) -> NDArray[np.float64]:
    """The random offset of each position of a window, uniform in [0, 1), shape (context,)."""
    return np.random.Generator(np.random.Philox(key=[seed, window])).random(context)


def _encode(rows: dict[str, NDArray], scheme: Scheme, vocab_size: int) -> bytes:
    entropy, loss = rows["entropy"], rows["loss"]
    if scheme.estimator == "full":
        return codec.encode_full(rows["logits"], entropy, loss)
    if scheme.estimator == "sampled":
        return codec.encode_sampled(rows["ids"], entropy, loss)
    kept = rows["ids"] < vocab_size
    return codec.encode_top(
        rows["ids"][kept],
        rows["nats"][kept],
        kept.sum(axis=1),
        fixed=scheme.estimator == "top-k",
        entropy_P=entropy,
        loss_P=loss,
    )
