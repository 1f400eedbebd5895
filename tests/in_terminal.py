"""A command in a terminal of its own: a pseudo-terminal of a given width, and what came out of it."""

import fcntl
import os
import pty
import struct
import sys
import termios


def in_terminal(*words, columns=80, **environment) -> str:
    """Everything that `distillaw WORDS` writes to a terminal, stdout and stderr alike, codes included."""
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            os.environ.pop(name, None)
        os.environ.update({"TERM": "xterm-256color"} | environment)
        command = [sys.executable, "-m", "distillaw", *map(str, words)]
        os.execve(
            sys.executable, command, os.environ
        )  # readline sets COLUMNS where os.environ does not see it
    parts = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.waitpid(child, 0)
    os.close(terminal)
    return b"".join(parts).decode().replace("\r\n", "\n")
