"""Who works on a folder: one process at a time, on one machine or on several that share a disk.

    .lock        flock, where the file system has it: the kernel drops it when its process dies
    .lock.json   who: host, pid, since when. Made with O_EXCL, which NFS honours; touched while its owner lives

A record that a dead process left is put aside. On this machine the process table tells who is dead; for another one the
record is watched for a while, by our own monotonic clock: an owner that does not touch it is gone. No two clocks are
ever compared, so a clock that jumps changes nothing.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distillaw.errors import RunError
from distillaw.runs.files import disk_error
from distillaw.runs.places import claim_folder, create, sweep, temporary, touch
from distillaw.runs.process import start_of, this_machine

LOCK = ".lock"
"""Of a folder."""
BEAT_SECONDS = 2.0
"""How often an owner touches its record, and sees whether it is still its own."""
WATCH_SECONDS = 30.0
"""How long a record of another machine is watched before its owner is taken for dead."""
GLANCE_SECONDS = 3 * BEAT_SECONDS
"""How long it is watched by who only wants to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process as its record names it."""

    host: str
    pid: int
    since: str
    """UTC, by that machine's clock; for people only."""
    machine: str = ""
    """Boot and process namespace: where `pid` means something."""
    started: str = ""
    """When the kernel started the process, in ticks since the boot: tells it from a later one of the same pid."""
    token: str = ""

    def __str__(self) -> str:
        """Who holds it, in words."""
        return f"pid {self.pid} on {self.host}, since {self.since}"


class Claim:
    """A record of ours, touched by a thread until it is released or lost."""

    def __init__(self, record: Path, holder: Holder, what: str) -> None:
        self.is_lost = False
        """Whether another process took it (this one was silent for long), or it was deleted."""
        self._record, self._holder, self._what = record, holder, what
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """Tells this hold from every other one."""
        return self._holder.token

    def check(self) -> None:
        """Nothing, as long as it is ours.

        Raises:
            RunError: it is lost; to go on would be to work against another process.
        """
        if self.is_lost:
            now = read_holder(self._record)
            raise RunError(
                f"{self._what} is no longer ours: {self._record.name} "
                + (f"now names {now}" if now else "is gone")
                + ". This process was silent too long (suspended, or its disk did not answer) or the file was deleted; "
                "it stops here, checkpoints are kept"
            )

    def release(self) -> None:
        """Stop touching it, and remove it if it is still ours."""
        self._released.set()
        self._thread.join()
        if self._is_ours():
            self._record.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        holder = read_holder(self._record)
        return holder is not None and holder.token == self._holder.token

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                self.is_lost = not self._is_ours()
                if self.is_lost:
                    return
                os.utime(self._record)
            except FileNotFoundError:
                continue  # the next look decides
            except OSError:
                continue  # the disk does not answer: try again


class HolderWatch:
    """Whether another process still has what it held; for one that works only as long as that is so."""

    def __init__(self, record: Path, token: str) -> None:
        """Look from now on at a record that should carry a token (`Claim.token`)."""
        self._record, self._token = record, token
        self._looked = self._moved = -float("inf")
        self._stamp: int | None = None
        self._is_over = False

    def is_over(self) -> bool:
        """Whether the record is gone, another's, or its owner dead; as of some seconds ago."""
        now = time.monotonic()
        if not self._is_over and now - self._looked > BEAT_SECONDS:
            self._looked, holder = now, read_holder(self._record)
            if holder is None or holder.token:  # one that cannot be read just now says nothing
                self._is_over = holder is None or holder.token != self._token or self._is_dead(holder, now)
        return self._is_over

    def _is_dead(self, holder: Holder, now: float) -> bool:
        if holder.machine == this_machine():
            return start_of(holder.pid) != holder.started
        if (stamp := _stamp(self._record)) != self._stamp:
            self._stamp, self._moved = stamp, now
        return now - self._moved > WATCH_SECONDS


@contextlib.contextmanager
def held(folder: Path, what: str, say: Callable[[str], None] = lambda message: None) -> Iterator[Claim]:
    """Make a folder ours, hold it for the duration, and clear away what killed calls left unfinished in it.

    Raises:
        ConfigError: the folder holds something else; nothing has been written.
        RunError: another process holds it, or the folder cannot be written.
    """
    claim_folder(folder)
    with locked(folder / LOCK, what, say) as claim:
        sweep(folder)
        yield claim


@contextlib.contextmanager
def locked(path: Path, what: str, say: Callable[[str], None] = lambda message: None) -> Iterator[Claim]:
    """Hold a folder for the duration, against processes of this machine and of others that share the disk.

    Args:
        path: the lock file; its record is `path` with `.json` added.
        say: told when a silent process of another machine is waited for.

    Raises:
        RunError: another process holds it, or the folder cannot be written.
    """
    record = record_of(path)
    try:
        touch(path)
    except OSError as error:
        raise RunError(
            f"{path.parent} cannot be used as a folder ({error.strerror}); choose another one with --out"
        ) from error
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refusal(what, read_holder(record)) from None
        except OSError:
            pass  # a file system without flock: the record alone decides
        claim = make_claim(record, what, say)
        try:
            yield claim
        finally:
            claim.release()


def make_claim(record: Path, what: str, say: Callable[[str], None] = lambda message: None) -> Claim:
    """Put our record there; one that a dead process left is put aside.

    Raises:
        RunError: a living process has its record there, or the disk is full.
    """
    me = _this_process()
    while not _create(record, me):
        holder = read_holder(record)
        if holder is None:
            continue  # it was removed between two looks
        if holder.machine != this_machine():
            say(f"{what} was held by {holder}; watching for {WATCH_SECONDS:g} s whether that process still lives")
        if is_alive(record, holder):
            raise _refusal(what, holder)
        if _is_foreign(record):
            raise RunError(f"{record}: holds something else than who works on {what}; move it away")
        _put_aside(record, holder, what)
    return Claim(record, me, what)


def record_of(path: Path) -> Path:
    """The record beside a lock file."""
    return path.with_name(path.name + ".json")


def read_holder(record: Path) -> Holder | None:
    """Who a record names; None if there is none. One that stays unreadable names nobody."""
    for _ in range(20):
        try:
            return Holder(**json.loads(record.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, OSError):  # being written just now
            time.sleep(0.05)
    return Holder(host="unknown", pid=0, since="unknown", machine=this_machine())


def is_alive(record: Path, holder: Holder, *, seconds: float = WATCH_SECONDS) -> bool:
    """Whether the process that a record names still lives.

    Args:
        seconds: how long to watch one of another machine.
    """
    if holder.machine == this_machine():
        return holder.pid > 0 and start_of(holder.pid) == holder.started
    first, deadline = _stamp(record), time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if _stamp(record) != first:
            return _stamp(record) is not None
    return False


def _create(record: Path, holder: Holder) -> bool:
    """Make the record; False if there is one."""
    try:
        create(record, json.dumps(asdict(holder)).encode())
    except FileExistsError:
        return False
    except OSError as error:
        raise disk_error(record, error) from error
    return True


def _is_foreign(record: Path) -> bool:
    """Whether it never was a record; one that a kill cut short begins like one, or is empty."""
    beginning = b'{"host"'
    with contextlib.suppress(OSError), record.open("rb") as stream:
        found = stream.read(len(beginning))
        return not beginning.startswith(found)
    return False


def _put_aside(record: Path, dead: Holder, what: str) -> None:
    """Remove a dead process's record; another process that did so first, and made its own, keeps it."""
    aside = temporary(record.parent)
    try:
        os.replace(record, aside)
    except FileNotFoundError:
        return
    taken = read_holder(aside)
    if taken is not None and taken.token != dead.token:
        os.replace(aside, record)
        raise _refusal(what, taken)
    aside.unlink(missing_ok=True)


def _refusal(what: str, holder: Holder | None) -> RunError:
    return RunError(f"{what} is being worked on by another process ({holder or 'unknown'}); wait for it or stop it")


def _stamp(record: Path) -> int | None:
    """When it was last touched; opened anew, so that NFS asks the server."""
    try:
        with record.open("rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except OSError:
        return None


def _this_process() -> Holder:
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=this_machine(),
        started=start_of(os.getpid()),
        token=secrets.token_hex(8),
    )


LATE_SECONDS = 120.0
"""How long a file that is known to exist is waited for; NFS keeps folders for a minute unless told otherwise."""


def wait_for_files(
    files: Sequence[Path], *, seconds: float = LATE_SECONDS, given_up: threading.Event | None = None
) -> list[Path]:
    """Wait until files are visible here; returns those that are still not after `seconds`, or when it is given up."""
    deadline, given_up = time.monotonic() + seconds, given_up or threading.Event()
    late = [file for file in files if not is_visible(file)]
    while late and time.monotonic() < deadline and not given_up.wait(0.1):
        late = [file for file in late if not is_visible(file)]
    return late


def is_visible(file: Path) -> bool:
    """Whether a file is there; the folder is listed anew, so that NFS asks the server."""
    if file.exists():
        return True
    with contextlib.suppress(OSError):
        return file.name in os.listdir(file.parent) and file.exists()
    return False
