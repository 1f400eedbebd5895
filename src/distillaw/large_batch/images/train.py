"""One cell, from fresh weights to its result: a loop that a kill at any moment costs seconds.

    checkpoint.pt    weights, momentum, statistics, w_0, curves, step; replaced every SAVE_SECONDS
    result.json      written last; a cell that has it is never run again

The same cell gives the same weights on the same kind of device, stopped and continued or not: order, crops and flips
come from (seed, epoch) alone and are drawn on the CPU, dropout and noise from generators that are in the checkpoint.
Legend: N images, B of a batch, C channels, H rows, W columns, K classes.
"""

import copy
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from distillaw.errors import CacheError, DivergedError
from distillaw.large_batch.diffusion import log_steps
from distillaw.large_batch.ghost import convert_ghost_batchnorm
from distillaw.large_batch.images.image_files import READERS, FileSet, ImageData, ImageSet, read_square
from distillaw.large_batch.images.networks import ImageShape, build_network, count_params
from distillaw.large_batch.images.spec import VERSION, ColumnRun, DataSettings, ImageStudy, Optimizer
from distillaw.large_batch.instruments import DistanceTracker, noisy_mean
from distillaw.large_batch.rules import clip_at
from distillaw.runs.files import write_json, write_with
from distillaw.runs.places import claim_folder, remove_file, sweep

SAVE_SECONDS = 10.0
"""Between checkpoints: what a kill costs at most."""
CHECKED_EVERY = 50
"""Steps between looks at the loss: each look makes a GPU wait."""
EVALUATIONS = 10
"""Looks at the test set on the way, for the curve alone; nothing is chosen by them."""
SCORED_AT_ONCE = 1000
"""Images; results do not depend on it but for rounding."""
ESTIMATION_EPOCH = 2**31
"""Names the draws that statistics are estimated on; no training epoch is so late."""
_WEIGHTS, _DROPOUT, _NOISE = 0, 1, 2  # what a seed is for


def seed_of(*key: int) -> int:
    """One well-mixed seed from several whole numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """The random choices of one epoch, on the device; each of shape (N,)."""

    order: Tensor
    rows: Tensor
    """First row of the crop, 0 .. 2 pad."""
    columns: Tensor
    flips: Tensor


class _Feed:
    """What both kinds share: labels and the scale of pixels on the device."""

    def __init__(self, images: ImageSet | FileSet, settings: DataSettings, *, device: torch.device | str) -> None:
        self._labels_N = torch.from_numpy(np.array(images.labels)).to(device)
        mean, std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (settings.mean, settings.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std
        self._flip, self._device = settings.flip, device

    def __len__(self) -> int:
        """N."""
        return len(self._labels_N)

    def _normal(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW.float().mul_(self._scale).add_(self._shift)


class Feed(_Feed):
    """One set of images on the device as bytes."""

    def __init__(self, images: ImageSet, settings: DataSettings, *, device: torch.device | str) -> None:
        """Move the images there, padded."""
        super().__init__(images, settings, device=device)
        pixels = torch.from_numpy(np.ascontiguousarray(images.images)).to(device)
        height, width = pixels.shape[2:]
        self._pad = settings.pad
        self._pixels_NCHW = functional.pad(pixels, (self._pad,) * 4, value=settings.fill)
        # every possible crop as a view: (N, C, 2 pad + 1, 2 pad + 1, H, W)
        self._crops = self._pixels_NCHW.unfold(2, height, 1).unfold(3, width, 1)

    def draws(self, *, seed: int, epoch: int) -> Draws:
        """The random choices of an epoch; the order does not depend on the batch size."""
        generator = torch.Generator().manual_seed(seed_of(seed, epoch))
        count, device = len(self), self._device
        order = torch.randperm(count, generator=generator)
        row, column = torch.randint(0, 2 * self._pad + 1, (2, count), generator=generator)
        flip = torch.rand(count, generator=generator) < 0.5
        return Draws(order=order.to(device), rows=row.to(device), columns=column.to(device), flips=flip.to(device))

    def batch(self, draws: Draws, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Images B..., normalised float32 (B, C, H, W), and labels (B,), as they are trained on."""
        index_B = draws.order[start : start + size]
        if self._pad:
            images = self._crops[index_B, :, draws.rows[index_B], draws.columns[index_B]]
        else:
            images = self._pixels_NCHW[index_B]
        if self._flip:
            images = torch.where(draws.flips[index_B].view(-1, 1, 1, 1), images.flip(-1), images)
        return self._normal(images), self._labels_N[index_B]

    def plain(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """The same in file order, neither cropped nor flipped."""
        part = slice(start, start + size)
        return self._normal(self._crops[part, :, self._pad, self._pad]), self._labels_N[part]


class FileFeed(_Feed):
    """The same of images that stay in their files: read by threads, one batch ahead of the one in use."""

    def __init__(self, images: FileSet, settings: DataSettings, *, device: torch.device | str) -> None:
        """Open nothing yet."""
        super().__init__(images, settings, device=device)
        self._files = images.files
        self._crop, self._resize = settings.crop or settings.resize, settings.resize
        self._pool = ThreadPoolExecutor(READERS)
        self._ahead: tuple[Draws | None, int, int, list[Future[np.ndarray]]] = (None, 0, 0, [])

    def draws(self, *, seed: int, epoch: int) -> Draws:
        """As of `Feed`; rows and columns are shares of the way from the top and the left."""
        generator = torch.Generator().manual_seed(seed_of(seed, epoch))
        order = torch.randperm(len(self), generator=generator)
        row, column, flip = torch.rand(3, len(self), generator=generator)
        return Draws(order=order, rows=row, columns=column, flips=(flip < 0.5) & self._flip)

    def batch(self, draws: Draws, start: int, size: int) -> tuple[Tensor, Tensor]:
        """As of `Feed`; DataError: a file that cannot be read."""
        of, first, count, reading = self._ahead
        if of is not draws or (first, count) != (start, size):
            reading = self._begin(draws, start, size)
        after = start + size
        self._ahead = draws, after, size, self._begin(draws, after, size)
        return self._read(reading), self._labels_N[draws.order[start:after].to(self._device)]

    def plain(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """The middle of each, in the order of the files."""
        part = range(start, min(start + size, len(self)))
        return self._read([self._open(i, 0.5, 0.5, False) for i in part]), self._labels_N[start : start + size]

    def _begin(self, draws: Draws, start: int, size: int) -> "list[Future[np.ndarray]]":
        index = draws.order[start : start + size]
        places = (index, draws.rows[index], draws.columns[index], draws.flips[index])
        return [self._open(*each) for each in zip(*(part.tolist() for part in places), strict=True)]

    def _open(self, index: int, down: float, right: float, flip: bool) -> "Future[np.ndarray]":
        how = {"down": down, "right": right, "flip": flip, "resize": self._resize, "crop": self._crop}
        return self._pool.submit(read_square, self._files[index], **how)

    def _read(self, reading: "list[Future[np.ndarray]]") -> Tensor:
        return self._normal(torch.from_numpy(np.stack([image.result() for image in reading])).to(self._device))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScore:
    """Of one network on one set."""

    loss: float
    """Nats per image."""
    wrong: tuple[int, ...]
    """Places of the images that it gets wrong."""
    images: int

    @property
    def accuracy(self) -> float:
        """Per cent."""
        return 100 * (self.images - len(self.wrong)) / self.images


@torch.no_grad()
def score(model: nn.Module, feed: Feed | FileFeed) -> ImageScore:
    """Loss and errors in evaluation mode, in file order; the mode is put back."""
    was_training = model.training
    model.eval()
    losses, wrong = [], []
    for start in range(0, len(feed), SCORED_AT_ONCE):
        images_BCHW, labels_B = feed.plain(start, SCORED_AT_ONCE)
        logits_BK = model(images_BCHW)
        losses.append(functional.cross_entropy(logits_BK, labels_B, reduction="sum"))
        wrong.append(logits_BK.argmax(1) != labels_B)
    model.train(was_training)
    places = torch.cat(wrong).nonzero().view(-1).tolist()
    return ImageScore(loss=float(torch.stack(losses).sum()) / len(feed), wrong=tuple(places), images=len(feed))


@torch.no_grad()
def with_fresh_statistics(model: nn.Module, feed: Feed | FileFeed, *, seed: int) -> nn.Module:
    """A copy whose running statistics are averages over all training images, cropped and flipped as in training.

    Statistics of few updates lag behind the weights; this tells that from bad weights.
    """
    fresh = copy.deepcopy(model)
    draws = feed.draws(seed=seed, epoch=ESTIMATION_EPOCH)
    starts = range(0, len(feed) - 1, SCORED_AT_ONCE)  # a last batch of one image would have no variance
    update_bn((feed.batch(draws, start, SCORED_AT_ONCE)[0] for start in starts), fresh)
    return fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class Feeds:
    """The data of a study on the device."""

    train: Feed | FileFeed
    test: Feed | FileFeed
    shape: ImageShape
    device: str


def make_feeds(data: ImageData, study: ImageStudy, device: str) -> Feeds:
    """Both sets on the device, or on the way to it."""

    def feed(part: ImageSet | FileSet) -> Feed | FileFeed:
        if isinstance(part, FileSet):
            return FileFeed(part, study.data, device=device)
        return Feed(part, study.data, device=device)

    shape = ImageShape(*data.shape, data.classes)
    return Feeds(train=feed(data.train), test=feed(data.test), shape=shape, device=device)


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
        self._dropout, self._noise = (
            torch.Generator(feeds.device).manual_seed(seed_of(cell.seed, stream)) for stream in (_DROPOUT, _NOISE)
        )
        model = build_network(study.network, feeds.shape, seed=seed_of(cell.seed, _WEIGHTS), dropout=self._dropout)
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
        losses_B = functional.cross_entropy(self.model(images_BCHW), labels_B, reduction="none")
        loss = losses_B.mean()
        self._optimizer.zero_grad()
        if self.cell.noise_variance:
            noisy_mean(losses_B, variance=self.cell.noise_variance, generator=self._noise).backward()
        else:
            loss.backward()
        optimizer = self.study.optimizer
        norm = clip_at(self.step, clip_norm=optimizer.clip_norm or math.inf, clip_steps=optimizer.clip_steps or None)
        if norm < math.inf:
            nn.utils.clip_grad_norm_(self._parameters, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self.cell.rate(self.step)
            if not group["is_spared"]:
                group["weight_decay"] = self.cell.weight_decay(self.step, optimizer.weight_decay)
        self._optimizer.step()
        self.step += 1
        return loss.detach()

    def note(self, loss: Tensor) -> None:
        """Write down what is due at this step; DivergedError: the loss is not finite any more."""
        tracked = self.step in self._tracked
        if tracked or self.step % CHECKED_EVERY == 0 or self.step == self.cell.steps:
            value = float(loss)
            if not math.isfinite(value):
                raise DivergedError(
                    f"the loss is {value} by step {self.step} of {self.cell.steps} at rate "
                    f"{self.cell.rate(self.step - 1):.3g}; a smaller peak_lr or clip_norm may hold it"
                )
            if tracked:
                self.curves.steps.append(self.step)
                self.curves.losses.append(value)
                for name, distance in self._tracker.measure().items():
                    self.curves.distances.setdefault(name, []).append(distance)
        if self.step in self._evaluated and not self.cell.is_walk:
            self.curves.evaluated.append(self.step)
            self.curves.accuracy.append(score(self.model, self.feeds.test).accuracy)

    def state(self) -> dict[str, Any]:
        """All that a later process needs."""
        return {
            "version": VERSION,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "start": self._tracker.state(),
            "dropout": self._dropout.get_state(),
            "noise": self._noise.get_state(),
            "curves": asdict(self.curves),
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
        self._noise.set_state(state["noise"].cpu())
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
        return found | {"curves": asdict(self.curves)}


def make_sgd(model: nn.Module, optimizer: Optimizer, *, peak_lr: float) -> torch.optim.SGD:
    """SGD with momentum; norms and biases (vectors) are spared from decay where asked."""
    parameters = list(model.parameters())
    spared = [] if optimizer.decay_norm_bias else [p for p in parameters if p.dim() == 1]
    decayed = [p for p in parameters if optimizer.decay_norm_bias or p.dim() != 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "is_spared": False}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0, "is_spared": True})
    return torch.optim.SGD(
        groups, lr=peak_lr, momentum=optimizer.momentum, weight_decay=optimizer.weight_decay, fused=True
    )


def train_cell(
    study: ImageStudy, cell: ColumnRun, feeds: Feeds, folder: Path, *, beat: Callable[[int], None] = lambda step: None
) -> dict[str, Any]:
    """Train a cell, or what is left of it, and write its result into its folder: `state` is done or diverged.

    `beat` is called with the step after each checkpoint; what it raises stops the run there.
    """
    run, checkpoint = CellRun(study, cell, feeds), folder / "checkpoint.pt"
    if checkpoint.exists():
        run.load(read_checkpoint(checkpoint))
    claim_folder(folder)
    sweep(folder)
    began, cpu_began = time.monotonic() - run.seconds, time.process_time() - run.cpu_seconds
    saved = time.monotonic()
    try:
        while run.step < cell.steps:
            run.note(run.advance())
            if time.monotonic() - saved > SAVE_SECONDS:
                run.seconds, run.cpu_seconds = time.monotonic() - began, time.process_time() - cpu_began
                state = run.state()
                write_with(checkpoint, lambda path, state=state: torch.save(state, path))
                beat(run.step)
                saved = time.monotonic()
        found = run.result()
    except DivergedError as error:
        how = {"state": "diverged", "params": run.params, "error": str(error), "step": run.step}
        found = how | {"curves": asdict(run.curves)}
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
    return {"version": VERSION, **asdict(cell), "first_phase": cell.first_phase}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint; only tensors and plain values are read; CacheError: damaged, or of another version."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state["version"]
    except Exception as error:  # torch raises nearly anything on a damaged file
        raise CacheError(f"{path}: damaged ({type(error).__name__}); delete it, and its cell begins anew") from error
    if version != VERSION:
        raise CacheError(f"{path}: of version {version}, this is {VERSION}; delete it, and its cell begins anew")
    return state
