"""Processes of their own that need not import: forks of a server that has the libraries loaded (ranked.py).

Importing torch and transformers takes longer than most of what such a process is asked to do before it is killed.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ranked import CONTEXT

from once import run_folder


class Forked:
    """`act(*arguments)` in a process of its own, in a session of its own, as `subprocess.Popen` shows one."""

    def __init__(self, act: Callable, *arguments: object, environment: dict[str, str] | None = None) -> None:
        run_folder().mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=run_folder()))
        self._streams = [folder / "out", folder / "err"]
        variables = os.environ | (environment or {})
        self._process = CONTEXT.Process(target=_act, args=(act, arguments, self._streams, variables))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        self._process.join()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote, once it has ended."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"not ended after {timeout} s"
        out, err = (path.read_text() if path.exists() else "" for path in self._streams)
        return out, err


def command(*words: object, environment: dict[str, str] | None = None) -> Forked:
    """`distillaw WORDS`."""
    return Forked(_become, ["distillaw", *map(str, words)], environment=environment)


def _act(act: Callable, arguments: tuple, streams: list[Path], variables: dict[str, str]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(variables)
    for number, path in enumerate(streams, start=1):
        with path.open("wb") as stream:
            os.dup2(stream.fileno(), number)
    act(*arguments)


def _become(words: list[str]) -> None:
    from distillaw.cli.app import main

    sys.argv = words
    main()
