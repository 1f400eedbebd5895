"""JSON objects between the scheduler and its workers: a pair of sockets for a child, TCP for another machine.

A worker far away calls the scheduler back; both prove that they can read the study's key file (HMAC, from the standard
library's multiprocessing.connection), and nothing that is not JSON is ever read. A connection that ends is how either
side learns that the other is gone.
"""

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Mapping
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

from distillaw.errors import RunError
from distillaw.runs.places import create, remove_file

KEY_FILE = "key"
MAX_MESSAGE = 1 << 26
GREETING_SECONDS = 30.0


def send(connection: Connection, message: Mapping[str, object]) -> None:
    """Send one object.

    Raises:
        OSError: the other side is gone.
    """
    connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection) -> dict[str, Any] | None:
    """The next object, waited for; None if the other side is gone."""
    try:
        return json.loads(connection.recv_bytes(MAX_MESSAGE))
    except (EOFError, OSError, ValueError):
        return None


def call(address: str, key_file: Path) -> Connection:
    """Connect a worker to its scheduler.

    Args:
        address: `fd:N`, an inherited socket, or `tcp:PORT:HOST,HOST`, hosts tried in turn.
        key_file: the study's key.

    Raises:
        OSError: nobody answers: the scheduler is gone, or cannot be reached from here.
    """
    kind, _, rest = address.partition(":")
    if kind == "fd":
        return Connection(int(rest))
    port, _, hosts = rest.partition(":")
    error = OSError(f"no host in {address}")
    for host in hosts.split(","):
        try:
            connection = _to_connection(socket.create_connection((host, int(port)), timeout=GREETING_SECONDS))
        except OSError as refused:
            error = refused
            continue
        key = key_file.read_bytes()
        try:
            answer_challenge(connection, key)
            deliver_challenge(connection, key)
        except (AuthenticationError, EOFError) as refused:
            raise OSError(
                f"the scheduler at {host}:{port} has another key: it is not this study's"
            ) from refused
        return connection
    raise OSError(f"no scheduler answers at {hosts}, port {port} ({error})")


def pair() -> tuple[Connection, socket.socket]:
    """Two connected ends: ours, and the socket that a child inherits."""
    here, there = socket.socketpair()
    return Connection(here.detach()), there


class Reception:
    """Where workers of other machines call: a port, a key that only this user can read, and who has called."""

    def __init__(self, folder: Path, host: str = "") -> None:
        """Listen.

        Args:
            folder: where the key goes; workers read it there.
            host: the name or address under which workers reach this machine; empty: its own name and address.
        """
        self._key = secrets.token_bytes(32)
        self._key_file = folder / KEY_FILE
        _write_key(self._key_file, self._key)
        self._server = socket.create_server(("", 0), backlog=128)
        self._called: dict[str, tuple[Connection, str]] = {}
        hosts = [host] if host else [socket.gethostname(), *_own_address()]
        self.address = f"tcp:{self._server.getsockname()[1]}:{','.join(hosts)}"
        threading.Thread(target=self._listen, daemon=True).start()

    def take(self, name: str) -> tuple[Connection, str] | None:
        """The connection of a worker that has called, once, and where it says that it runs."""
        return self._called.pop(name, None)

    def close(self) -> None:
        """Listen no more, and take the key away."""
        with contextlib.suppress(OSError):
            remove_file(self._key_file, known=True)
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._server.close()

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._greet, args=(caller,), daemon=True).start()

    def _greet(self, caller: socket.socket) -> None:
        """Prove who is who; a stranger is let go."""
        connection = _to_connection(caller)
        try:
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
        except (AuthenticationError, EOFError, OSError):
            connection.close()
            return
        hello = receive(connection)
        if hello is None or hello.get("event") != "hello":
            connection.close()
            return
        self._called[str(hello["name"])] = connection, str(hello.get("place", ""))


def _to_connection(end: socket.socket) -> Connection:
    """A TCP socket as a connection that notices within a minute when the other machine is gone."""
    end.settimeout(None)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Connection(end.detach())


def _own_address() -> list[str]:
    """The address of the interface that leads outside; no packet is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # an address for documentation (RFC 5737)
        return [probe.getsockname()[0]]
    return []


def _write_key(file: Path, key: bytes) -> None:
    try:
        remove_file(file)
        create(file, key, mode=0o600)
    except OSError as error:
        raise RunError(
            f"{file} cannot be written ({error.strerror}); workers need it to call back"
        ) from error
