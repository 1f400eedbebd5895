"""Programs that a model wrote, run where they can do no harm: not in this process, not for long, not to our files.

    run_program("assert 1 + 1 == 2", limits=Limits()).verdict        # "passed"

Its own process group in an empty temporary folder, no environment, no input, a wall clock that kills the group, little
output; sandbox_child.py adds the walls that the platform has (limits, namespaces, landlock, seccomp), and `walls` says
which stood. A program passes if it ran to its end: leaving early, by sys.exit(0) or os._exit(0), does not count. What
is not prevented: a program that searches the memory of its own process for the password could claim to have ended.

What a model writes for a problem of HumanEval is completed to a program and counted as pass@k:

    pass@k = 1 - C(n - c, k) / C(n, k)         n samples of a problem, c of them correct; its mean over problems

the unbiased estimator of Chen et al. 2021, arXiv:2107.03374, Eq. 1, evaluated as a product as they do.
"""

import contextlib
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError

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
class ProgramOutcome:
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


def run_program(program: str, *, limits: Limits) -> ProgramOutcome:
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
                output, said, verdict = _watch(child, report.fileno(), limits)
            finally:
                _end(child)
    walls, _, ended = said.partition(b"\n")
    if not walls:
        verdict = "broken"
    elif not verdict and ended == password.encode():
        verdict = "passed"
    elif not verdict:
        code = child.returncode
        verdict = "failed" if code == 1 else "killed" if code < 0 or code > 128 else "exited"
    return ProgramOutcome(
        verdict=verdict,
        output=output[-2000:].decode(errors="replace"),
        walls=tuple(json.loads(walls)) if walls else (),
        seconds=time.monotonic() - began,
    )


def _start(report: int, folder: str) -> subprocess.Popen:
    command = [sys.executable, "-I", "-S", "-B", str(CHILD), str(report)]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={},
            pass_fds=(report,),
            start_new_session=True,
            bufsize=0,
        )
    finally:
        os.close(report)


def _orders(limits: Limits, password: str) -> bytes:
    paths = sysconfig.get_paths()
    system = "/usr/lib /lib /lib64 /etc/ld.so.cache /dev/null /dev/urandom /usr/share/zoneinfo".split()
    orders = {
        "seconds": math.ceil(limits.seconds) + 1,
        "memory": limits.memory_bytes,
        "file": limits.file_bytes,
        "read": sorted(filter(os.path.exists, {paths["stdlib"], paths["platstdlib"], *system})),
        "password": password,
    }
    return json.dumps(orders).encode()


def _send(child: subprocess.Popen, orders: bytes, program: str) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once; its report will be empty
        child.stdin.write(len(orders).to_bytes(8, "big") + orders)
        child.stdin.write(program.encode(errors="replace"))
        child.stdin.close()


def _watch(child: subprocess.Popen, report: int, limits: Limits) -> tuple[bytes, bytes, str]:
    """(output, report, `timeout` or `output` or nothing): until it ends, its time is up, or it says too much."""
    assert child.stdout is not None
    output, said = b"", b""
    deadline = time.monotonic() + STARTING_SECONDS + limits.seconds
    with selectors.DefaultSelector() as selector:
        for stream in (child.stdout.fileno(), report):
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return output, said, "timeout"
            for key, _ in selector.select(left):
                piece = os.read(key.fd, 1 << 14)
                if not piece:
                    selector.unregister(key.fd)
                elif key.fd == report:
                    if not said:
                        deadline = time.monotonic() + limits.seconds
                    said += piece[: 1 << 12]
                else:
                    output += piece
            if len(output) > limits.output_bytes or len(said) > 1 << 13:
                return output, said, "output"
    return output, said, ""


def _end(child: subprocess.Popen) -> None:
    """Kill its whole group, whatever is left of it, and take the first process off the table."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


LIMITS = Limits()
"""Of one program: the original harness gives 3 s; ours starts an interpreter of its own."""


def check_sample(problem: Mapping[str, str], completion: str) -> ProgramOutcome:
    """Run a completion of a problem of HumanEval.jsonl: prompt, completion, tests, and the call of the tests."""
    program = f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})\n"
    return run_program(program, limits=LIMITS)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that one of k samples of a problem passes, from n samples of which c passed; k is at most n."""
    if not 1 <= k <= samples:
        raise ConfigError(f"pass@{k} of {samples} samples: k lies between 1 and the samples of a problem")
    if samples - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - correct + 1, samples + 1)))
