"""A command in a terminal of its own: a pseudo-terminal of a given width, and what came out of it.

The process is a fork of this one, which has the libraries loaded already.
"""

import fcntl
import os
import pty
import struct
import sys
import termios
import traceback
import warnings

from distillaw.cli.app import main


def in_terminal(*words, columns=80, **environment) -> str:
    """Everything that `distillaw WORDS` writes to a terminal, stdout and stderr alike, codes included."""
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            os.environ.pop(name, None)
        os.environ.update({"TERM": "xterm-256color"} | environment)
        _become(["distillaw", *map(str, words)])
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


def _become(command: list[str]) -> None:
    """Run a command on the streams 0, 1 and 2 and end with its exit code."""
    code = 1
    try:
        streams = [open(number, mode, encoding="utf-8", closefd=False) for number, mode in enumerate("rww")]
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.argv = command
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)  # whatever happened, this copy of the tests goes no further
