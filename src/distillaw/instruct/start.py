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
from distillaw.errors import CacheError, ConfigError, DistillawError, RunError
from distillaw.instruct.conversations import data_file
from distillaw.instruct.masks import Masker, choose_template
from distillaw.instruct.spec import OnPolicySpec, TuneSpec
from distillaw.models.fresh import weight_flops
from distillaw.models.parallel import ALONE, Ranks
from distillaw.models.source import ModelSource, context_of, fingerprint, locate
from distillaw.models.teacher import architecture_of, load_weights
from distillaw.runs.files import file_sha256, json_line, read_json, read_json_lines, saving, write_json, write_text
from distillaw.runs.paired import DocumentScores, ratio_difference
from distillaw.runs.places import MARK, claim_folder, remove_file, remove_folder
from distillaw.runs.store import RESULT_KEYS, RunFolder
from distillaw.table import Table, text
from distillaw.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool] = lambda row: True) -> list[dict[str, Any]]:
    """Drop from a .jsonl file a torn last line and the rows that are not wanted; returns those that stay.

    Raises:
        RunError: the disk is full.
    """
    rows = [row for row in read_json_lines(path) if wanted(row)]
    text = "".join(map(json_line, rows))
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text, known=True)
    return rows


LEVEL = 0.9
"""Of intervals, as everywhere in reports of runs."""
_COMPLETE = "complete.json"
_OURS = {MARK, ".lock", ".lock.json", "spec.json", "status.json"}


@dataclass(frozen=True, slots=True)
class TuneFolder:
    """A run on disk, and how it survives a kill.

        spec.json status.json metrics.jsonl result.json heldout.parquet
        model/                     the tuned model, Hugging Face format, with its chat template
        checkpoints/checkpoint-N/  of the Trainer; `complete.json` in it is written last and lists its files
        best/epoch-N.safetensors   trained weights after the best epoch so far

    A checkpoint counts if every listed file has its size. What was logged after the checkpoint that is resumed is
    dropped, so that a resumed run logs what an uninterrupted one does.
    """

    path: Path

    @property
    def run(self) -> RunFolder:
        """Its standard files."""
        return RunFolder(self.path)

    @property
    def metrics(self) -> Path:
        """What was logged."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    def best(self, epoch: int) -> Path:
        """Trained weights after an epoch."""
        return self.path / "best" / f"epoch-{epoch}.safetensors"

    def finished(self, spec: Mapping[str, object]) -> dict[str, object] | None:
        """The result of this run; None if it is not finished or not begun.

        Raises:
            ConfigError: the folder holds another run, or something else.
        """
        file = self.path / "spec.json"
        if not file.exists():
            if strange := sorted(each.name for each in self.path.glob("*") if each.name not in _OURS):
                raise ConfigError(f"{self.path} holds something else ({strange[0]}); choose another --out")
            return None
        if (there := read_json(file)).get("identity") != spec["identity"]:
            raise ConfigError(f"{self.path} holds another run{_difference(there, spec)}; choose another --out")
        done = self.path / "result.json"
        return read_json(done) if done.exists() else None

    def begin(self, spec: Mapping[str, object]) -> None:
        """Write the record of a run that begins; one that goes on keeps its own."""
        if not (self.path / "spec.json").exists():
            self.run.write_spec(spec)
        claim_folder(self.checkpoints)
        claim_folder(self.path / "best")

    def last_checkpoint(self) -> tuple[Path, float] | None:
        """The latest complete checkpoint and the seconds trained until it; incomplete ones are removed."""
        found = None
        for folder in sorted(self.checkpoints.glob("checkpoint-*"), key=step_of):
            if (seconds := _seconds_if_complete(folder)) is None:
                remove_folder(folder, inside=self.checkpoints)
            else:
                found = folder, seconds
        return found

    def checkpointed(self, step: int, seconds: float, *, best_epoch: int | None) -> None:
        """Declare a checkpoint complete, then remove what it makes superfluous."""
        folder = self.checkpoints / f"checkpoint-{step}"
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        sizes = {str(file.relative_to(folder)): file.stat().st_size for file in files}
        write_json(folder / _COMPLETE, {"seconds": seconds, "files": sizes})
        for other in self.checkpoints.glob("checkpoint-*"):
            if other != folder:
                remove_folder(other, inside=self.checkpoints)
        for weights in (self.path / "best").glob("epoch-*.safetensors"):
            if best_epoch is None or weights != self.best(best_epoch):
                remove_file(weights)

    def epochs(self) -> list[dict[str, float]]:
        """Held-out figures after each epoch, with `epoch`; the start (epoch 0) left out."""
        rows = []
        for row in read_json_lines(self.metrics):
            if isinstance(figures := row.get("heldout"), dict) and (epoch := int(row["epoch"])):
                rows.append({"epoch": epoch, **figures})
        return rows

    def best_epoch(self) -> int | None:
        """The epoch of the lowest held-out loss; None before the first has ended."""
        scored = self.epochs()
        return int(min(scored, key=lambda row: row["loss"])["epoch"]) if scored else None

    def is_over(self, patience: int) -> bool:
        """Whether the last `patience` epochs brought nothing."""
        scored, best = self.epochs(), self.best_epoch()
        return best is not None and scored[-1]["epoch"] - best >= patience

    def finish(self, result: Mapping[str, object]) -> dict[str, object]:
        """Write result.json, the mark of a finished run, and drop what was for going on.

        Keys that other runs have and this one does not are null, so that tables of runs can hold it.
        """
        whole = {key: result.get(key) for key in RESULT_KEYS} | dict(result) | self.run.seal()
        write_json(self.path / "result.json", whole)
        self.run.set_status("done")
        for folder in (self.checkpoints, self.path / "best"):
            remove_folder(folder)
        return whole


def step_of(checkpoint: Path) -> int:
    """Of a checkpoint's folder; -1 of another one."""
    text = checkpoint.name.removeprefix("checkpoint-")
    return int(text) if text.isdigit() else -1


def _seconds_if_complete(folder: Path) -> float | None:
    try:
        record = read_json(folder / _COMPLETE)
    except CacheError:
        return None
    files = record.get("files")
    whole = isinstance(files, dict) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items()
    )
    return float(record["seconds"]) if whole else None


def _difference(there: Mapping[str, object], ours: Mapping[str, object]) -> str:
    """The settings that differ, in words."""
    skipped = ("identity", "run_id", "command", "model", "data", "template", "teacher", "checkpoint_seconds")
    keys = [key for key in ours if key not in skipped and there.get(key) != ours[key]]
    if not keys:
        return " (of other weights, data or template)"
    return f" ({', '.join(f'{key} {there.get(key)}, now {ours[key]}' for key in keys[:3])})"


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
    ranks: Ranks
    say: Say

    @property
    def device(self) -> str:
        """Where this process computes."""
        return str(self.ranks.device)

    def kept(self, name: str, measure: Callable[[], DocumentScores]) -> DocumentScores:
        """Scores that an earlier start wrote to a file, or such as all ranks measure and the first one writes."""
        file = self.folder.path / name
        record = self.ranks.told(lambda: read_json(file) if file.exists() else None)
        if record is not None:
            tokens, loss_sum = np.array(record["tokens"], np.int64), np.array(record["loss_sum"], float)
            return DocumentScores.numbered(tokens=tokens, loss_sum=loss_sum)
        found = measure()
        record = {"tokens": found.tokens.tolist(), "loss_sum": found.loss_sum.tolist()}
        self.ranks.first(lambda: write_json(file, record))
        return found


def run_stage(
    spec: TuneSpec,
    stage: str,
    out: Path,
    read: Callable[[TuneStart], Any],
    tune: Callable[[Tuning], dict[str, object]],
    *,
    ranks: Ranks,
    say: Say,
    command: str,
) -> dict[str, object]:
    """A stage in its folder, held by its lock: found finished, or its data read and the model tuned.

    `read` makes of a start the examples of both sides, with their `account`; `tune` returns what result.json holds.
    """
    if ranks.shards:
        raise ConfigError("--sharding fsdp: chat models are tuned whole on every process; leave it out")
    start, folder = open_model(spec), TuneFolder(out)
    template = hashlib.sha256(str(start.tokenizer.chat_template).encode()).hexdigest()
    inputs = {
        "weights": ranks.told(lambda: fingerprint(start.source)),
        "text": ranks.told(lambda: file_sha256(data_file(spec.data))),
    }
    if isinstance(spec, OnPolicySpec):
        inputs["teacher_weights"] = ranks.told(lambda: fingerprint(locate(spec.teacher)))
    record: dict[str, object] = {
        "run_id": out.resolve().name,
        "stage": stage,
        "identity": spec.identity(**inputs, chat_template=template),
        "command": command,
        **asdict(spec),
        "template": start.template,
        "max_tokens": start.max_tokens,
    }
    with ranks.held(out, str(out), say):
        if (done := ranks.told(lambda: folder.finished(record))) is not None:
            say(f"{out}: tuned before, nothing to do")
            return done
        sides = ranks.told(lambda: read(start))
        say(str(sides.account))
        ranks.first(lambda: folder.begin(record))
        with running(folder, ranks):
            at = Tuning(start=start, sides=sides, folder=folder, record=record, ranks=ranks, say=say)
            return tune(at)


def base_model(trained: Any, spec: TuneSpec) -> "PreTrainedModel":
    """The model in which adapters sit, or the model itself; `trained` is what a trainer holds."""
    return trained.get_base_model() if spec.lora else trained


@contextlib.contextmanager
def running(folder: TuneFolder, ranks: Ranks = ALONE) -> Iterator[None]:
    """Keep status.json true: running, failed with its error, or planned again after an interrupt.

    Raises:
        RunError: out of memory.
    """

    def state(name: str, **why: str) -> None:
        if ranks.is_first:
            folder.run.set_status(name, **why)

    state("running")
    try:
        with saving(folder.path), hushed():
            yield
    except torch.OutOfMemoryError as error:
        told = RunError(f"out of memory ({str(error).splitlines()[0]}); lower --micro-batch or --max-tokens")
        state("failed", error=str(told))
        raise told from error
    except KeyboardInterrupt:
        state("planned", error="interrupted; the same command goes on from the last checkpoint")
        raise
    except Exception as error:
        state("failed", error=str(error) if isinstance(error, DistillawError) else f"{type(error).__name__}: {error}")
        raise


LORA_FACTOR = 2
"""FLOP of a step over a forward pass where base weights are frozen: forward and gradients of activations."""


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


def change(after: DocumentScores, before: DocumentScores) -> dict[str, object]:
    """Difference of two scores of the same conversations, paired; of answers of their own too."""
    found, level = ratio_difference(after, before), LEVEL
    told: dict[str, object] = {"mean": found.mean, "se": found.se, "interval": list(found.interval(level))}
    return told | {"level": level, "documents": found.documents}


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
