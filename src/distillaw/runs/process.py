"""Which process: a name that no later process of the same number has, whether its owner lives, what it can import."""

import contextlib
import functools
import hashlib
import os
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from distillaw.errors import ConfigError


def this_machine() -> str:
    """Names the boot and the process namespace (a container has its own); the host where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


LEAST_ADDRESSES = 2.25 * 2**30
"""Bytes that torch, tables and tokenizers reserve before anything is trained: under `ulimit -v` they panic in threads
of their own from about 2.1e9 down, each in its own words."""


def check_addresses() -> None:
    """Refuse to load them where the limit of the address space is too low.

    Raises:
        ConfigError: the limit, and what is needed.
    """
    try:
        import resource
    except ImportError:  # a system without limits
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESSES:
        raise ConfigError(
            f"the address space of a process is limited to {limit / 2**30:.2g} GiB (ulimit -v); training reserves "
            f"{LEAST_ADDRESSES / 2**30:.3g} GiB and more: raise the limit"
        )


def start_of(pid: int) -> str:
    """When a process of this machine started, in ticks since the boot; empty if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:  # a system without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "running"


def writer() -> str:
    """This process, as a part of a file's name."""
    return f"{os.getpid()}-{start_of(os.getpid())}-{_short_machine()}"


def is_dead(name: str) -> bool:
    """Whether a process that `writer` named has ended; False where another machine alone can tell."""
    pid, start, machine = name.split("-")
    return machine == _short_machine() and start_of(int(pid)) != start


@functools.cache
def _short_machine() -> str:
    return hashlib.sha256(this_machine().encode()).hexdigest()[:8]


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: respects taskset and containers
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed(*packages: str) -> dict[str, str | None]:
    """Package -> its version here; None where it is not installed."""
    found: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
