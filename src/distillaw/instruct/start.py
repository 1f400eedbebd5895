"""What every stage begins and ends with: model, template and record of the run; scores, tuned model and card."""

import contextlib
import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distillaw.accounting.flops import TRAINING_FACTOR, forward_flops
from distillaw.errors import ConfigError, DistillawError, RunError
from distillaw.instruct.conversations import data_file
from distillaw.instruct.folder import TuneFolder
from distillaw.instruct.masks import Masker, choose_template
from distillaw.instruct.spec import TuneSpec
from distillaw.models.export import generation_config, staged
from distillaw.models.fresh import weight_flops
from distillaw.models.source import ModelSource, context_of, fingerprint, locate
from distillaw.models.teacher import architecture_of, load_weights
from distillaw.runs.files import file_sha256, read_json, saving, write_json
from distillaw.runs.lock import held
from distillaw.runs.paired import DocumentScores, paired_difference
from distillaw.table import Table, text
from distillaw.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def require_instruct() -> None:
    """Check that everything is there, without importing it.

    Raises:
        ConfigError: naming what is missing and how to get it.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(f'chat models need {", ".join(missing)}: pip install "distillaw[train,instruct]"')


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Transformers and datasets say nothing but errors."""
    import datasets
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    data_bars = datasets.are_progress_bars_disabled()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # PEFT 0.21 asks transformers 5.23 for a property under its old name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if not data_bars:
            datasets.enable_progress_bars()


MAX_TOKENS = 1024
"""Longest example unless said otherwise: a choice for memory, which grows with it."""
Say = Callable[[str], None]
"""Takes a line of progress."""


def silent(line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneStart:
    """A model that can be tuned, not loaded yet."""

    source: ModelSource
    tokenizer: "PreTrainedTokenizerBase"
    template: str
    """Its name; `own` for the tokenizer's."""
    masker: Masker
    end_token: int
    """What ends an answer."""
    max_tokens: int

    def load(self, device: str) -> "PreTrainedModel":
        """The model with float32 weights, ready to train."""
        return load_weights(self.source, torch.device(device), torch.float32).requires_grad_(True).train()


def open_model(spec: TuneSpec) -> TuneStart:
    """Find a model and everything about its chats, without reading a weight.

    Raises:
        CacheError: no model or tokenizer there.
        ConfigError: settings that cannot be, packages missing, no chat template, or a length beyond the model's.
        DataError: the template writes no end token.
    """
    require_instruct()
    spec.check()
    source = locate(spec.model)
    config, tokenizer = source.config(), source.tokenizer()
    template = choose_template(tokenizer, spec.template, model=source.name)
    masker = Masker(tokenizer)
    wanted = spec.max_tokens
    longest = context_of(config) or wanted or MAX_TOKENS
    if wanted is not None and wanted > longest:
        raise ConfigError(f"max_tokens = {wanted}: {source.name} sees {longest} tokens")
    return TuneStart(
        source=source,
        tokenizer=tokenizer,
        template=template,
        masker=masker,
        end_token=masker.end_token(),
        max_tokens=wanted or min(MAX_TOKENS, longest),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """A stage at work: what it begins with, its data, its folder."""

    start: TuneStart
    sides: Any
    """Examples to train on and to score, with their `account`."""
    folder: TuneFolder
    record: dict[str, object]
    """What spec.json holds."""
    device: str
    say: Say


def run_stage(
    spec: TuneSpec,
    stage: str,
    out: Path,
    read: Callable[[TuneStart], Any],
    tune: Callable[[Tuning], dict[str, object]],
    *,
    device: str,
    say: Say,
    command: str,
) -> dict[str, object]:
    """A stage in its folder, held by its lock: found finished, or its data read and the model tuned.

    `read` makes of a start the examples of both sides, with their `account`; `tune` returns what result.json holds.

    Raises:
        DistillawError: as `run_sft`.
    """
    start, folder = open_model(spec), TuneFolder(out)
    template = hashlib.sha256(str(start.tokenizer.chat_template).encode()).hexdigest()
    weights, text = fingerprint(start.source), file_sha256(data_file(spec.data))
    record: dict[str, object] = {
        "run_id": out.resolve().name,
        "stage": stage,
        "identity": spec.identity(weights=weights, text=text, chat_template=template),
        "command": command,
        **asdict(spec),
        "template": start.template,
        "max_tokens": start.max_tokens,
    }
    with held(out, str(out), say):
        if (done := folder.finished(record)) is not None:
            say(f"{out}: tuned before, nothing to do")
            return done
        sides = read(start)
        say(str(sides.account))
        folder.begin(record)
        with running(folder):
            at = Tuning(start=start, sides=sides, folder=folder, record=record, device=device, say=say)
            return tune(at)


def base_model(trained: Any, spec: TuneSpec) -> "PreTrainedModel":
    """The model in which adapters sit, or the model itself; `trained` is what a trainer holds."""
    return trained.get_base_model() if spec.lora else trained


def merged_model(trained: Any, spec: TuneSpec) -> "PreTrainedModel":
    """The model with its adapters added to its weights."""
    return trained.merge_and_unload() if spec.lora else trained


@contextlib.contextmanager
def running(folder: TuneFolder) -> Iterator[None]:
    """Keep status.json true: running, failed with its error, or planned again after an interrupt.

    Raises:
        RunError: out of memory.
    """
    folder.run.set_status("running")
    try:
        with saving(folder.path), hushed():
            yield
    except torch.OutOfMemoryError as error:
        told = RunError(f"out of memory ({str(error).splitlines()[0]}); lower --micro-batch or --max-tokens")
        folder.run.set_status("failed", error=str(told))
        raise told from error
    except DistillawError as error:
        folder.run.set_status("failed", error=str(error))
        raise
    except KeyboardInterrupt:
        told = "interrupted; the same command goes on from the last checkpoint"
        folder.run.set_status("planned", error=told)
        raise
    except Exception as error:
        folder.run.set_status("failed", error=f"{type(error).__name__}: {error}")
        raise


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
        config = read_json(stage / "config.json") | {"use_cache": True}
        write_json(stage / "config.json", config, is_ours=False)
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
    tokens, loss_sum = np.array(record["tokens"], np.int64), np.array(record["loss_sum"], float)
    return DocumentScores.numbered(tokens=tokens, loss_sum=loss_sum)


def readme(result: Mapping[str, object], spec: Mapping[str, object], rows: Mapping[str, str]) -> str:
    """The model card: what it is, what it learnt from, what it scores, where it ends."""
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
