"""Examples as tensors, packed or one a row, for training; by length, for scoring; and the margins of preferences.

Packed rows hold several conversations that do not see each other: positions begin anew with each and no attention mask
is given, from which transformers makes masks of blocks. `check_packing` proves it for the model at hand.
Shape suffixes: B row, T position.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from distillaw.errors import ConfigError
from distillaw.instruct.prepare import Example
from distillaw.models.scoring import IGNORE, HeldoutSet, score_heldout
from distillaw.runs.paired import DocumentScores, t_quantile, wilson_interval

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


SCORED_POSITIONS = 4096
"""Positions of one forward pass when scoring."""
_PROBE = 12
"""Tokens of each conversation with which packing is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collator:
    """Rows of a data set as a padded batch.

    A class and no closure, so that data loaders can send it to workers.
    """

    pad: int
    packed: bool

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors of shape (B, T): input_ids, labels, and position_ids (packed) or attention_mask."""
        width = max(len(row["input_ids"]) for row in rows)
        batch = {
            "input_ids": _padded([row["input_ids"] for row in rows], width, self.pad),
            "labels": _padded([row["labels"] for row in rows], width, IGNORE),
        }
        if not self.packed:
            ones = [[1] * len(row["input_ids"]) for row in rows]
            return batch | {"attention_mask": _padded(ones, width, 0)}
        positions = [[i for length in row["seq_lengths"] for i in range(length)] for row in rows]
        # a padding token is a conversation of its own
        return batch | {"position_ids": _padded(positions, width, 0)}


def training_rows(examples: Sequence[Example], *, packing: bool, max_tokens: int) -> "Dataset":
    """A data set of input_ids and labels (IGNORE off the assistant's tokens); packed rows have seq_lengths too.

    Packing is TRL's best-fit decreasing; examples are never cut, since none is longer than a row.
    """
    from datasets import Dataset
    from trl import pack_dataset

    columns = {
        "input_ids": [list(each.ids) for each in examples],
        "labels": [_labels(each) for each in examples],
    }
    rows = Dataset.from_dict(columns)
    return pack_dataset(rows, max_tokens, "bfd") if packing else rows


@torch.no_grad()
def check_packing(model: "PreTrainedModel") -> None:
    """Refuse to pack where a conversation would see the one before it in its row.

    Raises:
        ConfigError: the packed logits are not those of the conversations alone.
    """
    vocab = model.config.get_text_config().vocab_size
    ids = torch.arange(2 * _PROBE, device=model.device).remainder(vocab)[None]
    positions = torch.arange(_PROBE, device=model.device).repeat(2)[None]
    was_training = model.training
    model.eval()
    packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, _PROBE:]
    alone = model(input_ids=ids[:, _PROBE:], use_cache=False).logits
    model.train(was_training)
    if not torch.allclose(packed.float(), alone.float(), rtol=1e-2, atol=1e-2 * float(alone.float().std())):
        raise ConfigError(
            f"--packing: in this model ({model.config.model_type}) a conversation would see the one before it in its "
            "row; train without --packing"
        )


def score_examples(model: "PreTrainedModel", examples: Sequence[Example]) -> DocumentScores:
    """Loss sums of the assistant's tokens, one row for each example, in the order given."""
    loss_sum, tokens = np.zeros(len(examples)), np.zeros(len(examples), np.int64)
    for batch in _scoring_batches(examples):
        found = score_heldout(model, batch, batch_windows=len(batch.inputs))
        loss_sum, tokens = loss_sum + found.loss_sum, tokens + found.tokens
    return DocumentScores.numbered(tokens=tokens, loss_sum=loss_sum)


def _scoring_batches(examples: Sequence[Example]) -> Iterator[HeldoutSet]:
    """Examples of like length together, longest first, so that memory fails early."""
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].ids))
    while order:
        width = len(examples[order[0]].ids) - 1
        some, order = order[: max(1, SCORED_POSITIONS // width)], order[max(1, SCORED_POSITIONS // width) :]
        yield HeldoutSet(
            inputs=_padded([examples[i].ids[:-1] for i in some], width, 0),
            labels=_padded([_labels(examples[i])[1:] for i in some], width, IGNORE),
            document=np.array(some),
            num_documents=len(examples),
        )


def _labels(example: Example) -> list[int]:
    return [i if m else IGNORE for i, m in zip(example.ids, example.mask, strict=True)]


def _padded(rows: Sequence[Sequence[int]], width: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


LEVEL = 0.9
"""Of intervals, as everywhere in reports of runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedMean:
    """A mean over pairs."""

    mean: float
    se: float
    interval: tuple[float, float]
    """Two-sided, at `LEVEL`: Student's t for means, Wilson's for shares."""

    def as_record(self) -> dict[str, object]:
        """For result.json."""
        return {"mean": self.mean, "se": self.se, "interval": list(self.interval), "level": LEVEL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Held-out figures of a policy against its reference."""

    loss: PairedMean
    """-log sigmoid(margin), nats per pair; ln 2 where nothing changed."""
    margin: PairedMean
    accuracy: PairedMean
    """Share of pairs with a positive margin; a margin of 0 counts half."""
    likelier: PairedMean
    """Share of pairs whose chosen answer the policy itself finds likelier, tokens summed."""
    pairs: int

    def as_record(self) -> dict[str, object]:
        """For result.json."""
        names = ("loss", "margin", "accuracy", "likelier")
        return {name: getattr(self, name).as_record() for name in names} | {"pairs": self.pairs}


def preference_figures(
    policy: NDArray[np.float64], reference: NDArray[np.float64], *, beta: float
) -> Preference:
    """Margins, accuracy and loss of DPO (arXiv 2305.18290, equation 7).

    Args:
        policy: -ln p of answers, nats: chosen ones, then rejected ones, shape (2 pairs,).
        reference: of the same answers under the reference.
        beta: b of the margin.
    """
    log_ratio = reference - policy
    pairs = len(log_ratio) // 2
    margins = beta * (log_ratio[:pairs] - log_ratio[pairs:])
    likelier = policy[pairs:] - policy[:pairs]
    return Preference(
        loss=_mean(np.logaddexp(0.0, -margins)),
        margin=_mean(margins),
        accuracy=_share((np.sign(margins) + 1) / 2),
        likelier=_share((np.sign(likelier) + 1) / 2),
        pairs=pairs,
    )


def _mean(values: NDArray[np.float64]) -> PairedMean:
    count, mean = len(values), float(values.mean())
    se = float(values.std(ddof=1) / np.sqrt(count))
    half = t_quantile(0.5 + LEVEL / 2, count - 1) * se
    return PairedMean(mean=mean, se=se, interval=(mean - half, mean + half))


def _share(values: NDArray[np.float64]) -> PairedMean:
    """A share with Wilson's score interval (1927), which stays within 0 and 1 for few pairs."""
    from scipy.special import ndtri

    count, share = len(values), float(values.mean())
    interval = wilson_interval(share, count, z=float(ndtri(0.5 + LEVEL / 2)))
    return PairedMean(mean=share, se=float(np.sqrt(share * (1 - share) / count)), interval=interval)
