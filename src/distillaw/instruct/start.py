"""What every stage begins with: the model found, its template chosen, its lengths known, the run's record written."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distillaw.errors import ConfigError, DistillawError, RunError
from distillaw.instruct.conversations import data_file
from distillaw.instruct.folder import TuneFolder
from distillaw.instruct.hush import hushed
from distillaw.instruct.masks import Masker
from distillaw.instruct.packages import require_instruct
from distillaw.instruct.spec import TuneSpec
from distillaw.instruct.templates import choose_template
from distillaw.models.source import ModelSource, context_of, fingerprint, locate
from distillaw.models.teacher import load_weights
from distillaw.runs.files import file_sha256, saving
from distillaw.runs.lock import held

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_TOKENS = 1024
Say = Callable[[str], None]
"""Takes a line of progress."""


def silent(line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
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


def open_model(spec: TuneSpec) -> Start:
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
    return Start(source=source, tokenizer=tokenizer, template=template, masker=masker, end_token=masker.end_token(),
                 max_tokens=_length(spec.max_tokens, context_of(config), source.name))  # fmt: skip


def _length(wanted: int | None, context: int | None, name: str) -> int:
    longest = context or wanted or MAX_TOKENS
    if wanted is not None and wanted > longest:
        raise ConfigError(f"max_tokens = {wanted}: {name} sees {longest} tokens")
    return wanted or min(MAX_TOKENS, longest)


def run_record(spec: TuneSpec, start: Start, stage: str, out: Path, command: str) -> dict[str, object]:
    """What spec.json holds: the settings, and the identity of everything that decides the outcome."""
    template = hashlib.sha256(str(start.tokenizer.chat_template).encode()).hexdigest()
    identity = spec.identity(
        weights=fingerprint(start.source),
        text=file_sha256(data_file(spec.data)),
        chat_template=template,
    )
    return {"run_id": out.resolve().name, "stage": stage, "identity": identity, "command": command,
            **asdict(spec), "template": start.template, "max_tokens": start.max_tokens}  # fmt: skip


def run_stage(
    spec: TuneSpec, stage: str, out: Path, read: Callable[[Start], Any], tune: Callable[..., dict[str, object]], *,
    say: Say, command: str,
) -> dict[str, object]:  # fmt: skip
    """A stage in its folder, held by its lock: found finished, or its data read and the model tuned.

    Args:
        spec: the settings.
        stage: sft or dpo.
        out: the run's folder.
        read: makes of a start the examples of both sides, with their `account`.
        tune: takes start, sides, folder and record; returns what result.json holds.
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
            return tune(start, sides, folder, record)


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
