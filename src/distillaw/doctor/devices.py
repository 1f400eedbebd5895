"""Cores, memory and accelerators, asked of the system and the driver: torch need not be there for it."""

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BF16_CAPABILITY = 8.0
"""CUDA compute capability from which bfloat16 is done by the matrix units."""

# What a driver calls a device -> the preset of accounting/data/hardware.toml that means it; the first match counts.
_PRESETS = {
    r"B200": "b200", r"H200": "h200", r"H100 PCIe|H100 NVL": "h100-pcie", r"H100": "h100-sxm", r"A100.*80": "a100-80gb",
    r"L40S": "l40s", r"\bL4\b": "l4", r"\bT4\b": "t4", r"RTX 4090\b": "rtx-4090", r"RTX 3090\b": "rtx-3090",
    r"MI300X": "mi300x",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator."""

    name: str
    kind: str
    """cuda or mps."""
    memory_bytes: float | None
    has_bf16: bool | None
    preset: str | None
    """Its name in `cost --device` and `plan --device`; None where there is no preset of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What computes here."""

    processor: str
    cores: int
    """That this process may use."""
    cores_in_all: int
    load: float | None
    """Processes that wanted a core, mean of the last minute."""
    memory_bytes: float | None
    """That may be used, the limit of a container included."""
    memory_free_bytes: float | None
    devices: tuple[Device, ...]

    @property
    def preset(self) -> str | None:
        """Of what trains here: the first accelerator, or a core."""
        return self.devices[0].preset if self.devices else "cpu-core"


def read_machine() -> Machine:
    """Look at the machine."""
    limit = _container_limit()
    total, free = _memory()
    if limit is not None and total is not None:
        total = min(total, limit)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        processor=_processor(), cores=usable, cores_in_all=os.cpu_count() or usable,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None, memory_bytes=total, memory_free_bytes=free,
        devices=(*_cuda(), *_mps()),
    )  # fmt: skip


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return name[1].strip() if name else platform.machine()


def _memory() -> tuple[float | None, float | None]:
    """(in all, free without swapping), bytes."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        pages = os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in os.sysconf_names else 0
        return (float(pages * os.sysconf("SC_PAGE_SIZE")) if pages else None), None
    found = {
        name: 1024.0 * float(value)
        for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, flags=re.MULTILINE)
    }
    return found.get("MemTotal"), found.get("MemAvailable")


def _container_limit() -> float | None:
    """Bytes that the control group of this process may use; None without a limit."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return float(text) if text.isdigit() else None
    return None


def _cuda() -> list[Device]:
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return [cuda_device(line) for line in done.stdout.splitlines() if line.count(",") == 2]


def cuda_device(line: str) -> Device:
    """A device from a line of nvidia-smi: `NVIDIA H200, 143771, 9.0`, memory in MiB."""
    name, memory, capability = (part.strip() for part in line.split(","))
    numeric = re.fullmatch(r"\d+(\.\d+)?", memory)
    known = re.fullmatch(r"\d+\.\d+", capability)
    return Device(
        name=name, kind="cuda", memory_bytes=float(memory) * 2**20 if numeric else None,
        has_bf16=float(capability) >= BF16_CAPABILITY if known else None,
        preset=next((preset for pattern, preset in _PRESETS.items() if re.search(pattern, name)), None),
    )  # fmt: skip


def _mps() -> list[Device]:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return []
    return [Device(name="Apple GPU", kind="mps", memory_bytes=_memory()[0], has_bf16=True, preset=None)]
