"""Weights & Biases runs from their offline folders: `wandb/offline-run-*/run-ID.wandb`.

The file is a LevelDB log (blocks of 32 KiB; a record is crc32, length, type, bytes) of protobuf records. The `wandb`
package had a reader in Python (0.19 has it) and has none today (0.31), so the frame is read here and the records are
decoded by `protobuf` with the few fields that matter; logs of both versions were read so. A file cut off by a kill ends
at its last whole record and counts as a run without an end.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from distillaw.errors import DataError
from distillaw.runs.files import file_sha256
from distillaw.runs.importing.log import Log, flatten, gather, number
from distillaw.runs.reading import parse_json, read_bytes

_MAGIC = b":W&B\xe1\xbe\x00"
_BLOCK = 32768
_HEAD = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_ITEM = {"key": (1, "string", False), "nested_key": (2, "string", True), "value_json": (16, "string", False)}
_FRAME = ("_step", "_timestamp", "_wandb")
"""What the tracker writes for itself; `_step` counts calls of log(), which need not be steps."""
_MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Item": _ITEM,
    "Step": {"num": (1, "int64", False)},
    "History": {"item": (1, "Item", True), "step": (2, "Step", False)},
    "Update": {"update": (1, "Item", True)},
    "Run": {"run_id": (1, "string", False), "entity": (2, "string", False), "project": (3, "string", False),
            "config": (4, "Update", False), "display_name": (8, "string", False)},
    "Exit": {"exit_code": (1, "int32", False)},
    "Record": {"history": (2, "History", False), "summary": (3, "Update", False), "config": (5, "Update", False),
               "run": (17, "Run", False), "exit": (18, "Exit", False)},
}  # fmt: skip
"""Message -> field -> (number, type, repeated): what is read of wandb_internal.proto."""


def read_wandb(files: Iterable[Path]) -> list[Log]:
    """One log per run; files of one run id (a resumed run) are joined in the order of their folders' dates.

    A file that cannot be read is a run in trouble: one broken log must not keep the others out.

    Raises:
        DataError: protobuf is not installed.
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
        return Log(kind="wandb", source=file, name=file.parent.name, identity=("wandb", str(file)), history={},
                   trouble=str(error), sha256=file_sha256(file))  # fmt: skip


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
    return Log(
        kind="wandb", source=file, name=run.display_name or run.run_id,
        identity=("wandb", run.entity, run.project, run.run_id), history=gather(rows),
        constants={k: v for k, v in {**summary, **config}.items() if k.split(".")[0] not in _FRAME},
        trouble=_trouble(ended), sha256=file_sha256(file), aliases=(run.run_id,),
    )  # fmt: skip


def _trouble(ended: int | None) -> str:
    if ended is None:
        return "no end was logged: killed, or still running"
    return f"crashed: exit code {ended}" if ended else ""


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
    """The records of a LevelDB log up to the first that is cut off.

    Raises:
        DataError: not such a file, or damaged in the middle.
    """
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
    file = descriptor_pb2.FileDescriptorProto(
        name="distillaw_wandb.proto", package="distillaw", syntax="proto3"
    )
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
