"""Students and teachers scored with their logits divided by one temperature, the best for each on the held-out text.

What is left of the loss is what they do not know; the rest is only how sure they were. Shapes: B sequence, T position,
V vocabulary, D document.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from distillaw.models.scoring import IGNORE, HeldoutSet
from distillaw.models.teacher import load_any_teacher
from distillaw.train.group import open_text

GRID = np.round(np.geomspace(0.25, 1.5, 60), 4)
"""Temperatures tried; the best is refined by a parabola in ln temperature."""
WINDOWS_AT_ONCE = 32
CONTEXT = 128


@torch.no_grad()
def rescaled_student(run: Path, data: Path) -> tuple[float, np.ndarray, float]:
    """Best temperature, loss sum of each document (nats, shape (D,)), loss in nats per token."""
    model = AutoModelForCausalLM.from_pretrained(run).eval()
    return rescaled(lambda ids_BT: model(ids_BT).logits, open_text(data, CONTEXT).heldout)


def rescaled_oracle(name: str, data: Path) -> tuple[float, np.ndarray, float]:
    """The same of an oracle."""
    text = open_text(data, CONTEXT)
    teacher = load_any_teacher(name, text.store, text.tokenizer, context=CONTEXT)
    return rescaled(lambda ids_BT: teacher.logits(ids_BT), text.heldout)


def rescaled(logits_of, heldout: HeldoutSet) -> tuple[float, np.ndarray, float]:
    """The temperature of the lowest held-out loss, and the scores at it."""
    logits_BTV = torch.cat([logits_of(part) for part in heldout.inputs.split(WINDOWS_AT_ONCE)])
    losses = [float(document_sums(logits_BTV, heldout, t).sum()) for t in GRID]
    best = refined(np.log(GRID), np.array(losses))
    sums = document_sums(logits_BTV, heldout, best)
    return best, sums, float(sums.sum() / int((heldout.labels != IGNORE).sum()))


def document_sums(logits_BTV: torch.Tensor, heldout: HeldoutSet, temperature: float) -> np.ndarray:
    """-ln p of the next token, summed within documents, shape (D,)."""
    losses_BT = torch.nn.functional.cross_entropy(
        (logits_BTV / temperature).flatten(0, 1), heldout.labels.flatten(), ignore_index=IGNORE, reduction="none"
    ).view(heldout.labels.shape)
    sums = np.zeros(heldout.num_documents)
    np.add.at(sums, heldout.document, losses_BT.double().sum(1).numpy())
    return sums


def refined(x: np.ndarray, y: np.ndarray) -> float:
    """Exp of the x at which the parabola through the lowest y and its neighbours is lowest."""
    at = int(np.clip(np.argmin(y), 1, len(y) - 2))
    a, b, _ = np.polyfit(x[at - 1 : at + 2], y[at - 1 : at + 2], 2)
    return float(np.exp(-b / (2 * a)))
