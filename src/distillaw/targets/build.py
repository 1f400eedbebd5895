"""Building a store: what it will cost, plan, shards one after another, manifest last.

A shard is on the disk completely or not at all, and the plan fixes what each one holds. So a build that is killed at
any moment goes on with the shards that are missing, and the result is the uninterrupted one byte for byte. For the cost
some windows, spread evenly over those covered, go through the real teacher and the real encoding; windows are added
until the size is known to WANTED_ERROR, each new one into the widest gap (golden-ratio sequence).
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from distillaw.data.shards import TokenStore
from distillaw.errors import CacheError
from distillaw.models.parallel import ALONE, Ranks
from distillaw.models.teacher import AnyTeacher
from distillaw.runs.files import disk_error, file_sha256
from distillaw.runs.places import appending, check_folder
from distillaw.targets import codec
from distillaw.targets.foreign import Capture, CaptureMaker
from distillaw.targets.make import TargetMaker, windows_per_forward
from distillaw.targets.manifest import (
    LOG,
    PLAN,
    Manifest,
    ShardEntry,
    StorePlan,
    TargetRequest,
    read_plan,
    require_same,
    shard_name,
    write_plan,
)
from distillaw.targets.store import HEADER_BYTES, INDEX_BYTES, Shard, TargetStore, write_shard

AnyMaker = TargetMaker | CaptureMaker
SHARD_TOKENS = {"cpu": 1 << 15, "cuda": 1 << 22}
"""Most positions of a shard: about a minute of a teacher, which is what a kill loses at most."""


def make_plan(request: TargetRequest, teacher: AnyTeacher | Capture, data: TokenStore) -> StorePlan:
    """What a request comes to for a teacher and a token store.

    Raises:
        ConfigError: no such split, or a number out of its range.
        DataError: the split has no window of that context, or fewer tokens than asked for.
    """
    split = request.open_split(data)
    available, wanted = split.num_windows, request.num_windows(split)
    device = teacher.device.type
    group = windows_per_forward(request.context, device)
    return StorePlan(
        teacher=teacher.name,
        data=str(data.folder),
        teacher_fingerprint=teacher.fingerprint,
        teacher_dtype=str(teacher.dtype).removeprefix("torch."),
        tokenizer_hash=str(data.manifest["tokenizer_hash"]),
        data_hash=data.data_hash,
        split=request.split,
        context=request.context,
        vocab_size=teacher.vocab_size,
        scheme=request.scheme,
        seed=request.seed,
        split_windows=available,
        num_windows=wanted,
        order_seed=None if wanted == available else request.order_seed,
        windows_per_shard=_shard_windows(request, teacher.vocab_size, device, group),
        windows_per_forward=group,
        document_mask=request.document_mask,
    )


def _shard_windows(request: TargetRequest, vocab_size: int, device: str, group: int) -> int:
    """Windows of a shard: whole groups, within the bytes asked for and the positions of a minute or so."""
    scheme = request.scheme
    per_position = {"sampled": scheme.samples * 1.2, "full": vocab_size * 4.0}.get(scheme.estimator, scheme.k * 3.5)
    positions = min(request.shard_bytes / per_position, SHARD_TOKENS.get(device, SHARD_TOKENS["cuda"]))
    return max(1, int(positions / request.context) // group) * group


@contextmanager
def opened_for_building(folder: Path, plan: StorePlan, ranks: Ranks = ALONE) -> Iterator[StorePlan]:
    """Lock the folder and settle the plan: the one begun there, if it is of the same request.

    Raises:
        CacheError: another store was begun or built there (every difference is named).
        RunError: another process is building there, or the disk is full.
    """

    def begin() -> StorePlan:
        begun = settle_plan(folder, plan)
        if not (folder / PLAN).exists():
            write_plan(folder, begun)
        return begun

    with ranks.held(folder, f"the target store {folder}"):
        yield ranks.told(begin)


def settle_plan(folder: Path, plan: StorePlan) -> StorePlan:
    """The plan begun in a folder if it is of the same request, else the new one.

    Raises:
        CacheError: another store was begun or built there (every difference is named).
    """
    if not (folder / PLAN).exists():
        check_folder(folder)
        others = [p for p in folder.glob("*") if p.name != "data" and not p.name.startswith(".")]
        if others:  # data: the text of a run
            raise CacheError(
                f"{folder}: not empty, and no target store was begun there. Choose a new folder with --out"
            )
        return plan
    begun = read_plan(folder / PLAN)
    layout = ("teacher", "data", "windows_per_shard", "windows_per_forward")
    require_same(folder, begun, {name: value for name, value in plan.record().items() if name not in layout})
    return begun


def build_shards(
    folder: Path,
    plan: StorePlan,
    maker: AnyMaker,
    *,
    progress: Callable[[int], None] = lambda positions: None,
    say: Callable[[str], None] = lambda message: None,
    ranks: Ranks = ALONE,
) -> Manifest:
    """Make what is missing or damaged, then write the manifest; the folder is locked by the caller.

    Ranks make every so many-th shard each, the same bytes as one process would. A sharded teacher computes for all of
    them at once: who has fewer shards to make lets it read the last windows again, until all are done.

    Args:
        progress: told of positions as they are finished, those found on the disk included.
        say: told of shards that are made anew.

    Raises:
        RunError: the disk is full; finished shards are kept.
    """
    windows, group = plan.windows(maker.split), plan.windows_per_forward
    missing = []
    for number in ranks.part(range(plan.num_shards)):
        path, wanted = folder / shard_name(number), windows[plan.shard_windows(number)]
        if _intact(path, plan, wanted, say):
            progress(len(wanted) * plan.context)
        else:
            missing.append((path, wanted))
    own = sum(-(-len(wanted) // group) for _, wanted in missing)
    idle = max(ranks.gathered(own)) - own if ranks.shards else 0

    def build() -> None:
        for path, wanted in missing:
            _build_shard(path, wanted, plan, maker, progress)
        for _ in range(idle):
            maker.make(windows[-group:])

    ranks.together(build)
    return ranks.told(lambda: _conclude(folder, plan, maker.bias))


def missing_positions(folder: Path, plan: StorePlan) -> int:
    """Positions of the shards that are not there yet."""
    absent = [n for n in range(plan.num_shards) if not (folder / shard_name(n)).exists()]
    return sum(len(range(*plan.shard_windows(n).indices(plan.num_windows))) for n in absent) * plan.context


def _intact(path: Path, plan: StorePlan, wanted: np.ndarray, say: Callable[[str], None]) -> Shard | None:
    """The shard on the disk, if every byte of it is right."""
    if not path.exists():
        return None
    try:
        shard = Shard.open(path, plan.identity)
        shard.check()
    except CacheError as error:
        say(f"made anew: {str(error).split('. ')[0]}")
        return None
    if not np.array_equal(shard.windows, wanted):
        say(f"made anew: {path}: holds other windows, so it is a shard of another place in this store")
        return None
    return shard


def _build_shard(
    path: Path, windows: np.ndarray, plan: StorePlan, maker: AnyMaker, progress: Callable[[int], None]
) -> None:
    began, cpu_began = time.monotonic(), time.process_time()
    made, total = [], None
    for first in range(0, len(windows), plan.windows_per_forward):
        group = windows[first : first + plan.windows_per_forward]
        encoded, sums = maker.make(group)
        made += encoded
        total = sums if total is None else total + sums
        progress(len(group) * plan.context)
    assert total is not None
    write_shard(path, plan.identity, windows, made, total)
    _log(path, len(windows) * plan.context, time.monotonic() - began, time.process_time() - cpu_began)


def _log(path: Path, positions: int, seconds: float, cpu_seconds: float) -> None:
    line = {"shard": path.name, "positions": positions, "seconds": seconds, "cpu_seconds": cpu_seconds}
    try:
        with appending(path.parent / LOG) as stream:
            stream.write(json.dumps(line) + "\n")
    except OSError as error:
        raise disk_error(path.parent / LOG, error) from error


def _conclude(folder: Path, plan: StorePlan, bias: str) -> Manifest:
    """Write the manifest."""
    shards = [Shard.open(folder / shard_name(number), plan.identity) for number in range(plan.num_shards)]
    entries = tuple(
        ShardEntry(
            file=shard.path.name,
            windows=len(shard.windows),
            first_window=int(shard.windows[0]),
            last_window=int(shard.windows[-1]),
            bytes=shard.path.stat().st_size,
            sha256=file_sha256(shard.path),
        )
        for shard in shards
    )
    total = shards[0].sums
    for shard in shards[1:]:
        total = total + shard.sums
    count = plan.num_positions
    means = {"teacher_loss": total.loss / count, "mean_entropy": total.entropy / count, "mean_mass": total.mass / count}
    manifest = Manifest(plan=plan, shards=entries, **means, bias=bias)
    manifest.write(folder)
    return manifest


WANTED_ERROR = 0.007
"""Relative standard error of the predicted size at which the probe stops."""
MIN_WINDOWS, MAX_WINDOWS, MAX_SHARE = 32, 512, 0.05
"""The probe reads at least MIN_WINDOWS, then at most MAX_WINDOWS and MAX_SHARE of the store."""
MIN_SECONDS = 3.0
"""What is measured for less says little about time."""
_GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it modulo 1 fall into the widest gap each time (three-distance theorem)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCost:
    """Cost of a store, from a probe of real windows."""

    positions: int
    bytes: float
    bytes_error: float
    """Standard error of `bytes`, from the spread between windows."""
    seconds: float
    """Wall time of the whole build on this machine as busy as it was during the probe."""
    cpu_seconds: float
    """Processor time of the whole build, which others on the machine do not change."""
    forward_seconds: float
    """The teacher's share of `seconds`: what one student with an online teacher would spend on it."""
    read_seconds: float
    """What one student spends reading all targets from the store."""
    probe_windows: int
    probe_seconds: float

    @property
    def bytes_per_position(self) -> float:
        """Bytes of shards per position."""
        return self.bytes / self.positions

    @property
    def break_even(self) -> float | None:
        """Students from which on the store is cheaper than an online teacher; None: reading costs as much."""
        saved = self.forward_seconds - self.read_seconds
        return self.seconds / saved if saved > 0 else None

    def record(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "bytes_per_position": self.bytes_per_position, "break_even_students": self.break_even}


def predict_cost(maker: AnyMaker, plan: StorePlan, ranks: Ranks = ALONE) -> StoreCost:
    """Probe the teacher and the text of a plan: the first rank measures, the others read along."""
    began = time.perf_counter()
    windows = plan.windows(maker.split)
    group = plan.windows_per_forward
    maker.make(windows[:group])  # warms up; not measured
    sizes: list[int] = []
    seconds = cpu = forward = reading = 0.0
    most = min(len(windows), max(MIN_WINDOWS, min(MAX_WINDOWS, int(MAX_SHARE * len(windows)))))

    def is_unsure() -> bool:
        return len(sizes) < MIN_WINDOWS or _error(sizes) > WANTED_ERROR or seconds < MIN_SECONDS

    while len(sizes) < most and ranks.told(is_unsure):
        chosen = [windows[i] for i in _spread(len(sizes), group, len(windows))]
        start, cpu_start, before = time.perf_counter(), time.process_time(), maker.forward_seconds
        made, _ = maker.make(chosen)
        seconds += time.perf_counter() - start
        cpu += time.process_time() - cpu_start
        forward += maker.forward_seconds - before
        reading += _time_reading(made, plan)
        sizes += [len(block) for block in made]
    scale = plan.num_windows / len(sizes)
    shared = scale / min(ranks.world, plan.num_shards)
    overhead = plan.num_windows * INDEX_BYTES + plan.num_shards * HEADER_BYTES
    return StoreCost(
        positions=plan.num_positions,
        bytes=sum(sizes) * scale + overhead,
        bytes_error=_error(sizes) * sum(sizes) * scale,
        seconds=seconds * shared,
        cpu_seconds=cpu * scale,
        forward_seconds=forward * shared,
        read_seconds=reading * scale,
        probe_windows=len(sizes),
        probe_seconds=time.perf_counter() - began,
    )


def _spread(first: int, count: int, windows: int) -> list[int]:
    """The next `count` of a sequence of indices that covers 0 .. windows - 1 evenly however long it is."""
    return [int((index + 0.5) * _GOLDEN % 1 * windows) for index in range(first, first + count)]


def _error(sizes: list[int]) -> float:
    """Relative standard error of the mean size."""
    if len(sizes) < 2:
        return math.inf
    return float(np.std(sizes, ddof=1) / math.sqrt(len(sizes)) / np.mean(sizes))


def _time_reading(made: list[bytes], plan: StorePlan) -> float:
    began = time.perf_counter()
    for block in made:
        raw = np.frombuffer(block, dtype=np.uint8)
        if plan.scheme.estimator == "full":
            codec.decode_full(raw, plan.context).copy()
        else:
            codec.decode_targets(raw, plan.context, plan.scheme)
    return time.perf_counter() - began


TOLERANCE = 0.02
"""Nats by which a teacher's losses may differ, on average, between machines and precisions (bfloat16 included)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetComparison:
    """Stored targets against targets made anew."""

    windows: int
    identical_windows: int
    """Windows whose blocks are equal byte for byte."""
    loss_difference: float
    """Mean absolute difference of the teacher's losses, nats."""
    entropy_difference: float
    """The same of its entropies."""

    @property
    def agrees(self) -> bool:
        """Is it the same teacher on the same text?"""
        return max(self.loss_difference, self.entropy_difference) <= TOLERANCE

    @property
    def disagreement(self) -> str:
        """By how much, and what to do."""
        return (
            f"the teacher asked again differs by {self.loss_difference:.3f} nats in loss and "
            f"{self.entropy_difference:.3f} in entropy on average: its weights or the way it runs have changed. Build "
            "the store again"
        )


def ask_again(store: TargetStore, maker: AnyMaker, windows: int) -> TargetComparison:
    """Compare about `windows` windows, in groups as they were built, spread evenly over the store."""
    plan = store.manifest.plan
    covered, group = plan.windows(maker.split), plan.windows_per_forward
    # Shards are whole groups, but the last one may end within a group: so does the store.
    starts = np.arange(0, len(covered), group)
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, -(-windows // group)).round().astype(int))]
    identical, count, differences = 0, 0, np.zeros(2)
    for start in chosen:
        ids = covered[start : start + group]
        for stored, anew in zip(map(store.block, ids), maker.make(ids)[0], strict=True):
            fresh = np.frombuffer(anew, dtype=np.uint8)
            identical += bool(np.array_equal(stored, fresh))
            a, b = codec.decode_scores(stored, plan.context), codec.decode_scores(fresh, plan.context)
            differences += np.abs(a.loss - b.loss).mean(), np.abs(a.entropy - b.entropy).mean()
            count += 1
    loss, entropy = (differences / count).tolist()
    return TargetComparison(
        windows=count, identical_windows=identical, loss_difference=loss, entropy_difference=entropy
    )
