"""All that was found about a machine, what is wrong with it, and which preset of `cost` and `plan` it is."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.accounting.hardware import hardware
from distillaw.doctor.machine import (
    Disk,
    Machine,
    Offline,
    Software,
    examine_disk,
    read_machine,
    read_offline,
    read_software,
)
from distillaw.quantities import format_bytes

if TYPE_CHECKING:
    from distillaw.doctor.speed import MeasuredSpeed


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
        parts = {
            "software": self.software,
            "machine": self.machine,
            "disk": self.disk,
            "offline": self.offline,
        }
        found: dict[str, object] = {name: asdict(part) for name, part in parts.items()}
        found["disk"] = found["disk"] | {"folder": str(self.disk.folder)}  # type: ignore[operator]
        return {
            "usable": self.is_usable,
            **found,
            "speed": None if self.speed is None else asdict(self.speed),
            "speed_error": self.speed_error,
            "preset": self.machine.preset,
            "mfu": self.utilisation,
            "problems": [asdict(problem) for problem in self.problems],
        }


def examine(folder: Path, *, measure: bool = True) -> Examination:
    """Look at this machine, for a few seconds.

    Args:
        folder: where runs will go.
        measure: also compute, write and learn a tokenizer; torch is imported for it.
    """
    software, machine = read_software(), read_machine()
    disk = examine_disk(folder, measure=measure)
    can_train = all(software.packages[name] for name in TO_TRAIN)
    offline = read_offline(train_tokenizer=measure and can_train)
    speed, error = _measured() if measure and can_train else (None, "")
    found = find_problems(software, machine, disk, offline, speed, error)
    return Examination(
        software=software,
        machine=machine,
        disk=disk,
        offline=offline,
        speed=speed,
        speed_error=error,
        problems=found,
    )


def find_problems(
    software: Software,
    machine: Machine,
    disk: Disk,
    offline: Offline,
    speed: "MeasuredSpeed | None",
    error: str = "",
) -> tuple[MachineProblem, ...]:
    """What is wrong with what was found, what forbids training first.

    Args:
        software: what is installed.
        machine: what computes.
        disk: of the folder of runs.
        offline: what works without a network.
        speed: as measured; None where nothing was.
        error: why measuring failed.
    """
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
