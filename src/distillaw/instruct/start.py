"""What every stage begins with: the packages there, the model found, its template chosen, the run's record written."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distillaw.errors import ConfigError, DistillawError, RunError
from distillaw.instruct.conversations import data_file
from distillaw.instruct.folder import TuneFolder
from distillaw.instruct.masks import Masker, choose_template
from distillaw.instruct.spec import TuneSpec
from distillaw.models.source import ModelSource, context_of, fingerprint, locate
from distillaw.models.teacher import load_weights
from distillaw.runs.files import file_sha256, saving
from distillaw.runs.lock import held

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    return TuneStart(
        source=source,
        tokenizer=tokenizer,
        template=template,
        masker=masker,
        end_token=masker.end_token(),
        max_tokens=_length(spec.max_tokens, context_of(config), source.name),
    )


def _length(wanted: int | None, context: int | None, name: str) -> int:
    longest = context or wanted or MAX_TOKENS
    if wanted is not None and wanted > longest:
        raise ConfigError(f"max_tokens = {wanted}: {name} sees {longest} tokens")
    return wanted or min(MAX_TOKENS, longest)


def run_record(spec: TuneSpec, start: TuneStart, stage: str, out: Path, command: str) -> dict[str, object]:
    """What spec.json holds: the settings, and the identity of everything that decides the outcome."""
    template = hashlib.sha256(str(start.tokenizer.chat_template).encode()).hexdigest()
    identity = spec.identity(
        weights=fingerprint(start.source),
        text=file_sha256(data_file(spec.data)),
        chat_template=template,
    )
    return {
        "run_id": out.resolve().name,
        "stage": stage,
        "identity": identity,
        "command": command,
        **asdict(spec),
        "template": start.template,
        "max_tokens": start.max_tokens,
    }


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

    Args:
        spec: the settings.
        stage: sft or dpo.
        out: the run's folder.
        read: makes of a start the examples of both sides, with their `account`.
        tune: returns what result.json holds.
        device: cpu or cuda.
        say: takes a line of progress now and then.
        command: for the record.

    Raises:
        DistillawError: as `run_sft`.
    """
    start, folder = open_model(spec), TuneFolder(out)
    record = run_record(spec, start, stage, out, command)
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
        folder.run.set_status(
            "planned", error="interrupted; the same command goes on from the last checkpoint"
        )
        raise
    except Exception as error:
        folder.run.set_status("failed", error=f"{type(error).__name__}: {error}")
        raise
