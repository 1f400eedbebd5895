"""A student scored with its logits divided by one temperature, the best for it on the held-out text.

What is left of its loss is what it does not know; the rest is only how sure it was. Shapes: B sequence, T position, V
vocabulary, N scored token, D document.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from distillaw.data.shards import TokenStore
from distillaw.evaluate.heldout import IGNORE, HeldoutSet, make_heldout

GRID = np.round(np.geomspace(0.5, 1.5, 45), 4)
"""Temperatures tried; the best is refined by a parabola in ln temperature."""
WINDOWS_AT_ONCE = 32


@lru_cache(maxsize=1)
def heldout(data: Path) -> HeldoutSet:
    """The held-out documents of a study, as its runs are scored."""
    return make_heldout(TokenStore.open(data).heldout_documents(), context=128)


@torch.no_grad()
def rescaled_scores(run: Path, data: Path) -> tuple[float, np.ndarray, float]:
    """Best temperature, loss sum of each document (nats, shape (D,)), loss in nats per token."""
    text, model = heldout(data), AutoModelForCausalLM.from_pretrained(run).eval()
    logits = [model(part).logits for part in text.inputs.split(WINDOWS_AT_ONCE)]
    logits_BTV = torch.cat(logits)
    losses = [float(document_sums(logits_BTV, text, t).sum()) for t in GRID]
    best = refined(np.log(GRID), np.array(losses))
    sums = document_sums(logits_BTV, text, best)
    return best, sums, float(sums.sum() / int((text.labels != IGNORE).sum()))


def document_sums(logits_BTV: torch.Tensor, text: HeldoutSet, temperature: float) -> np.ndarray:
    """-ln p of the next token, summed within documents, shape (D,)."""
    losses_BT = torch.nn.functional.cross_entropy(
        (logits_BTV / temperature).flatten(0, 1), text.labels.flatten(), ignore_index=IGNORE, reduction="none"
    ).view(text.labels.shape)
    sums = np.zeros(text.num_documents)
    np.add.at(sums, text.document, losses_BT.double().sum(1).numpy())
    return sums


def refined(x: np.ndarray, y: np.ndarray) -> float:
    """Exp of the x at which the parabola through the lowest y and its neighbours is lowest."""
    at = int(np.clip(np.argmin(y), 1, len(y) - 2))
    a, b, _ = np.polyfit(x[at - 1 : at + 2], y[at - 1 : at + 2], 2)
    return float(np.exp(-b / (2 * a)))
