"""The `distillaw` command: what every verb shares. Which there are is in verbs.py.

A verb is named by its import path, so that `--help` and a plan import nothing heavy. Exit codes:
0 done, 1 failed, 2 wrong usage, 130 interrupted. Answers go to stdout, progress and errors to stderr.

    distillaw --help
"""

import errno
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from distillaw.cli.folding import fold_in_terminal, write_whole
from distillaw.cli.plan_file import question_from_file
from distillaw.cli.verbs import VERBS, add_verbs
from distillaw.errors import ConfigError, DistillawError
from distillaw.quantities import did_you_mean
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
    config=(question_from_file,),
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
    except CycloptsError as error:
        return _complain(usage_error(error), 2)
    except ConfigError as error:
        return _complain(error, 2)
    except BrokenPipeError:  # `distillaw ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
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


def usage_error(error: CycloptsError) -> str:
    """What is wrong with the words of a command line, and where to look it up."""
    words = " ".join(error.command_chain or ())
    said = str(error).strip()
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        known = [name for name in error.app or () if not name.startswith("-")]
        left = error.unused_tokens[0]
        said = f"{left!r} fits no argument{did_you_mean(left, known)}." + (
            f" Commands: {', '.join(known)}." if known else ""
        )
    return (
        f"{said.removesuffix('.')}; `{shlex.join(['distillaw', *words.split()])} --help` lists what there is"
    )


def _complain(error: object, code: int) -> int:
    sys.stderr.write(f"distillaw: {error}\n")
    return code


def main() -> None:
    """Entry point of the console script.

    One thread for numpy unless the user says otherwise: the matrices of fits and reports are small, and threads cost
    more than they bring (a report takes 5 s of CPU instead of 10).
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries: progress is ours to show
    fold_in_terminal()
    sys.exit(run(lambda: app(exit_on_error=False, result_action="return_value")))
