"""The command line without a process of its own: starting one, with torch, takes longer than most of what is tested."""

import contextlib
import io
from types import SimpleNamespace

from distillaw.cli.app import app, run


def answer(*words, joined: bool = False) -> SimpleNamespace:
    """`distillaw WORDS` as `subprocess.run` gives it: returncode, stdout, stderr.

    `joined`: both streams are one, in the order in which they were written, as a terminal shows them.
    """
    out = io.StringIO()
    error = out if joined else io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = run(
            lambda: app([str(word) for word in words], exit_on_error=False, result_action="return_value")
        )
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr="" if joined else error.getvalue())
