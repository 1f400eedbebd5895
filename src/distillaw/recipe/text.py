"""The recipe's text, divided once for all stages: what students read, what says which units matter, what is scored."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.data.shards import TokenStore
from distillaw.data.tokenizer import load_tokenizer
from distillaw.runs.files import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CALIBRATION_DOCUMENTS = 100
"""At most; of each the beginning, as much of all."""
SPARE = 3
"""So many times the tokens asked for: some are scored, and windows do not cross documents."""
CALIBRATION, HELDOUT = "calibration.jsonl", "heldout.jsonl"


def divide_text(spec: DataSpec, data: Path, folder: Path, *, calibration_tokens: int, say) -> TokenStore:
    """Tokenise the corpus and write its calibration and held-out documents as text.

    Calibration documents are those of the teachers' split, which students do not read; held-out ones nobody reads.

    Args:
        spec: the corpus and how it is split.
        data: folder of the tokens.
        folder: where the two files go.
        calibration_tokens: tokens of calibration text.
        say: told now and then how far it is.
    """
    store = prepare_data(spec, data, say=say)
    tokenizer = load_tokenizer(str(store.tokenizer_folder))
    if not (folder / HELDOUT).exists():
        read = np.concatenate(store.split("teacher", context=1).shards)
        documents = np.split(read, np.flatnonzero(read == tokenizer.eos_token_id) + 1)[:CALIBRATION_DOCUMENTS]
        each = math.ceil(SPARE * calibration_tokens / len(documents))
        _write(folder / CALIBRATION, [document[:each] for document in documents], tokenizer)
        _write(folder / HELDOUT, store.heldout_documents(), tokenizer)
    return store


def _write(path: Path, documents: Iterable[np.ndarray], tokenizer: "PreTrainedTokenizerBase") -> None:
    end = tokenizer.eos_token_id
    texts = (tokenizer.decode([int(i) for i in ids if i != end]) for ids in documents)
    write_text(
        path, "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts if text.strip())
    )
