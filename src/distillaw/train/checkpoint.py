"""Training state on disk: weights, optimiser moments and the step, in PyTorch's distributed checkpoint format.

    <folder>/step-00001200/    __0_0.distcp ... .metadata, one data file per rank, and checkpoint.json

A checkpoint becomes visible by one rename when all ranks have written, and only then do older ones go. It may be
written in a thread, from a copy of the state, while training goes on (`Background`), and can be loaded by any number of
ranks. checkpoint.json holds the checksum of every file and its own: a damaged or foreign checkpoint is named, never
read. With the data order a function of the step alone there is nothing else to save: a run resumed on as many ranks
repeats the uninterrupted one bit for bit.
"""

import functools
import os
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from distillaw.errors import CacheError, ConfigError, RunError
from distillaw.large_batch.instruments import DistanceTracker
from distillaw.models.parallel import ALONE, PATIENCE, Ranks, is_lost_peer
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
    recent: list[list[float]] = field(default_factory=list)
    """Loss and gradient norm of the last steps, where the spike guard asks for them."""
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


class Background:
    """Writes checkpoints in a thread while training goes on, one at a time and of a copy; waits at its end.

    As `torch.distributed.checkpoint.async_save` does it: its stager copies what steps change into memory of the host,
    which costs as much again there, and the thread's collectives go through a process group of their own. That function
    itself cannot serve: what makes a checkpoint visible has to follow in the thread.
    """

    def __init__(self, ranks: Ranks) -> None:
        """All ranks make it together."""
        self._ranks = ranks
        self._group: Any = distributed.new_group(backend="gloo", timeout=PATIENCE) if ranks.world > 1 else None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: list[Future[None]] = []
        self._stagers: dict[int, DefaultStager] = {}

    @property
    def is_free(self) -> bool:
        """Whether nothing is being written."""
        return all(writing.done() for writing in self._writing)

    @property
    def has_failed(self) -> bool:
        """Whether `finish` will raise."""
        return any(writing.done() and writing.exception() for writing in self._writing)

    def hand_over(self, state: TrainState, write: Callable[..., None]) -> None:
        """Copy a state and have the copy written; before that `finish`, since its memory is used again."""
        stager = self._stagers.setdefault(id(state), DefaultStager(StagingOptions(False, False, False, False)))
        start = {"start": state.tracker.state()} if state.tracker else {}  # which no step changes
        copied: Any = stager.stage({key: value for key, value in state.tensors().items() if key != "start"})
        self._writing.append(self._thread.submit(write, copied | start, group=self._group))

    def finish(self) -> None:
        """Wait until all is written, on all ranks.

        Raises:
            RunError: it could not be; the checkpoints before are intact.
        """
        writing, self._writing = self._writing, []
        self._ranks.together(lambda: [each.result() for each in writing] and None)

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            # of several ranks all write or none does
            self._thread.shutdown(cancel_futures=error is not None and self._ranks.world == 1)
            for stager in self._stagers.values():
                stager.close()  # else a cycle keeps its copy of the weights until the garbage collector comes by
            if self._group is not None:
                distributed.destroy_process_group(self._group)


def save_state(
    state: TrainState,
    folder: Path,
    *,
    identity: str,
    ranks: Ranks = ALONE,
    keep: int = 1,
    background: Background | None = None,
) -> None:
    """Write a checkpoint that belongs to `identity` (a trunk or run id); called by all ranks together.

    The latest one is left as it is if it is of this step: it has the same bits.

    Args:
        folder: where; older checkpoints in it go.
        keep: so many of the latest stay, this one included.
        background: what writes it after this has returned; None: it is written now.

    Raises:
        RunError: the disk is full; the previous checkpoint is intact.
    """
    target = folder / f"step-{state.step:08d}"
    partial = folder / f".{target.name}.partial"
    ranks_that_see_it = ranks.sum(float(saved_step(folder) == state.step))[0]
    if ranks_that_see_it == ranks.world:
        return
    facts = {"step": state.step, "seconds": state.seconds, "notes": dict(state.notes), "ranks": ranks.world}
    record = {"identity": identity, **facts, "recent": list(state.recent), "tracks": state.tracker is not None}
    write = functools.partial(_save, partial=partial, target=target, record=record, keep=keep, ranks=ranks)
    ranks.first(lambda: _begin(partial))
    if background is not None:
        background.hand_over(state, write)
    else:
        write(state.tensors())
        ranks.wait()


def _save(
    tensors: dict[str, Any],
    *,
    partial: Path,
    target: Path,
    record: dict[str, Any],
    keep: int,
    ranks: Ranks,
    group: distributed.ProcessGroup | None = None,
) -> None:
    """Write the tensors and, once all ranks have, what vouches for them; then let them be seen."""
    try:
        _write(tensors, partial, ranks, group)
        if ranks.is_first:
            files = digests(partial, (file for file in partial.iterdir() if file.name != MARK))
            write_json(partial / RECORD, record | {FILES: files})
            _publish(partial, target, keep)
    except OSError as error:
        remove_folder(partial)
        raise disk_error(target.parent, error) from error


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
    state.recent = record.get("recent", [])
    return True


def _begin(partial: Path) -> None:
    remove_folder(partial)  # of a call that was killed
    claim_folder(partial)


def _write(tensors: dict[str, Any], folder: Path, ranks: Ranks, group: distributed.ProcessGroup | None) -> None:
    writer = dcp.FileSystemWriter(folder, single_file_per_rank=True, thread_count=1)
    _quiet()
    try:
        dcp.save(tensors, storage_writer=writer, no_dist=ranks.world == 1, process_group=group)
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
    _quiet()
    dcp.load(tensors, storage_reader=dcp.FileSystemReader(folder), no_dist=ranks.world == 1)
    state.model.load_state_dict(tensors["model"])  # moments and first weights are filled in place


def _publish(partial: Path, target: Path, keep: int) -> None:
    """Make a complete checkpoint the latest, then remove all others but the `keep` - 1 before it."""
    if target.exists():  # this step was saved before: the same bits
        remove_folder(partial)
    else:
        move(partial, target)
    steps = sorted(target.parent.glob("step-*"))
    kept = steps[: steps.index(target) + 1][-keep:]  # later ones are of a run that began anew
    for other in [*steps, *target.parent.glob(".step-*")]:
        if other not in kept:
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


def _quiet() -> None:
    """Nobody is to hear that one process is alone; for good, since `catch_warnings` is not for threads."""
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
