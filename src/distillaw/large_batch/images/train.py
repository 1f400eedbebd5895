"""One cell, from fresh weights to its result: a loop that a kill at any moment costs seconds.

    checkpoint.pt    weights, momentum, statistics, w_0, curves, step; replaced every SAVE_SECONDS
    result.json      written last; a cell that has it is never run again

The same cell gives the same weights on the same kind of device, stopped and continued or not: order, crops and flips
come from (seed, epoch), dropout from a generator that is in the checkpoint.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillaw.errors import CacheError, DivergedError
from distillaw.large_batch.diffusion import log_steps
from distillaw.large_batch.ghost_convert import convert_ghost_batchnorm
from distillaw.large_batch.images.columns import VERSION, ColumnRun
from distillaw.large_batch.images.feed import Draws, Feed, score, seed_of, with_fresh_statistics
from distillaw.large_batch.images.image_files import ImageData
from distillaw.large_batch.images.networks import ImageShape, build_network, count_params
from distillaw.large_batch.images.spec import ImageStudy, Optimizer
from distillaw.large_batch.instruments import DistanceTracker
from distillaw.large_batch.rules import clip_at
from distillaw.runs.files import write_json, write_with
from distillaw.runs.places import claim_folder, remove_file, sweep

SAVE_SECONDS = 10.0
"""Between checkpoints: what a kill costs at most."""
CHECKED_EVERY = 50
"""Steps between looks at the loss: each look makes a GPU wait."""
EVALUATIONS = 10
"""Looks at the test set on the way, for the curve alone; nothing is chosen by them."""
_WEIGHTS, _DROPOUT = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Feeds:
    """The data of a study on the device."""

    train: Feed
    test: Feed
    shape: ImageShape
    device: str


def make_feeds(data: ImageData, study: ImageStudy, device: str) -> Feeds:
    """Both sets on the device."""
    return Feeds(
        train=Feed(data.train, study.data, device=device),
        test=Feed(data.test, study.data, device=device),
        shape=ImageShape(*data.shape, data.classes),
        device=device,
    )


@dataclass(slots=True, kw_only=True)
class CellCurves:
    """What is written down on the way."""

    steps: list[int] = field(default_factory=list)
    distances: dict[str, list[float]] = field(default_factory=dict)
    """||w_t - w_0||: total, first tensor, groups of modules."""
    losses: list[float] = field(default_factory=list)
    """Of the batch at those steps, nats."""
    evaluated: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    """On the test set, running statistics as they are, per cent."""


class CellRun:
    """The live state of one cell."""

    def __init__(self, study: ImageStudy, cell: ColumnRun, feeds: Feeds) -> None:
        """Fresh weights; cells of one seed have the same."""
        self.study, self.cell, self.feeds = study, cell, feeds
        self._dropout = torch.Generator(feeds.device).manual_seed(seed_of(cell.seed, _DROPOUT))
        model = build_network(
            study.network, feeds.shape, seed=seed_of(cell.seed, _WEIGHTS), dropout=self._dropout
        )
        if cell.ghost:
            model = convert_ghost_batchnorm(model, cell.ghost)
        self.model = model.to(feeds.device).train()
        self.params = count_params(model)
        self._parameters = list(model.parameters())
        self._optimizer = make_sgd(model, study.optimizer, peak_lr=cell.peak_lr)
        self._tracker = DistanceTracker(model)
        self._tracked = set(log_steps(cell.steps)) | {cell.first_phase}
        self._evaluated = {round(cell.steps * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)}
        self._draws: Draws | None = None
        self.step = 0
        self.curves = CellCurves()
        self.seconds = self.cpu_seconds = 0.0

    def advance(self) -> Tensor:
        """One update; the loss of its batch before it, on the device."""
        epoch, place = divmod(self.step, self.cell.steps_per_epoch)
        if self._draws is None or place == 0:
            self._draws = self.feeds.train.draws(seed=self.cell.seed, epoch=epoch)
            if self.study.optimizer.wipe_momentum:
                self._optimizer.state.clear()
        images_BCHW, labels_B = self.feeds.train.batch(self._draws, place * self.cell.batch, self.cell.batch)
        loss = functional.cross_entropy(self.model(images_BCHW), labels_B)
        self._optimizer.zero_grad()
        loss.backward()
        self._clip()
        for group in self._optimizer.param_groups:
            group["lr"] = self.cell.rate(self.step)
        self._optimizer.step()
        self.step += 1
        return loss.detach()

    def _clip(self) -> None:
        optimizer = self.study.optimizer
        if not optimizer.clip_norm:
            return
        norm = clip_at(self.step, clip_norm=optimizer.clip_norm, clip_steps=optimizer.clip_steps or None)
        if norm < math.inf:
            nn.utils.clip_grad_norm_(self._parameters, norm)

    def note(self, loss: Tensor) -> None:
        """Write down what is due at this step.

        Raises:
            DivergedError: the loss is not finite any more.
        """
        tracked = self.step in self._tracked
        if tracked or self.step % CHECKED_EVERY == 0 or self.step == self.cell.steps:
            value = float(loss)
            if not math.isfinite(value):
                raise DivergedError(
                    f"the loss is {value} by step {self.step} of {self.cell.steps} at rate "
                    f"{self.cell.rate(self.step - 1):.3g}; a smaller peak_lr or clip_norm may hold it"
                )
            if tracked:
                self._measure(value)
        if self.step in self._evaluated and not self.cell.is_walk:
            self.curves.evaluated.append(self.step)
            self.curves.accuracy.append(score(self.model, self.feeds.test).accuracy)

    def _measure(self, loss: float) -> None:
        self.curves.steps.append(self.step)
        self.curves.losses.append(loss)
        for name, distance in self._tracker.measure().items():
            self.curves.distances.setdefault(name, []).append(distance)

    def state(self) -> dict[str, Any]:
        """All that a later process needs."""
        return {
            "version": VERSION,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "start": self._tracker.state(),
            "dropout": self._dropout.get_state(),
            "curves": _as_dict(self.curves),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.step, self.seconds, self.cpu_seconds = state["step"], state["seconds"], state["cpu_seconds"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._tracker.load(state["start"])
        self._dropout.set_state(state["dropout"].cpu())
        self.curves, self._draws = CellCurves(**state["curves"]), None

    def result(self) -> dict[str, Any]:
        """What the finished cell came to."""
        found: dict[str, Any] = {"state": "done", "params": self.params}
        if not self.cell.is_walk:
            fresh = with_fresh_statistics(self.model, self.feeds.train, seed=self.cell.seed)
            test, train = score(self.model, self.feeds.test), score(self.model, self.feeds.train)
            found |= {
                "accuracy": test.accuracy,
                "loss": test.loss,
                "wrong": list(test.wrong),
                "test_images": test.images,
                "train_accuracy": train.accuracy,
                "train_loss": train.loss,
                "fresh_accuracy": score(fresh, self.feeds.test).accuracy,
            }
        return found | {"curves": _as_dict(self.curves)}


def make_sgd(model: nn.Module, optimizer: Optimizer, *, peak_lr: float) -> torch.optim.SGD:
    """SGD with momentum; norms and biases (vectors) are spared from decay where asked."""
    spared = [] if optimizer.decay_norm_bias else [p for p in model.parameters() if p.dim() == 1]
    names = {id(p) for p in spared}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in names]}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    return torch.optim.SGD(
        groups, lr=peak_lr, momentum=optimizer.momentum, weight_decay=optimizer.weight_decay, fused=True
    )


def train_cell(
    study: ImageStudy,
    cell: ColumnRun,
    feeds: Feeds,
    folder: Path,
    *,
    beat: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
    """Train a cell, or what is left of it, and write its result.

    Args:
        study: its settings.
        cell: which one.
        feeds: the data.
        folder: its own.
        beat: called with the step after each checkpoint; what it raises stops the run there.

    Returns:
        The result: `state` is done or diverged.
    """
    run, checkpoint = CellRun(study, cell, feeds), folder / "checkpoint.pt"
    if checkpoint.exists():
        run.load(read_checkpoint(checkpoint))
    claim_folder(folder)
    sweep(folder)
    began, cpu_began = time.monotonic() - run.seconds, time.process_time() - run.cpu_seconds
    saved = time.monotonic()
    found: dict[str, Any]
    try:
        while run.step < cell.steps:
            run.note(run.advance())
            if time.monotonic() - saved > SAVE_SECONDS:
                run.seconds, run.cpu_seconds = time.monotonic() - began, time.process_time() - cpu_began
                _save(checkpoint, run)
                beat(run.step)
                saved = time.monotonic()
        found = run.result()
    except DivergedError as error:
        found = {
            "state": "diverged",
            "params": run.params,
            "error": str(error),
            "step": run.step,
            "curves": _as_dict(run.curves),
        }
    found = {
        **describe(cell),
        **found,
        "device": feeds.device,
        "torch": torch.__version__,
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu_began,
    }
    write_json(folder / "result.json", found)
    remove_file(checkpoint)
    return found


def describe(cell: ColumnRun) -> dict[str, Any]:
    """The settings of a cell as its result states them."""
    return {
        "version": VERSION,
        "column": cell.column,
        "seed": cell.seed,
        "batch": cell.batch,
        "ghost": cell.ghost,
        "peak_lr": cell.peak_lr,
        "steps": cell.steps,
        "drops": [list(drop) for drop in cell.drops],
        "steps_per_epoch": cell.steps_per_epoch,
        "first_phase": cell.first_phase,
        "is_walk": cell.is_walk,
    }


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint; only tensors and plain values are read.

    Raises:
        CacheError: damaged, or of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state["version"]
    except Exception as error:  # torch raises nearly anything on a damaged file
        raise CacheError(
            f"{path}: damaged ({type(error).__name__}); delete it, and its cell begins anew"
        ) from error
    if version != VERSION:
        raise CacheError(
            f"{path}: of version {version}, this is {VERSION}; delete it, and its cell begins anew"
        )
    return state


def _save(checkpoint: Path, run: CellRun) -> None:
    state = run.state()
    write_with(checkpoint, lambda path: torch.save(state, path))


def _as_dict(curves: CellCurves) -> dict[str, Any]:
    return {name: getattr(curves, name) for name in CellCurves.__slots__}
