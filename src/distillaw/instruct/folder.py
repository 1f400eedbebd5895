"""The folder of a fine-tuning run, and how it survives a kill.

    spec.json status.json metrics.jsonl result.json heldout.parquet
    model/                     the tuned model, Hugging Face format, with its chat template
    checkpoints/checkpoint-N/  of the Trainer; `complete.json` in it is written last and lists its files
    best/epoch-N.safetensors   trained weights after the best epoch so far

A checkpoint counts if every listed file has its size: one that a kill cut short is removed. What was logged after the
checkpoint that is resumed is dropped, so that a resumed run logs what an uninterrupted one does; a torn last line is
cut off before the next is written.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from distillaw.errors import CacheError, ConfigError
from distillaw.runs.files import disk_error, read_json, read_json_lines, write_json, write_text
from distillaw.runs.places import MARK, appending, claim_folder, remove_file, remove_folder
from distillaw.runs.store import RESULT_KEYS, RunFolder

_BREAKS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
"""Line breaks of Unicode that JSON leaves as they are; a row is one line by every count."""


@dataclass(frozen=True, slots=True)
class RowLog:
    """Rows on disk, in the order they were written."""

    path: Path

    def rows(self) -> list[dict[str, object]]:
        """What is there, without a torn last line."""
        return read_json_lines(self.path)

    def keep(
        self, wanted: Callable[[Mapping[str, object]], bool] = lambda row: True
    ) -> list[dict[str, object]]:
        """Drop a torn last line and the rows that are not wanted; returns those that stay.

        Raises:
            RunError: the disk is full.
        """
        rows = [row for row in self.rows() if wanted(row)]
        text = "".join(_line(row) for row in rows)
        if self.path.exists() and self.path.read_text(encoding="utf-8", errors="replace") != text:
            write_text(self.path, text, known=True)
        return rows

    def append(self, *rows: Mapping[str, object]) -> None:
        """Add rows and flush them to the disk.

        Raises:
            RunError: the disk is full; earlier rows are intact.
        """
        try:
            with appending(self.path) as stream:
                stream.writelines(_line(row) for row in rows)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from error


def _line(row: Mapping[str, object]) -> str:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return text.translate(_BREAKS) + "\n"


_COMPLETE = "complete.json"
_OURS = {MARK, ".lock", ".lock.json", "spec.json", "status.json"}


@dataclass(frozen=True, slots=True)
class TuneFolder:
    """A run on disk."""

    path: Path

    @property
    def run(self) -> RunFolder:
        """Its standard files."""
        return RunFolder(self.path)

    @property
    def metrics(self) -> RowLog:
        """metrics.jsonl."""
        return RowLog(self.path / "metrics.jsonl")

    @property
    def model(self) -> Path:
        """Where the tuned model goes."""
        return self.path / "model"

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
            raise ConfigError(
                f"{self.path} holds another run{_difference(there, spec)}; choose another --out"
            )
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

        def step(folder: Path) -> int:
            text = folder.name.removeprefix("checkpoint-")
            return int(text) if text.isdigit() else -1

        for folder in sorted(self.checkpoints.glob("checkpoint-*"), key=step):
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
        for row in self.metrics.rows():
            if isinstance(figures := row.get("heldout"), dict) and (epoch := int(str(row["epoch"]))):
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


def _seconds_if_complete(folder: Path) -> float | None:
    try:
        record = read_json(folder / _COMPLETE)
    except CacheError:
        return None
    files = record.get("files")
    whole = isinstance(files, dict) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items()
    )
    return float(str(record["seconds"])) if whole else None


def _difference(there: Mapping[str, object], ours: Mapping[str, object]) -> str:
    """The settings that differ, in words."""
    skipped = ("identity", "run_id", "command", "model", "data", "template", "checkpoint_seconds")
    keys = [key for key in ours if key not in skipped and there.get(key) != ours[key]]
    if not keys:
        return " (of other weights, data or template)"
    return f" ({', '.join(f'{key} {there.get(key)}, now {ours[key]}' for key in keys[:3])})"
