"""Training state on disk: weights, optimiser moments and the step, in PyTorch's distributed checkpoint format.

    <folder>/step-00001200/    __0_0.distcp ... .metadata, one data file per rank, and checkpoint.json

A checkpoint becomes visible by one rename when all ranks have written, and only then is its predecessor removed. It
can be loaded by any number of ranks. checkpoint.json holds the checksum of every file and its own: a damaged or
foreign checkpoint is named, never read. With the data order a function of the step alone there is nothing else to
save: a run resumed on as many ranks repeats the uninterrupted one bit for bit.
"""

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed import checkpoint as dcp

from distillaw.errors import CacheError, ConfigError, RunError
from distillaw.large_batch.instruments import DistanceTracker
from distillaw.models.parallel import ALONE, Ranks, is_lost_peer
from distillaw.runs.files import FILES, check_files, digests, disk_error, read_json, vouched, write_json
from distillaw.runs.places import MARK, claim_folder, move, remove_folder, remove_if_empty
from distillaw.runs.store import saved_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECORD = "checkpoint.json"
TRACKING = "DISTILLAW_DISTANCES"
"""Environment variable: `never` keeps no copy of the first weights and writes no distances. No part of what a run
is."""
LAYER_DEPTH = 3
"""Groups of a decoder are named model.layers.0, model.embed_tokens, lm_head."""


@dataclass(slots=True)
class TrainState:
    """A model in training and the number of optimiser steps it has taken."""

    model: "PreTrainedModel"
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    """Wall seconds spent in training steps so far, over all resumptions."""
    notes: dict[str, float] = field(default_factory=dict)
    """Small numbers that the run must remember, such as the spike guard's averages."""
    tracker: DistanceTracker | None = None
    """Holds the weights of step 0, which are saved with the others."""

    def tensors(self) -> dict[str, Any]:
        """Weights and moments by parameter name, the live tensors themselves."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        moments = {names[id(p)]: dict(values) for p, values in self.optimizer.state.items()}
        start = {} if self.tracker is None else {"start": self.tracker.state()}
        return {"model": self.model.state_dict(), "optimizer": moments, **start}


def new_tracker(model: torch.nn.Module) -> DistanceTracker | None:
    """Follows a model from its weights as they are, layer by layer; None if DISTILLAW_DISTANCES says never.

    Raises:
        ConfigError: it says something else.
    """
    wish = os.environ.get(TRACKING, "always")
    if wish not in ("always", "never"):
        raise ConfigError(f"{TRACKING} = {wish!r}: give always or never")
    return DistanceTracker(model, depth=LAYER_DEPTH) if wish == "always" else None


def save_state(state: TrainState, folder: Path, *, identity: str, ranks: Ranks = ALONE) -> None:
    """Write a checkpoint that belongs to `identity` (a trunk or run id); called by all ranks together.

    The latest one is left as it is if it is of this step: it has the same bits.

    Raises:
        RunError: the disk is full; the previous checkpoint is intact.
    """
    target = folder / f"step-{state.step:08d}"
    partial = folder / f".{target.name}.partial"
    ranks_that_see_it = ranks.sum(float(saved_step(folder) == state.step))[0]
    if ranks_that_see_it == ranks.world:
        return
    ranks.first(lambda: _begin(partial))
    try:
        _write(state.tensors(), partial, ranks)
        if ranks.is_first:
            facts = {"step": state.step, "seconds": state.seconds, "notes": state.notes, "ranks": ranks.world}
            files = digests(partial, (file for file in partial.iterdir() if file.name != MARK))
            record = {"identity": identity, **facts, "tracks": state.tracker is not None, FILES: files}
            write_json(partial / RECORD, record)
            _publish(partial, target)
    except OSError as error:
        remove_folder(partial)
        raise disk_error(folder, error) from error
    ranks.wait()


def remove_states(folder: Path) -> None:
    """Remove the checkpoints of a folder, whole and unfinished ones; what else lies there stays."""
    if folder.is_dir():
        for each in [*folder.glob("step-*"), *folder.glob(".step-*")]:
            remove_folder(each)
        remove_if_empty(folder)


def load_state(state: TrainState, folder: Path, *, identity: str, ranks: Ranks = ALONE) -> bool:
    """Restore the latest checkpoint in `folder` into `state`; False if there is none.

    Raises:
        CacheError: a file of it is missing or damaged.
        RunError: it belongs to another run.
    """
    steps = sorted(folder.glob("step-*"))
    if not steps:
        return False
    latest = steps[-1]
    ranks.first(lambda: _check(latest, identity))
    record: dict[str, Any] = read_json(latest / RECORD)
    if not record.get("tracks"):  # from where it is the curve could not be continued
        state.tracker = None
    _read(state, latest, ranks)
    state.step, state.seconds, state.notes = record["step"], record["seconds"], dict(record["notes"])
    return True


def _begin(partial: Path) -> None:
    remove_folder(partial)  # of a call that was killed
    claim_folder(partial)


def _write(tensors: dict[str, Any], folder: Path, ranks: Ranks) -> None:
    writer = dcp.FileSystemWriter(folder, single_file_per_rank=True, thread_count=1)
    try:
        with _quiet():
            dcp.save(tensors, storage_writer=writer, no_dist=ranks.world == 1)
    except RuntimeError as error:  # torch's zip writer reports a full disk in its own words
        if is_lost_peer(error):
            raise
        raise OSError(28, f"checkpoint not written ({str(error).splitlines()[0]})") from error
    except dcp.api.CheckpointException as error:
        if lost := [cause for cause, _ in error.failures.values() if is_lost_peer(cause)]:
            raise lost[0] from error
        causes = {str(cause[0]) for cause in error.failures.values()}
        raise OSError(28, f"checkpoint not written ({'; '.join(sorted(causes))})") from error


def _read(state: TrainState, folder: Path, ranks: Ranks) -> None:
    tensors = state.tensors()
    with _quiet():
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(folder), no_dist=ranks.world == 1)
    state.model.load_state_dict(tensors["model"])  # moments and first weights are filled in place


def _publish(partial: Path, target: Path) -> None:
    """Make a complete checkpoint the latest, then remove the older ones."""
    if target.exists():  # this step was saved before: the same bits
        remove_folder(partial)
    else:
        move(partial, target)
    for other in [*target.parent.glob("step-*"), *target.parent.glob(".step-*")]:
        if other != target:
            remove_folder(other)


def _check(folder: Path, identity: str) -> None:
    """Refuse a checkpoint of another run, or one that is not what was written."""
    remedy = f"The checkpoint is damaged. Delete {folder}; the run starts over"
    try:
        record = read_json(folder / RECORD)
    except CacheError as error:
        raise CacheError(f"{folder / RECORD}: missing, or not what was written. {remedy}") from error
    listed, owner = vouched(record), record.get("identity")
    if not listed or owner is None:
        raise CacheError(f"{folder / RECORD}: says not what was written. {remedy}")
    if owner != identity:
        raise RunError(f"{folder} belongs to {owner!r}, not {identity!r}. Delete it or use another folder")
    check_files(folder, record, listed, remedy=remedy)


def _quiet() -> warnings.catch_warnings:
    return warnings.catch_warnings(action="ignore", category=UserWarning)
