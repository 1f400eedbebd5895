"""A folder's disk: room, speed of a write that has reached the disk, and whether results can be replaced atomically."""

import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

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
        folder: where runs will go.
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
                speed, sync = _write_speed(Path(scratch)), _sync_seconds(Path(scratch))
    except OSError as problem:
        error = error or problem.strerror or str(problem)
    return Disk(
        folder=folder, free_bytes=shutil.disk_usage(place).free, file_system=system,
        is_network=None if system is None else system in NETWORK, write_bytes_per_second=speed, sync_seconds=sync,
        renames_atomically=renames, error=error,
    )  # fmt: skip


def _renames(scratch: Path) -> bool:
    """Whether a rename puts one file in the place of another."""
    old, new = scratch / "result.json", scratch / ".result.json.tmp"
    old.write_text("old")
    new.write_text("new")
    os.replace(new, old)
    return old.read_text() == "new" and not new.exists()


def _write_speed(scratch: Path) -> float:
    block = os.urandom(1_000_000)  # a disk that compresses must not win by it
    began = time.perf_counter()
    with (scratch / "large").open("wb") as stream:
        for _ in range(WRITTEN // len(block)):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    return WRITTEN / (time.perf_counter() - began)


def _sync_seconds(scratch: Path) -> float:
    seconds = []
    for number in range(SYNCS):
        began = time.perf_counter()
        with (scratch / f"small-{number}").open("wb") as stream:
            stream.write(b"x" * 4096)
            stream.flush()
            os.fsync(stream.fileno())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


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
