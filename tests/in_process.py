"""The command line without a process of its own: starting one, with torch, takes longer than most of what is tested."""

import contextlib
import io
from types import SimpleNamespace

from distillaw.cli.app import app, run


def answer(*words) -> SimpleNamespace:
    """`distillaw WORDS` as `subprocess.run` gives it: returncode, stdout, stderr."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = run(
            lambda: app([str(word) for word in words], exit_on_error=False, result_action="return_value")
        )
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=error.getvalue())
