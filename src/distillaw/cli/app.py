"""The `distillaw` command: what every verb shares. Which there are is in verbs.py.

A verb is named by its import path, so that `--help` and a plan import nothing heavy. Exit codes:
0 done, 1 failed, 2 wrong usage, 130 interrupted. Answers go to stdout, progress and errors to stderr.

    distillaw --help
"""

import errno
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping

from cyclopts import App, CycloptsError, Parameter

from distillaw.cli.folding import fold_in_terminal, write_whole
from distillaw.cli.plan_file import question_from_file
from distillaw.cli.typed import in_typed_words, remember_words, say_old_names
from distillaw.cli.usage import usage_error
from distillaw.cli.verbs import VERBS, add_verbs
from distillaw.errors import ConfigError, DistillawError, DistillawWarning
from distillaw.version import __version__

SCHEMA_VERSION = 1


def _shown_default(value: object) -> str | None:
    """What --help says of a default: nothing where it is nothing."""
    return None if value is None or value is False or value in ("", ()) else str(value)


app = App(
    name="distillaw",
    help="Plan, run and verify compute-optimal distillation of language models.",
    version=__version__,
    print_error=False,  # `run` below says it, in one line
    default_parameter=Parameter(
        negative_iterable=(),  # no --empty-law beside each option that repeats
        show_default=_shown_default,
    ),
    config=(remember_words, question_from_file),
    suppress_keyboard_interrupt=False,  # `run` below says what an interrupt means here
)

add_verbs(app, VERBS)


def print_json(answer: Mapping[str, object]) -> None:
    """Print one JSON object with the schema version first, at full float precision."""
    document = {"schema_version": SCHEMA_VERSION, **answer}
    write_whole(json.dumps(document, indent=2, allow_nan=False) + "\n")


def run(call: Callable[[], object]) -> int:
    """Call a verb and turn what it raises into one clear line on stderr and an exit code."""
    try:
        result = call()
        sys.stdout.flush()
        say_old_names()
    except CycloptsError as error:
        return _complain(usage_error(error), 2)
    except ConfigError as error:
        return _complain(in_typed_words(str(error)), 2)
    except BrokenPipeError:  # `distillaw ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as ended:  # the same while rich writes --help
        if isinstance(ended.__context__, BrokenPipeError):
            return 0
        raise
    except OSError as error:
        unnamed = error.filename is None and error.errno in (errno.ENOSPC, errno.EIO)
        what = OSError(f"standard output cannot be written: {error.strerror}") if unnamed else error
        return _complain(what, 1)
    except DistillawError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: finished work is kept; the same command continues\n")
        return 130
    return result if isinstance(result, int) else 0


def _complain(error: object, code: int) -> int:
    sys.stderr.write(f"distillaw: {error}\n")
    return code


def warn_in_one_line(*, quiet: bool) -> None:
    """Show our warnings as a line of their own, without the place in the code; with --quiet not at all."""
    otherwise = warnings.showwarning

    def show(message, category, *place, **more) -> None:
        if not issubclass(category, DistillawWarning):
            otherwise(message, category, *place, **more)
        elif not quiet:
            sys.stderr.write(f"warning: {message}\n")

    warnings.showwarning = show


def main() -> None:
    """Entry point of the console script.

    One thread for numpy unless the user says otherwise: the matrices of fits and reports are small, and threads cost
    more than they bring (a report takes 5 s of CPU instead of 10).
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries: progress is ours to show
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if sys.stdout is None:  # `distillaw ... >&-`
        sys.exit(_complain("standard output is closed; give it a file or /dev/null", 1))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for what it lacks
    fold_in_terminal()
    warn_in_one_line(quiet="--quiet" in sys.argv)
    sys.exit(run(lambda: app(exit_on_error=False, result_action="return_value")))
