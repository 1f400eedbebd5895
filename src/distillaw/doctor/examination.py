"""Whether this machine can train: what is here, what is wrong with it, and which preset of `cost` and `plan` it is.

Asked of the system, the driver and the metadata of packages, torch need not be there for it: cores, memory and
accelerators; a folder's disk, with the speed of a write that has reached it and whether results can be replaced
atomically; versions and extras with the packages that each still lacks; what would ask for a network.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.accounting.hardware import hardware
from distillaw.data.corpus import read_documents
from distillaw.data.tokenizer import train_tokenizer
from distillaw.errors import DistillawError
from distillaw.quantities import format_bytes
from distillaw.runs.process import available_cores, installed
from distillaw.version import __version__

if TYPE_CHECKING:
    from distillaw.doctor.speed import MeasuredSpeed


BF16_CAPABILITY = 8.0
"""CUDA compute capability from which bfloat16 is done by the matrix units."""

# What a driver calls a device -> the preset of accounting/data/hardware.toml that means it; the first match counts.
_PRESETS = {
    r"B200": "b200",
    r"H200": "h200",
    r"H100 PCIe|H100 NVL": "h100-pcie",
    r"H100": "h100-sxm",
    r"A100.*80": "a100-80gb",
    r"L40S": "l40s",
    r"\bL4\b": "l4",
    r"\bT4\b": "t4",
    r"RTX 4090\b": "rtx-4090",
    r"RTX 3090\b": "rtx-3090",
    r"MI300X": "mi300x",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
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
    devices: tuple[Accelerator, ...]

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
    usable = available_cores()
    return Machine(
        processor=_processor(),
        cores=usable,
        cores_in_all=os.cpu_count() or usable,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        memory_bytes=total,
        memory_free_bytes=free,
        devices=tuple(_devices(total)),
    )


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
    rows = re.findall(r"^(\w+):\s+(\d+) kB", text, flags=re.MULTILINE)
    found = {name: 1024.0 * float(value) for name, value in rows}
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


def _devices(memory: float | None) -> list[Accelerator]:
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return [Accelerator(name="Apple GPU", kind="mps", memory_bytes=memory, has_bf16=True, preset=None)]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return [cuda_device(line) for line in done.stdout.splitlines() if line.count(",") == 2]


def cuda_device(line: str) -> Accelerator:
    """A device from a line of nvidia-smi: `NVIDIA H200, 143771, 9.0`, memory in MiB."""
    name, memory, capability = (part.strip() for part in line.split(","))
    numeric = re.fullmatch(r"\d+(\.\d+)?", memory)
    known = re.fullmatch(r"\d+\.\d+", capability)
    return Accelerator(
        name=name,
        kind="cuda",
        memory_bytes=float(memory) * 2**20 if numeric else None,
        has_bf16=float(capability) >= BF16_CAPABILITY if known else None,
        preset=next((preset for pattern, preset in _PRESETS.items() if re.search(pattern, name)), None),
    )


WRITTEN = 32_000_000
"""Bytes of the file that is written."""
SYNCS = 10
"""Small files that are written through to the disk, as every result.json is."""

NETWORK = frozenset(
    "nfs nfs4 cifs smb3 smbfs lustre gpfs beegfs ceph glusterfs afs 9p fuse.sshfs fuse.s3fs fuse.gcsfuse".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What was found in one folder."""

    folder: Path
    """As asked; where it does not exist yet, its nearest parent was looked at."""
    free_bytes: int
    file_system: str | None
    """Type, e.g. ext4 or nfs4; None where the system does not tell."""
    is_network: bool | None
    write_bytes_per_second: float | None
    """Of one large file, until it is on the disk; None where it was not measured."""
    sync_seconds: float | None
    """Median time until a small file is on the disk."""
    renames_atomically: bool
    """Whether a file can replace another by a rename, which every result here relies on."""
    error: str = ""
    """Why nothing can be written, in the system's words."""


def examine_disk(folder: Path, *, measure: bool = True) -> Disk:
    """Look at a folder; what is written is removed again.

    Args:
        measure: also write a file of WRITTEN bytes.
    """
    place = folder.absolute()
    while not place.is_dir():
        place = place.parent
    system = _file_system(place)
    speed = sync = None
    renames, error = False, "a file, not a folder" if folder.is_file() else ""
    try:
        with tempfile.TemporaryDirectory(prefix=".distillaw-doctor-", dir=place) as scratch:
            renames = _renames(Path(scratch))
            if measure:
                block = os.urandom(1_000_000)  # a disk that compresses must not win by it
                speed = WRITTEN / _write_seconds(Path(scratch, "large"), block, WRITTEN // len(block))
                small = [_write_seconds(Path(scratch, f"small-{i}"), b"x" * 4096) for i in range(SYNCS)]
                sync = statistics.median(small)
    except OSError as problem:
        error = error or problem.strerror or str(problem)
    return Disk(
        folder=folder,
        free_bytes=shutil.disk_usage(place).free,
        file_system=system,
        is_network=None if system is None else system in NETWORK,
        write_bytes_per_second=speed,
        sync_seconds=sync,
        renames_atomically=renames,
        error=error,
    )


def _renames(scratch: Path) -> bool:
    """Whether a rename puts one file in the place of another."""
    old, new = scratch / "result.json", scratch / ".result.json.tmp"
    old.write_text("old")
    new.write_text("new")
    os.replace(new, old)
    return old.read_text() == "new" and not new.exists()


def _write_seconds(file: Path, block: bytes, count: int = 1) -> float:
    """Seconds until so many blocks are on the disk."""
    began = time.perf_counter()
    with file.open("wb") as stream:
        for _ in range(count):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    return time.perf_counter() - began


def _file_system(place: Path) -> str | None:
    """Type of the file system that holds a folder, from the mounts that Linux lists."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    target, best, found = str(place.resolve()), "", None
    for line in lines:
        point, kind = line.split(" ")[1:3]
        point = point.replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, kind
    return found


SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """Whether quickstart and one's own studies need a network, and what else does."""

    switches: dict[str, str]
    """Variables that forbid the hub, where they are set."""
    corpus_bytes: int | None
    """Of the text inside the package; None where it is missing."""
    tokenizer: str
    """`trained`, `not tried` or what went wrong."""
    hub_cache: str
    cached_models: tuple[str, ...]
    """Models on the hub whose files are here already, owner/name."""

    @property
    def forbids_hub(self) -> bool:
        """Whether the hub is never asked."""
        return self.switches.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def read_offline(*, train_tokenizer: bool) -> Offline:
    """Look; with `train_tokenizer` also learn a small one from the packaged text."""
    corpus = files("distillaw.data").joinpath("corpora/sotu.parquet")
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    models = (path.name.removeprefix("models--").replace("--", "/", 1) for path in cache.glob("models--*"))
    return Offline(
        switches={name: os.environ[name] for name in SWITCHES if name in os.environ},
        corpus_bytes=len(corpus.read_bytes()) if corpus.is_file() else None,
        tokenizer=_try_tokenizer() if train_tokenizer else "not tried",
        hub_cache=str(cache),
        cached_models=tuple(sorted(models)),
    )


def _try_tokenizer() -> str:
    """Learn 300 pieces from a few documents."""
    from itertools import islice

    try:
        train_tokenizer(islice(read_documents("sotu"), 4), vocab_size=300)
    except (ImportError, OSError, DistillawError) as error:
        return f"failed: {error}"
    return "trained"


COMPUTING = ("numpy", "scipy", "torch", "transformers", "tokenizers", "safetensors", "pyarrow", "matplotlib")
NOT_FOR_USERS = ("dev", "browser")
"""Extras of those who work on this package."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """One optional part of the package."""

    name: str
    installed: dict[str, str]
    """Package -> version."""
    missing: tuple[str, ...]

    @property
    def command(self) -> str:
        """What brings it."""
        return f'pip install "distillaw[{self.name}]"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """What is installed."""

    distillaw: str
    python: str
    platform: str
    packages: dict[str, str | None]
    """Package -> version, None where it is missing."""
    blas: str
    """The library behind numpy's matrix products."""
    threads: dict[str, str]
    """Variables of the environment that limit threads, where they are set."""
    extras: tuple[Extra, ...]

    def extra(self, name: str) -> Extra | None:
        """The one of this name; None where the package's own metadata is not installed."""
        return next((extra for extra in self.extras if extra.name == name), None)


def read_software() -> Software:
    """Look at what is installed."""
    return Software(
        distillaw=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        packages=installed(*COMPUTING),
        blas=_blas(),
        threads={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        extras=_extras(),
    )


def _blas() -> str:
    import numpy as np

    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index]
    return f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()


def _extras() -> tuple[Extra, ...]:
    """From the metadata of this package: `torch>=2.13; extra == "train"`."""
    needed: dict[str, list[str]] = {}
    try:
        requirements = importlib.metadata.requires("distillaw") or []
    except importlib.metadata.PackageNotFoundError:  # run from the sources, not installed
        return ()
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra == ['\"]([a-z0-9-]+)['\"]", requirement)
        if name and extra and extra[1] not in NOT_FOR_USERS:
            needed.setdefault(extra[1], []).append(name[0])
    extras = []
    for extra, packages in needed.items():
        versions = installed(*packages)
        there = {package: found for package, found in versions.items() if found is not None}
        missing = tuple(package for package in versions if package not in there)
        extras.append(Extra(name=extra, installed=there, missing=missing))
    return tuple(extras)


FREE_BYTES = 2e9
"""A study of the size of studies/pocket.toml fits."""
MEMORY_BYTES = 1.5e9
"""Two workers of a study, of about 0.7 GB each."""
SLOW_WRITE = 20e6
"""Bytes per second."""
SLOW_SYNC = 0.1
"""Bytes per second and seconds beyond which checkpoints take a visible share of a run."""
TO_TRAIN = ("torch", "transformers", "tokenizers", "pyarrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineProblem:
    """Something that will get in the way."""

    what: str
    remedy: str
    is_fatal: bool = False
    """Nothing can be trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What `distillaw doctor` found."""

    software: Software
    machine: Machine
    disk: Disk
    offline: Offline
    speed: "MeasuredSpeed | None"
    speed_error: str
    """Why nothing could be measured, in the words of the exception."""
    problems: tuple[MachineProblem, ...]

    @property
    def is_usable(self) -> bool:
        """Whether models can be trained here."""
        return not any(problem.is_fatal for problem in self.problems)

    @property
    def utilisation(self) -> float | None:
        """Of the preset's peak, while training the small model; None where there is no preset or no measurement."""
        if self.speed is None or self.machine.preset is None:
            return None
        return self.speed.train_flop_per_second.median / hardware(self.machine.preset).peak_flop_per_second

    def to_json(self) -> dict[str, object]:
        """Everything, as plain values."""
        found = asdict(self)
        found["disk"]["folder"] = str(self.disk.folder)
        parts = ("software", "machine", "disk", "offline", "speed", "speed_error")
        return {
            "usable": self.is_usable,
            **{name: found[name] for name in parts},
            "preset": self.machine.preset,
            "mfu": self.utilisation,
            "problems": [asdict(problem) for problem in self.problems],
        }


def examine(folder: Path, *, measure: bool = True) -> Examination:
    """Look at this machine, for a few seconds."""
    software, machine = read_software(), read_machine()
    disk = examine_disk(folder, measure=measure)
    can_train = all(software.packages[name] for name in TO_TRAIN)
    offline = read_offline(train_tokenizer=measure and can_train)
    speed, error = _measured() if measure and can_train else (None, "")
    parts = {"software": software, "machine": machine, "disk": disk, "offline": offline, "speed": speed}
    problems = find_problems(**parts, error=error)  # type: ignore[arg-type]
    return Examination(**parts, speed_error=error, problems=problems)  # type: ignore[arg-type]


def find_problems(
    software: Software, machine: Machine, disk: Disk, offline: Offline, speed: "MeasuredSpeed | None", error: str = ""
) -> tuple[MachineProblem, ...]:
    """What is wrong with what was found, what forbids training first; `error`: why measuring failed."""
    found = (
        *_software_problems(software),
        *_machine_problems(software, machine, speed, error),
        *_disk_problems(disk),
        *_offline_problems(offline),
    )
    return tuple(sorted(found, key=lambda problem: not problem.is_fatal))


def _measured() -> "tuple[MeasuredSpeed | None, str]":
    """The speed, or what went wrong: a broken driver or library must not keep the rest from being said."""
    try:
        from distillaw.doctor.speed import measure_speed

        return measure_speed(), ""
    except (ImportError, OSError, RuntimeError) as error:
        return None, f"{type(error).__name__}: {error}"


def _software_problems(software: Software) -> Iterator[MachineProblem]:
    if missing := [name for name in TO_TRAIN if software.packages[name] is None]:
        yield MachineProblem(
            what=f"{', '.join(missing)} missing: plans, fits and costs work, training does not",
            remedy='pip install "distillaw[train]" (for CPUs torch first, from '
            "https://download.pytorch.org/whl/cpu: the usual build brings gigabytes of CUDA)",
            is_fatal=True,
        )
    report = software.extra("report")
    if report is not None and report.missing:
        yield MachineProblem(
            what=f"{', '.join(report.missing)} missing: no reports, figures and studies that end in one",
            remedy=report.command,
        )
    if not software.extras:
        yield MachineProblem(
            what="the package's own metadata is not installed, so extras are not known",
            remedy="pip install -e . in the folder of the sources",
        )


def _machine_problems(
    software: Software, machine: Machine, speed: "MeasuredSpeed | None", error: str
) -> Iterator[MachineProblem]:
    if error:
        yield MachineProblem(
            what=f"computing failed: {error}",
            remedy="reinstall torch for this machine (https://pytorch.org); python -c 'import torch' shows if it loads",
            is_fatal=True,
        )
    if speed is not None and not speed.is_finite:
        yield MachineProblem(
            what=f"the loss of a small model is not a number on {speed.device}",
            remedy="train on the CPU (CUDA_VISIBLE_DEVICES= distillaw ...) and see to driver and torch build",
            is_fatal=True,
        )
    if machine.devices and machine.devices[0].kind == "cuda":
        cpu_build = "+cpu" in (software.packages["torch"] or "")
        if cpu_build or (speed is not None and speed.device == "cpu"):
            yield MachineProblem(
                what=f"{machine.devices[0].name} is here, and torch {software.packages['torch']} does not use it",
                remedy="install the CUDA build of torch (https://pytorch.org), or unset CUDA_VISIBLE_DEVICES",
            )
    if machine.memory_bytes is not None and machine.memory_bytes < MEMORY_BYTES:
        yield MachineProblem(
            what=f"{format_bytes(machine.memory_bytes)} of memory: a worker of a study takes about 0.7 GB",
            remedy="--workers 1 and small batches, or a larger machine",
        )
    if machine.load is not None and machine.load > machine.cores + 0.5:
        yield MachineProblem(
            what=f"the machine is busy: {machine.load:.1f} processes for {machine.cores} cores in the last minute",
            remedy="measured speeds are lower than on a quiet machine; ask again then",
        )


def _disk_problems(disk: Disk) -> Iterator[MachineProblem]:
    if disk.error:
        yield MachineProblem(
            what=f"nothing can be written for {disk.folder}: {disk.error}",
            remedy="another folder: distillaw doctor --out DIR, and the same --out for runs",
            is_fatal=True,
        )
        return
    if not disk.renames_atomically:
        yield MachineProblem(
            what=f"files cannot be replaced by a rename in {disk.folder}: a killed run could leave half a result",
            remedy="a local folder for --out",
            is_fatal=True,
        )
    if disk.free_bytes < FREE_BYTES:
        yield MachineProblem(
            what=f"{format_bytes(disk.free_bytes)} free for {disk.folder}",
            remedy="`distillaw study show` says what a study takes; make room, or give another --out",
        )
    slow = disk.write_bytes_per_second is not None and disk.write_bytes_per_second < SLOW_WRITE
    if slow or (disk.sync_seconds is not None and disk.sync_seconds > SLOW_SYNC):
        yield MachineProblem(
            what=f"the disk of {disk.folder} is slow: {format_bytes(disk.write_bytes_per_second or 0.0)}/s, "
            f"{disk.sync_seconds or 0.0:.2f} s for a small file",
            remedy="--out on a local disk, copied when the study is done",
        )


def _offline_problems(offline: Offline) -> Iterator[MachineProblem]:
    if offline.corpus_bytes is None:
        yield MachineProblem(
            what="the text inside the package is missing: studies/quickstart.toml has none to train on",
            remedy="reinstall distillaw, or give a text of your own: --corpus FILE",
        )
    if offline.tokenizer.startswith("failed"):
        yield MachineProblem(
            what=f"no tokenizer could be learnt ({offline.tokenizer})",
            remedy='pip install --upgrade "distillaw[train]"',
            is_fatal=True,
        )
