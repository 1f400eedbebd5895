"""The end of a fine-tuning run: scores before and after, the model with its template, result.json last."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillaw.accounting.flops import TRAINING_FACTOR, forward_flops
from distillaw.instruct.folder import TuneFolder
from distillaw.instruct.start import TuneStart
from distillaw.models.export import generation_config, staged
from distillaw.models.fresh import weight_flops
from distillaw.models.teacher import architecture_of
from distillaw.runs.files import read_json, write_json
from distillaw.runs.paired import DocumentScores, paired_difference
from distillaw.table import Table, text
from distillaw.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LORA_FACTOR = 2
"""FLOP of a step over a forward pass where base weights are frozen: forward and gradients of activations."""


def export_chat_model(model: "PreTrainedModel", start: TuneStart, folder: Path, readme: str) -> None:
    """Write a tuned model that stops where its template says.

    Raises:
        RunError: the disk is full or not writable.
    """
    with staged(folder) as stage:
        model.cpu().eval().save_pretrained(stage)
        start.tokenizer.save_pretrained(str(stage))
        generation = generation_config(start.tokenizer)
        ends = [start.end_token, generation.eos_token_id]
        generation.eos_token_id = list(dict.fromkeys(each for each in ends if each is not None))
        generation.save_pretrained(stage)
        write_json(
            stage / "config.json", read_json(stage / "config.json") | {"use_cache": True}, is_ours=False
        )
        (stage / "README.md").write_text(readme, encoding="utf-8")


def step_flops(config: "PreTrainedConfig", *, tokens: float, mean_length: float, forwards: float) -> float:
    """FLOP of so many tokens at `forwards` forward passes each.

    Counted as everywhere (docs/accounting.md); two per weight where accounting does not know the architecture.
    """
    architecture = architecture_of(config)
    if architecture is None:
        return forwards * weight_flops(config) * tokens
    return forwards * forward_flops(architecture, context=max(1, round(mean_length))).total * tokens


def training_forwards(lora: int) -> int:
    """Forward passes' worth of a training step."""
    return LORA_FACTOR if lora else TRAINING_FACTOR


def figures(found: DocumentScores) -> dict[str, float]:
    """Loss in nats/token, its standard error clustered by conversation, and e^loss."""
    return {"loss": found.loss, "loss_se": found.loss_se, "perplexity": math.exp(min(found.loss, 700.0))}


def change(after: DocumentScores, before: DocumentScores, *, level: float = 0.9) -> dict[str, object]:
    """Paired difference of two scores of the same conversations."""
    found = paired_difference(after, before)
    told: dict[str, object] = {"mean": found.mean, "se": found.se, "interval": list(found.interval(level))}
    return told | {"level": level, "documents": found.documents}


def kept_scores(file: Path, found: DocumentScores | None = None) -> DocumentScores | None:
    """Write scores, or read those that an earlier start wrote; None where there are none."""
    if found is not None:
        write_json(file, {"tokens": found.tokens.tolist(), "loss_sum": found.loss_sum.tolist()})
        return found
    if not file.exists():
        return None
    record = read_json(file)
    return DocumentScores.numbered(
        tokens=np.array(record["tokens"], np.int64), loss_sum=np.array(record["loss_sum"], float)
    )


def write_scores(folder: TuneFolder, found: DocumentScores) -> None:
    """heldout.parquet: one row for each held-out conversation or pair."""
    folder.run.write_heldout(list(range(len(found.tokens))), found.tokens.tolist(), found.loss_sum.tolist())


def readme(result: Mapping[str, object], spec: Mapping[str, object], rows: Mapping[str, str]) -> str:
    """The model card: what it is, what it learnt from, what it scores, where it ends."""
    from pathlib import PurePath

    table = Table([text(""), text("")], list(rows.items())).markdown()
    base, data = PurePath(str(spec["model"])).name, PurePath(str(spec["data"])).name
    tags = f"tags:\n- distillaw\n- {result['stage']}"
    head = f"---\nlibrary_name: transformers\npipeline_tag: text-generation\n{tags}\n---\n\n"
    what = (
        f"# {result['run_id']}\n\nA chat model: `{base}` tuned ({result['stage']}) on `{data}` by distillaw "
        f"{__version__}, chat template `{spec['template']}` (saved with the tokenizer).\n\n"
    )
    return (
        f"{head}{what}{table}\n\nErrors are one standard error, clustered by conversation. What "
        "the base model and the data say may come out of this one; nothing was done about bias or truth. No licence is "
        "stated: it depends on both.\n"
    )
