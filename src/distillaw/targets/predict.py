"""What a store will cost before it is built: bytes, time, and how many students it takes to pay.

Some windows, spread evenly over those covered, go through the real teacher and the real encoding. Windows are added
until the size is known to `WANTED_ERROR`; each new one falls into the widest gap (golden-ratio sequence).
"""

import math
import time
from dataclasses import asdict, dataclass

import numpy as np

from distillaw.targets import blocks
from distillaw.targets.make import TargetMaker
from distillaw.targets.manifest import StorePlan
from distillaw.targets.shard import HEADER_BYTES, INDEX_BYTES

WANTED_ERROR = 0.007
"""Relative standard error of the predicted size at which the probe stops."""
MIN_WINDOWS, MAX_WINDOWS, MAX_SHARE = 32, 512, 0.05
"""The probe reads at least MIN_WINDOWS, then at most MAX_WINDOWS and MAX_SHARE of the store."""
MIN_SECONDS = 3.0
"""What is measured for less says little about time."""
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
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
        return {
            **asdict(self),
            "bytes_per_position": self.bytes_per_position,
            "break_even_students": self.break_even,
        }


def predict(maker: TargetMaker, plan: StorePlan) -> Prediction:
    """Probe the teacher and the text of a plan."""
    began = time.perf_counter()
    windows = plan.windows(maker.split)
    group = plan.windows_per_forward
    maker.make(windows[:group])  # warms up; not measured
    sizes: list[int] = []
    seconds = cpu = forward = reading = 0.0
    most = min(len(windows), max(MIN_WINDOWS, min(MAX_WINDOWS, int(MAX_SHARE * len(windows)))))
    while len(sizes) < most and (
        len(sizes) < MIN_WINDOWS or _error(sizes) > WANTED_ERROR or seconds < MIN_SECONDS
    ):
        chosen = [windows[i] for i in _spread(len(sizes), group, len(windows))]
        start, cpu_start, before = time.perf_counter(), time.process_time(), maker.forward_seconds
        made, _ = maker.make(chosen)
        seconds += time.perf_counter() - start
        cpu += time.process_time() - cpu_start
        forward += maker.forward_seconds - before
        reading += _time_reading(made, plan)
        sizes += [len(block) for block in made]
    scale = plan.num_windows / len(sizes)
    overhead = plan.num_windows * INDEX_BYTES + plan.num_shards * HEADER_BYTES
    return Prediction(
        positions=plan.num_positions,
        bytes=sum(sizes) * scale + overhead,
        bytes_error=_error(sizes) * sum(sizes) * scale,
        seconds=seconds * scale,
        cpu_seconds=cpu * scale,
        forward_seconds=forward * scale,
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
            blocks.decode_full(raw, plan.context).copy()
        else:
            blocks.decode_targets(raw, plan.context, plan.scheme)
    return time.perf_counter() - began
