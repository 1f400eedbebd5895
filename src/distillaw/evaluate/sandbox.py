"""A program that a model wrote, run where it can do no harm: not in this process, not for long, not to our files.

    run_program("assert 1 + 1 == 2", limits=Limits()).verdict        # "passed"

Its own process group in an empty temporary folder, no environment, no input, a wall clock that kills the group, little
output; sandbox_child.py adds the walls that the platform has (limits, namespaces, landlock, seccomp), and `walls` says
which stood. A program passes if it ran to its end: leaving early, by sys.exit(0) or os._exit(0), does not count. What
is not prevented: a program that searches the memory of its own process for the password could claim to have ended.
"""

import json
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

CHILD = Path(__file__).with_name("sandbox_child.py")
STARTING_SECONDS = 10.0
"""For the interpreter to start on a busy machine; the program's own clock begins when its walls stand."""
ALL_WALLS = ("limits", "network", "processes", "disk", "files", "calls")
"""What sandbox_child.py can put around a program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use."""

    seconds: float = 5.0
    """Wall clock; CPU time, of which starting costs some, is limited to the second whole second after."""
    memory_bytes: int = 1 << 30
    """Address space."""
    file_bytes: int = 1 << 20
    """Of each file it writes."""
    output_bytes: int = 1 << 16
    """Of standard output and error together; more ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended."""

    verdict: str
    """passed, failed, exited (ended early by itself), timeout, output, killed (by a limit), broken (never started)."""
    output: str
    """The end of what it said."""
    walls: tuple[str, ...]
    """Of ALL_WALLS, those that stood."""
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether it ran to its end."""
        return self.verdict == "passed"


def run_program(program: str, *, limits: Limits) -> Outcome:
    """Run Python source in a sandboxed process.

    Args:
        program: source; an exception, an early exit or a limit fails it.
        limits: what it may use.
    """
    password = secrets.token_hex(16)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="distillaw-sandbox-") as folder:
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as report:
            child = _start(writing, folder)
            try:
                _send(child, _orders(limits, password), program)
                watched = _watch(child, report.fileno(), limits)
            finally:
                _end(child)
    walls, _, said = watched.report.partition(b"\n")
    return Outcome(
        verdict=_verdict(watched, said == password.encode(), child.returncode, bool(walls)),
        output=watched.output[-2000:].decode(errors="replace"),
        walls=tuple(json.loads(walls)) if walls else (), seconds=time.monotonic() - began,
    )  # fmt: skip


@dataclass(slots=True)
class _Watched:
    output: bytes = b""
    report: bytes = b""
    too_late: bool = False
    too_much: bool = False


def _start(report: int, folder: str) -> subprocess.Popen:
    command = [sys.executable, "-I", "-S", "-B", str(CHILD), str(report)]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder, env={},
            pass_fds=(report,), start_new_session=True, bufsize=0,
        )  # fmt: skip
    finally:
        os.close(report)


def _orders(limits: Limits, password: str) -> bytes:
    paths = sysconfig.get_paths()
    readable = [paths["stdlib"], paths["platstdlib"], "/usr/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null",
                "/dev/urandom", "/usr/share/zoneinfo"]  # fmt: skip
    return json.dumps({
        "seconds": math.ceil(limits.seconds) + 1, "memory": limits.memory_bytes, "file": limits.file_bytes,
        "read": sorted({each for each in readable if os.path.exists(each)}), "password": password,
    }).encode()  # fmt: skip


def _send(child: subprocess.Popen, orders: bytes, program: str) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(len(orders).to_bytes(8, "big") + orders)
        child.stdin.write(program.encode(errors="replace"))
        child.stdin.close()
    except BrokenPipeError:
        pass  # it died at once; its report will be empty


def _watch(child: subprocess.Popen, report: int, limits: Limits) -> _Watched:
    """Read what it says until it ends, says too much, or its time is up."""
    assert child.stdout is not None
    seen = _Watched()
    deadline = time.monotonic() + STARTING_SECONDS + limits.seconds
    with selectors.DefaultSelector() as selector:
        for stream in (child.stdout.fileno(), report):
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and not seen.too_much:
            left = deadline - time.monotonic()
            if left <= 0:
                seen.too_late = True
                break
            for key, _ in selector.select(left):
                piece = os.read(key.fd, 1 << 14)
                if not piece:
                    selector.unregister(key.fd)
                elif key.fd == report:
                    if not seen.report:
                        deadline = time.monotonic() + limits.seconds
                    seen.report += piece[: 1 << 12]
                else:
                    seen.output += piece
            seen.too_much = len(seen.output) > limits.output_bytes or len(seen.report) > 1 << 13
    return seen


def _end(child: subprocess.Popen) -> None:
    """Kill its whole group, whatever is left of it, and take the first process off the table."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _verdict(seen: _Watched, ran_to_its_end: bool, code: int, started: bool) -> str:
    if not started:
        return "broken"
    if seen.too_late:
        return "timeout"
    if seen.too_much:
        return "output"
    if ran_to_its_end:
        return "passed"
    if code == 1:
        return "failed"
    return "killed" if code < 0 or code > 128 else "exited"
