"""A teacher's distribution without its tail: the likeliest tokens alone, renormalised.

`top_k` keeps the k likeliest tokens, `top_p` the fewest of the likeliest whose mass is at least p (the nucleus of
Holtzman et al. 2019, arXiv 1904.09751); together, the fewest of the k likeliest that hold mass p, or all k. What is
left is divided by its mass: its fixed point is the truncated distribution, over-confident by 1 / mass
(docs/targets.md), which is what a study of truncation wants to see.
Shape suffixes: P or N position, K kept token, V vocabulary.
"""

import torch

from distillaw.distill.heads import LOWEST_LOGIT


def keep_top(probs_PV: torch.Tensor, k: int, p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most likely ids of each row, (P, K), and which of them are kept: the fewest that hold mass p; all for 1."""
    values_PK, ids_PK = probs_PV.topk(min(k, probs_PV.shape[1]), dim=-1)
    before_PK = values_PK.cumsum(dim=-1, dtype=torch.float64) - values_PK
    return ids_PK, (before_PK < p) | (p == 1)


def truncate_(logits_NV: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Mask all but the kept tokens, in place; a softmax of the result renormalises. Returns it.

    Args:
        logits_NV: the teacher's, over the temperature already.
        top_k: 0 keeps all.
        top_p: 1 keeps all.
    """
    ids_NK, kept_NK = keep_top(logits_NV.softmax(-1), top_k or logits_NV.shape[1], top_p)
    kept_logits_NK = logits_NV.gather(1, ids_NK).masked_fill_(~kept_NK, LOWEST_LOGIT)
    return logits_NV.fill_(LOWEST_LOGIT).scatter_(1, ids_NK, kept_logits_NK)
