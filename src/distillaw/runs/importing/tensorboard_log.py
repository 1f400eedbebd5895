"""TensorBoard event files, read by TensorBoard's own accumulator: scalars, JSON texts and hyperparameters.

A folder with event files is one run, as in TensorBoard. `SummaryWriter.add_hparams` writes its own subfolder: its
values are settings of the run above. Scalars are float32 (a loss keeps seven digits, a token count too). TensorBoard
does not record whether a run ended or crashed.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distillaw.errors import DataError
from distillaw.runs.importing.log import Log, Series, flatten, sha256_of_files
from distillaw.runs.reading import parse_json

PATTERN = "*tfevents*"
_ALL = {"scalars": 0, "tensors": 0, "images": 1, "audio": 1, "histograms": 1, "compressedHistograms": 1}


def read_tensorboard(files: Iterable[Path], root: Path) -> list[Log]:
    """One log per folder of event files.

    Args:
        files: event files.
        root: the folder that was named; runs are called by their path below it.

    Raises:
        DataError: tensorboard is not installed, or a file is not an event file.
    """
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
        history[tag] = _series((e.step, e.value) for e in events.Scalars(tag))
    for tag in events.Tags()["tensors"]:
        plugin = events.SummaryMetadata(tag).plugin_data.plugin_name
        if plugin == "scalars":
            history[tag] = _series((e.step, _array(e).item()) for e in events.Tensors(tag))
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
    log = Log(kind="tensorboard", source=folder, name=name, identity=("tensorboard", folder.name, repr(began)),
              history=history, constants=constants, steps=True, sha256=sha256_of_files(files))  # fmt: skip
    return log, settings


def _accumulator(folder: Path) -> Any:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise DataError(
            'reading TensorBoard logs needs tensorboard; pip install "distillaw[import]"'
        ) from None
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # purges after a restart are as they should be
    events = EventAccumulator(str(folder), size_guidance=_ALL)
    events.Reload()
    try:
        events.FirstEventTimestamp()
    except ValueError:
        raise DataError(f"{folder}: its event files hold no event; leave this folder out") from None
    return events


def _series(points: Iterable[tuple[int, float]]) -> Series:
    last = dict(points)  # of several values at one step the later counts
    at = np.array(sorted(last), dtype=np.float64)
    return Series(at, np.array([last[int(x)] for x in at], dtype=np.float64))


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
