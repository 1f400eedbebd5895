"""Where the campaign's parts run, how large, and how they measure."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from distillaw.accounting.hardware import Hardware, hardware_presets

Row = dict[str, object]
Cells = dict[str, Callable[[], Row]]
"""What a part measures, by name, in order; each is whole by itself."""


class SkippedError(Exception):
    """This cannot be measured here; its text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One device, and whether it is used in earnest."""

    device: torch.device
    is_rehearsal: bool
    corpus: str
    """Text of the larger table."""
    work: Path
    """Folder for what is too large to be a result."""
    until: float = field(default_factory=lambda: time.monotonic() + 540)
    """`time.monotonic()` at which the whole call must have ended."""

    @property
    def name(self) -> str:
        """What the device calls itself."""
        return torch.cuda.get_device_name(self.device) if self.on_gpu else f"{self.device.type}, rehearsal"

    @property
    def on_gpu(self) -> bool:
        """Whether it is one."""
        return self.device.type == "cuda"

    @property
    def memory(self) -> float:
        """Its bytes; of a CPU those of an H100, so that a rehearsal meets what a real run meets."""
        if self.on_gpu:
            return float(torch.cuda.get_device_properties(self.device).total_memory)
        return hardware_presets()["h100-sxm"].memory_bytes

    @property
    def preset(self) -> Hardware | None:
        """What accounting knows of it."""
        names = {"H200": "h200", "H100": "h100-sxm", "A100": "a100-80gb", "B200": "b200"}
        found = [preset for mark, preset in names.items() if mark in self.name]
        return hardware_presets()[found[0]] if found else None

    def measure(self, act: Callable[[], object], *, repeats: int, warm_ups: int = 1) -> Row:
        """Median wall seconds of an act, its quartiles, and bytes: held before it, and at its peak.

        The act is waited for each time. On the CPU, where torch counts no allocations, there are no bytes.
        """
        for _ in range(warm_ups):
            act()
        row: Row = {}
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            row["bytes_before"] = torch.cuda.memory_allocated(self.device)
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            act()
            if self.on_gpu:
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - began)
        if self.on_gpu:
            row["bytes_at_peak"] = torch.cuda.max_memory_allocated(self.device)
            row["bytes_reserved"] = torch.cuda.max_memory_reserved(self.device)
        low, middle, high = np.percentile(seconds, [25, 50, 75]).tolist()
        return {"seconds": middle, "seconds_quartiles": [low, high], "repeats": repeats, **row}


def versions() -> dict[str, str]:
    """Of what matters to a figure, as far as it is installed."""
    found = {"cuda": torch.version.cuda or "none"}
    for name in ("torch", "transformers", "triton", "liger-kernel", "trl", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def distance(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over the norm, in float64 on the CPU; infinite where something is not finite."""
    got, wanted = got.detach().cpu().double(), wanted.detach().cpu().double()
    return float(((got - wanted).norm() / wanted.norm().clamp(min=1e-300)).nan_to_num(nan=torch.inf))
