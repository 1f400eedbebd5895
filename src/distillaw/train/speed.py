"""Tokens and FLOP per second of a run, student and teacher apart, against what the device can do.

FLOP are those of our accounting (docs/accounting.md): 3 forward passes per trained token for the student, one for the
teacher, divided among the students that share it. MFU is their rate over the rate of large matrix products measured on
the same device and threads at the start, so that it means the same everywhere.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

SIDE = 1024
"""Side of the square matrices whose product is timed."""


@dataclass(slots=True, kw_only=True)
class Speed:
    """Accumulates between two log lines."""

    student_flops: float
    """Per trained token."""
    teacher_flops: float
    """Per token it reads."""
    device: torch.device
    precision: str
    world: int = 1
    _tokens: int = 0
    _seconds: float = 0.0
    _student: float = 0.0
    _teacher: float = 0.0

    def add(self, tokens: int, seconds: float, sharing: int) -> None:
        """Count one step, whose teacher forward served `sharing` students."""
        self._tokens += tokens
        self._seconds += seconds
        self._student += tokens * self.student_flops
        self._teacher += tokens * self.teacher_flops / sharing

    def take(self) -> dict[str, object]:
        """The rates since the last call, and start anew."""
        seconds = max(self._seconds, 1e-9)
        rate = {"student": self._student / seconds, "teacher": self._teacher / seconds}
        row: dict[str, object] = {
            "tokens_per_second": self._tokens / seconds, "student_flops_per_second": rate["student"],
            "teacher_flops_per_second": rate["teacher"],
            "mfu": sum(rate.values()) / self.world / matmul_rate(self.device, self.precision),
        }  # fmt: skip
        self._tokens, self._seconds, self._student, self._teacher = 0, 0.0, 0.0, 0.0
        return row


@functools.lru_cache
def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP per second of a large matrix product here: the best of a few."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side = SIDE if device.type == "cpu" else 8 * SIDE
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    times = []
    for _ in range(4):
        began = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)


class Clock:
    """Divides the wall time of a step among the students (lanes) it was spent for."""

    def __init__(self, lanes: Sequence[object]) -> None:
        self._spent, self._now = dict.fromkeys(map(id, lanes), 0.0), time.perf_counter()

    def charge(self, lanes: Sequence[object]) -> None:
        """These lanes share what has passed since the last charge."""
        now = time.perf_counter()
        for lane in lanes:
            self._spent[id(lane)] += (now - self._now) / len(lanes)
        self._now = now

    def of(self, lane: object) -> float:
        """Seconds charged to a lane."""
        return self._spent[id(lane)]
