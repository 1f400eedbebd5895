"""From logits to what a store keeps of them, a few rows at a time: nothing of the vocabulary's width lives long.

Systematic resampling (Madow 1949; Douc, Cappe & Moulines 2005, arXiv cs/0507025) puts N equally spaced points with
one random offset through the cumulative distribution. An id of probability p gets floor or ceil of N p points, N p on
average: unbiased like the independent draws of RS-KD (arXiv 2503.16870), but the variance of its weight is
f (1 - f) / N^2, f the fraction of N p, where draws have p (1 - p) / N. The order of the ids changes no variance, so
it is that of the vocabulary, which needs no sort.
Shape suffixes: P position, N sample, K kept id, V vocabulary.
"""

from dataclasses import dataclass

import torch

from distillaw.distill.truncation import keep_top
from distillaw.targets.scheme import Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Targets of some positions; which fields are set depends on the estimator."""

    entropy: torch.Tensor
    """Entropy of softmax(logits / temperature), nats."""
    loss: torch.Tensor
    """-log softmax(logits)[label], nats, at temperature 1."""
    mass: torch.Tensor
    """Probability of the ids kept."""
    ids: torch.Tensor | None = None
    """`sampled`: (P, N) ascending with repeats. `top-*`: (P, K) ascending, dropped slots are V."""
    nats: torch.Tensor | None = None
    """`top-*`: negative log-probabilities of the ids."""
    logits: torch.Tensor | None = None
    """`full`."""


def estimate(
    logits_PV: torch.Tensor, labels_P: torch.Tensor, offsets_P: torch.Tensor, scheme: Scheme
) -> Rows:
    """What a scheme keeps of some positions.

    Args:
        logits_PV: the teacher's logits, finite (a masked token: -1e30), any float type; computed in float32.
        labels_P: the tokens that follow, int64.
        offsets_P: random offsets in [0, 1), float64; used by `sampled`.
        scheme: the estimator.
    """
    logits_PV = logits_PV.float()
    scaled_PV = logits_PV if scheme.temperature == 1 else logits_PV / scheme.temperature
    logsumexp_P = scaled_PV.logsumexp(dim=-1)
    probs_PV = (scaled_PV - logsumexp_P[:, None]).exp_()
    entropy_P = logsumexp_P - torch.einsum("pv,pv->p", probs_PV, scaled_PV)
    normaliser_P = logsumexp_P if scheme.temperature == 1 else logits_PV.logsumexp(dim=-1)
    scores = {"entropy": entropy_P, "loss": normaliser_P - logits_PV.gather(1, labels_P[:, None])[:, 0]}
    if scheme.estimator == "full":
        return Rows(logits=logits_PV, mass=torch.ones_like(entropy_P), **scores)
    if scheme.estimator == "sampled":
        ids_PN = sample_systematic(probs_PV, offsets_P, scheme.samples)
        first_PN = torch.ones_like(ids_PN, dtype=torch.bool)
        first_PN[:, 1:] = ids_PN[:, 1:] != ids_PN[:, :-1]
        mass_P = (probs_PV.gather(1, ids_PN) * first_PN).sum(dim=-1)
        return Rows(ids=ids_PN, mass=mass_P, **scores)
    ids_PK, kept_PK = keep_top(probs_PV, scheme.k, scheme.p if scheme.estimator == "top-p" else 1.0)
    ids_PK, order_PK = torch.where(kept_PK, ids_PK, probs_PV.shape[1]).sort(dim=-1)
    kept_PK = kept_PK.gather(1, order_PK)
    nats_PK = logsumexp_P[:, None] - scaled_PV.gather(1, torch.where(kept_PK, ids_PK, 0))
    return Rows(ids=ids_PK, nats=nats_PK, mass=((-nats_PK).exp() * kept_PK).sum(dim=-1), **scores)


def sample_systematic(probs_PV: torch.Tensor, offsets_P: torch.Tensor, samples: int) -> torch.Tensor:
    """Systematic samples of each row.

    Args:
        probs_PV: probabilities, float; rows need not sum to exactly 1.
        offsets_P: uniform in [0, 1), float64.
        samples: N.

    Returns:
        Ids, ascending, int64, shape (P, N); E[share of id v] = p(v).
    """
    cumulative_PV = probs_PV.cumsum(dim=-1, dtype=torch.float64)
    points_PN = (torch.arange(samples, device=probs_PV.device) + offsets_P[:, None]) / samples
    total_P1 = cumulative_PV[:, -1:]
    points_PN = torch.minimum(
        points_PN * total_P1, total_P1 * (1 - 2**-52)
    )  # (N - 1 + offset) / N may round to 1
    return torch.searchsorted(cumulative_PV, points_PN, right=True)
