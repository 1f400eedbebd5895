"""Standard output for tables: wide enough in pipes that they are not folded."""

import sys

from rich.console import Console


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """A reader that has seen enough is no failure (rich would exit with 1): `app.run` ends as after print."""
        raise BrokenPipeError


def console(*, soft_wrap: bool = False) -> Console:
    """A console on standard output; `soft_wrap` leaves long lines to the terminal."""
    return _Output(width=None if sys.stdout.isatty() else 140, highlight=False, soft_wrap=soft_wrap)
