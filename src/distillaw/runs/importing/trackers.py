"""Runs from the logs of trackers: W&B's offline folders, trackio's databases, TensorBoard's event files.

W&B: `wandb/offline-run-*/run-ID.wandb` is a LevelDB log (blocks of 32 KiB; a record is crc32, length, type, bytes) of
protobuf records. The `wandb` package had a reader in Python (0.19 has it) and has none today (0.31), so the frame is
read here and the records are decoded by `protobuf` with the few fields that matter; logs of both versions were read so.
A file cut off by a kill ends at its last whole record and counts as a run without an end.

trackio: a SQLite file per project (`~/.cache/huggingface/trackio/PROJECT.db`) or its Parquet export, with a documented
schema (huggingface.co/docs/trackio/storage_schema). It does not record whether a run ended or crashed.

TensorBoard: read by its own accumulator: scalars, JSON texts and hyperparameters. A folder with event files is one run,
as in TensorBoard; `SummaryWriter.add_hparams` writes its own subfolder, whose values are settings of the run above.
Scalars are float32 (a loss keeps seven digits, a token count too). It does not record whether a run ended or crashed.
"""

import logging
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from distillaw.errors import DataError
from distillaw.runs.files import file_sha256, parse_json, read_bytes, require_file
from distillaw.runs.importing.log import Log, flatten, gather, number, series_of, sha256_of_parts
from distillaw.runs.table import read_columns

_MAGIC = b":W&B\xe1\xbe\x00"
_BLOCK = 32768
_HEAD = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_ITEM = {"key": (1, "string", False), "nested_key": (2, "string", True), "value_json": (16, "string", False)}
_FRAME_BYTES = ("_step", "_timestamp", "_wandb")
"""What the tracker writes for itself; `_step` counts calls of log(), which need not be steps."""
_MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Item": _ITEM,
    "Step": {"num": (1, "int64", False)},
    "History": {"item": (1, "Item", True), "step": (2, "Step", False)},
    "Update": {"update": (1, "Item", True)},
    "Run": {
        "run_id": (1, "string", False),
        "entity": (2, "string", False),
        "project": (3, "string", False),
        "config": (4, "Update", False),
        "display_name": (8, "string", False),
    },
    "Exit": {"exit_code": (1, "int32", False)},
    "Record": {
        "history": (2, "History", False),
        "summary": (3, "Update", False),
        "config": (5, "Update", False),
        "run": (17, "Run", False),
        "exit": (18, "Exit", False),
    },
}
"""Message -> field -> (number, type, repeated): what is read of wandb_internal.proto."""


def read_wandb(files: Iterable[Path]) -> list[Log]:
    """One log per run; files of one run id (a resumed run) are joined in the order of their folders' dates.

    A file that cannot be read is a run in trouble: one broken log must not keep the others out.
    """
    logs: dict[tuple[str, ...], Log] = {}
    for file in sorted({file.resolve() for file in files}, key=lambda file: (file.parent.name, file)):
        log = _read_or_say_why(file)
        logs[log.identity] = logs[log.identity].followed_by(log) if log.identity in logs else log
    return list(logs.values())


def _read_or_say_why(file: Path) -> Log:
    record = _record_class()
    try:
        return _read_file(file, record)
    except DataError as error:
        known = {"name": file.parent.name, "identity": ("wandb", str(file)), "sha256": file_sha256(file)}
        return Log(kind="wandb", source=file, history={}, trouble=str(error), **known)  # type: ignore[arg-type]


def _read_file(file: Path, record: Any) -> Log:
    rows: list[tuple[float, dict[str, object]]] = []
    config: dict[str, object] = {}
    summary: dict[str, object] = {}
    run, ended = None, None
    for data in _records(file):
        try:
            message = record.FromString(data)
        except Exception as error:  # protobuf's DecodeError, of a library that may be missing
            raise DataError(f"a record of its log cannot be decoded ({error})") from None
        if message.HasField("history"):
            row = _items(message.history.item)
            calls = row.pop("_step", len(rows))
            at = message.history.step.num if message.history.HasField("step") else number(calls)
            rows.append((float(len(rows) if at is None or at != at else at), row))
        elif message.HasField("run"):
            run = message.run
            config |= _items(run.config.update)
        elif message.HasField("config"):
            config |= _items(message.config.update)
        elif message.HasField("summary"):
            summary |= _items(message.summary.update)
        elif message.HasField("exit"):
            ended = int(message.exit.exit_code)
    if run is None:
        raise DataError("cut off before its run was named")
    trouble = "no end was logged: killed, or still running"
    if ended is not None:
        trouble = f"crashed: exit code {ended}" if ended else ""
    return Log(
        kind="wandb",
        source=file,
        name=run.display_name or run.run_id,
        identity=("wandb", run.entity, run.project, run.run_id),
        history=gather(rows),
        constants={k: v for k, v in {**summary, **config}.items() if k.split(".")[0] not in _FRAME_BYTES},
        trouble=trouble,
        sha256=file_sha256(file),
        aliases=(run.run_id,),
    )


def _items(items: Any) -> dict[str, object]:
    """{name: value} of logged items; nested ones as `eval.loss`."""
    found = {}
    for item in items:
        name = ".".join(item.nested_key) or item.key
        try:
            found[name] = parse_json(item.value_json)
        except ValueError:
            continue  # a value that is no JSON is no number either
    return flatten(found)


def _records(file: Path) -> Iterator[bytes]:
    """The records of a LevelDB log up to the first that is cut off."""
    data = read_bytes(file)
    if not data.startswith(_MAGIC[:4]):
        raise DataError(f"not a W&B log (it begins with {data[:7]!r})" if data else "an empty file")
    at, parts = len(_MAGIC), b""
    while at + _HEAD.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEAD.size:  # too short for a header: padding
            at += left
            continue
        crc, length, kind = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(body) < length or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            return
        if zlib.crc32(body, zlib.crc32(bytes([kind]))) != crc:
            raise DataError(f"damaged at byte {at} of its log (checksum differs); copy the file again")
        at += _HEAD.size + length
        parts = body if kind in (_FULL, _FIRST) else parts + body
        if kind in (_FULL, _LAST):
            yield parts


@cache
def _record_class() -> Any:
    """The message class for the fields above."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise DataError('reading W&B logs needs protobuf; pip install "distillaw[import]"') from None
    kinds = descriptor_pb2.FieldDescriptorProto
    scalar = {"string": kinds.TYPE_STRING, "int64": kinds.TYPE_INT64, "int32": kinds.TYPE_INT32}
    named = {"name": "distillaw_wandb.proto", "package": "distillaw", "syntax": "proto3"}
    file = descriptor_pb2.FileDescriptorProto(**named)
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (index, kind, repeated) in fields.items():
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            entry = described.field.add(name=name, number=index, label=label)
            if kind in scalar:
                entry.type = scalar[kind]
            else:
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".distillaw.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("distillaw.Record"))


_EXPORT = {"run_name", "step", "timestamp"}
_FRAME = ("id", "run_id", "run_name", "step", "timestamp", "log_id", "space_id")
Rows = list[dict[str, Any]]


def read_trackio(file: Path) -> list[Log]:
    """One log per run of a project."""
    metrics, configs, parts = _from_parquet(file) if file.suffix == ".parquet" else _from_database(file)
    if not metrics:
        raise DataError(f"{file}: a trackio project without logged metrics")
    runs: dict[str, Rows] = {}
    for row in metrics:
        runs.setdefault(_run_key(row), []).append(row)
    settings = {_run_key(row): row for row in configs}
    sha256 = sha256_of_parts([file_sha256(part) for part in parts])
    return [_log(file, key, rows, settings.get(key, {}), sha256) for key, rows in runs.items()]


def _log(file: Path, key: str, rows: Rows, settings: Mapping[str, object], sha256: str) -> Log:
    """One run; what trackio would not have written is a run in trouble, which keeps no other out."""
    try:
        history = gather((float(row["step"]), flatten(_payload(row, "metrics"))) for row in rows)
        constants, trouble = flatten(_payload(settings, "config")), ""
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        history, constants, trouble = {}, {}, f"damaged: {error!r}"
    return Log(
        kind="trackio",
        source=file,
        name=str(rows[0].get("run_name")),
        identity=("trackio", file.stem, key),
        history=history,
        constants=constants,
        steps=True,
        trouble=trouble,
        sha256=sha256,
        aliases=(key,),
    )


def is_export(columns: Iterable[str]) -> bool:
    """True for the columns of trackio's Parquet export."""
    return set(columns) >= _EXPORT


def _run_key(row: Mapping[str, object]) -> str:
    return str(row.get("run_id") or row.get("run_name"))


def _payload(row: Mapping[str, object], name: str) -> dict[str, object]:
    """What was logged: one JSON column in the database, columns of their own in the export."""
    value = row.get(name)
    if isinstance(value, bytes | str):
        return parse_json(value)
    frame = (*_FRAME, "created_at")
    return {key: entry for key, entry in row.items() if key not in frame and entry is not None}


def _from_database(file: Path) -> tuple[Rows, Rows, list[Path]]:
    journal = require_file(file).with_name(file.name + "-wal")
    pending = journal.exists() and journal.stat().st_size > 0
    # without a journal the file can be read where nothing may be written; with one, SQLite must see both
    uri = f"{file.resolve().as_uri()}?mode=ro{'' if pending else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as base:
            base.row_factory = sqlite3.Row
            _require_tables(file, base)
            metrics = [dict(row) for row in base.execute("SELECT * FROM metrics ORDER BY id")]
            configs = [dict(row) for row in base.execute("SELECT * FROM configs")]
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a trackio database that can be read ({error})") from None
    return metrics, configs, [file, journal] if pending else [file]


def _require_tables(file: Path, base: sqlite3.Connection) -> None:
    """A view could run anything, for ever; trackio writes tables."""
    kinds = dict(base.execute("SELECT name, type FROM sqlite_master").fetchall())
    for name in ("metrics", "configs"):
        if kinds.get(name) != "table":
            raise DataError(f"{file}: not a trackio database: {name} is {kinds.get(name, 'not there')}, not a table")


def _from_parquet(file: Path) -> tuple[Rows, Rows, list[Path]]:
    parts = [file, *(f for f in (file.with_name(f"{file.stem}_configs.parquet"),) if f.exists())]
    metrics, *configs = [_rows(part) for part in parts]
    return metrics, configs[0] if configs else [], parts


def _rows(file: Path) -> Rows:
    columns = read_columns(file)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


PATTERN = "*tfevents*"
_ALL = {"scalars": 0, "tensors": 0, "images": 1, "audio": 1, "histograms": 1, "compressedHistograms": 1}


def read_tensorboard(files: Iterable[Path], root: Path) -> list[Log]:
    """One log per folder of event files, called by its path below `root`."""
    folders: dict[Path, list[Path]] = {}
    for file in sorted(files):
        folders.setdefault(file.parent, []).append(file)
    read = {folder: _read_folder(folder, parts, root) for folder, parts in folders.items()}
    logs: dict[Path, Log] = {}
    for folder, (log, has_settings) in sorted(read.items()):
        if has_settings and folder.parent in logs:
            above = logs[folder.parent]
            logs[folder.parent] = replace(above, constants={**above.constants, **log.constants})
        else:
            logs[folder] = log
    return list(logs.values())


def _read_folder(folder: Path, files: list[Path], root: Path) -> tuple[Log, bool]:
    events = _accumulator(folder)
    history, constants, settings = {}, {}, False
    for tag in events.Tags()["scalars"]:
        history[tag] = series_of({e.step: e.value for e in events.Scalars(tag)})
    for tag in events.Tags()["tensors"]:
        plugin = events.SummaryMetadata(tag).plugin_data.plugin_name
        if plugin == "scalars":
            history[tag] = series_of({e.step: _array(e).item() for e in events.Tensors(tag)})
        elif plugin == "text":
            constants |= _json_text(tag, events)
    if hyperparameters := _hyperparameters(events):
        constants |= hyperparameters
        settings = True
    began = events.FirstEventTimestamp()
    name = folder.name if folder == root else folder.relative_to(root).as_posix()
    walls = [e.wall_time for tag in events.Tags()["scalars"] for e in events.Scalars(tag)[-1:]]
    if walls:
        constants["seconds"] = max(walls) - began
    log = Log(
        kind="tensorboard",
        source=folder,
        name=name,
        identity=("tensorboard", folder.name, repr(began)),
        history=history,
        constants=constants,
        steps=True,
        sha256=sha256_of_parts([file_sha256(file) for file in files]),
    )
    return log, settings


def _accumulator(folder: Path) -> Any:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise DataError('reading TensorBoard logs needs tensorboard; pip install "distillaw[import]"') from None
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # purges after a restart are as they should be
    events = EventAccumulator(str(folder), size_guidance=_ALL)
    events.Reload()
    try:
        events.FirstEventTimestamp()
    except ValueError:
        raise DataError(f"{folder}: its event files hold no event; leave this folder out") from None
    return events


def _array(event: Any) -> np.ndarray:
    from tensorboard.util.tensor_util import make_ndarray

    return make_ndarray(event.tensor_proto)


def _json_text(tag: str, events: Any) -> dict[str, object]:
    """Settings logged as a JSON text, such as the Hugging Face Trainer's `args` and `model_config`."""
    text = _array(events.Tensors(tag)[-1]).ravel()[0].decode("utf-8", "replace")
    try:
        value = parse_json(text)
    except ValueError:
        return {}
    return flatten(value, f"{tag.removesuffix('/text_summary')}.") if isinstance(value, dict) else {}


def _hyperparameters(events: Any) -> dict[str, object]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # pyrefly: ignore

    try:
        contents = events.PluginTagToContent("hparams").values()
    except KeyError:
        return {}
    found = {}
    for content in contents:
        data = HParamsPluginData.FromString(content)
        for name, value in data.session_start_info.hparams.items():
            found[name] = getattr(value, value.WhichOneof("kind"))
    return found
