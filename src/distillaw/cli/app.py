"""The `distillaw` command: what every verb shares. Which there are is in verbs.py.

A verb is named by its import path, so that `--help` and a plan import nothing heavy. Exit codes:
0 done, 1 failed, 2 wrong usage, 130 interrupted. Answers go to stdout, progress and errors to stderr.

    distillaw --help
"""

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter

from distillaw.cli.console import plain_line, write_for_people
from distillaw.cli.typed import in_typed_words, question_from_file, remember_words, usage_error
from distillaw.cli.verbs import GROUPS, VERBS, add_verbs
from distillaw.errors import ConfigError, DistillawError, DistillawWarning, VocabularyError
from distillaw.version import __version__


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

add_verbs(app, {**GROUPS, "": {"--install-completion": VERBS["--install-completion"]}})


def run(call: Callable[[], object]) -> int:
    """Call a verb and turn what it raises into one clear line on stderr and an exit code."""
    try:
        result = call()
        sys.stdout.flush()
    except CycloptsError as error:
        return complain(usage_error(error), 2)
    except (ConfigError, VocabularyError) as error:
        return 2 if error.is_told else complain(in_typed_words(str(error)), 2)
    except BrokenPipeError:  # `distillaw ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as ended:  # the same while rich writes --help
        if isinstance(ended.__context__, BrokenPipeError):
            return 0
        raise
    except DistillawError as error:
        return 1 if error.is_told else complain(error, 1)
    except OSError as error:
        unnamed = error.filename is None and error.errno in (errno.ENOSPC, errno.EIO)
        where = "standard output cannot be written" if unnamed else error.filename
        return complain(f"{where}: {error.strerror}" if where else error, 1)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: finished work is kept; the same command continues\n")
        return 130
    except MemoryError as error:
        return complain(f"out of memory{f' ({error})' if str(error) else ''}; {_SMALLER}", 1)
    except Exception as error:
        if os.environ.get("DISTILLAW_TRACEBACK"):
            raise
        return complain(_fault(error), 1)
    return result if isinstance(result, int) else 0


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from."""
    found = [error]
    while (cause := found[-1].__cause__) is not None:
        found.append(cause)
    return found


def _fault(error: Exception) -> str:
    """A line for what nobody foresaw: what, where, and how to see the rest."""
    if any(isinstance(e, MemoryError) or any(words in str(e) for words in _UNLOADED) for e in _causes(error)):
        return f"out of memory while loading a library; {_SMALLER}"
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "distillaw" in frame.filename]
    where = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
    return (
        f"a fault of distillaw{where}: {type(error).__name__}: {error}. Please report it with this command; "
        "DISTILLAW_TRACEBACK=1 shows all of it"
    )


_UNLOADED = ("failed to map segment", "annot allocate memory", "cannot apply additional memory protection")
"""How the loader says that there is no room for a library."""
_SMALLER = "free some, raise the limit (ulimit -v), or ask for less at once"


def complain(error: object, code: int, *, keep_lines: bool | None = None) -> int:
    """Say what is wrong on stderr and give the exit code; wrong usage in one line unless told otherwise."""
    keep = code != 2 if keep_lines is None else keep_lines
    sys.stderr.write(f"distillaw: {plain_line(str(error), keep_lines=keep)}\n")
    return code


def warn_in_one_line(*, quiet: bool) -> None:
    """Show our warnings as a line of their own, without the place in the code; with --quiet not at all."""
    otherwise = warnings.showwarning

    def show(message, category, *place, **more) -> None:
        if not issubclass(category, DistillawWarning):
            otherwise(message, category, *place, **more)
        elif not quiet:
            sys.stderr.write(f"warning: {plain_line(str(message))}\n")

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
        sys.exit(complain("standard output is closed; give it a file or /dev/null", 1))
    write_for_people()
    warn_in_one_line(quiet="--quiet" in sys.argv)
    sys.exit(run(lambda: app(exit_on_error=False, result_action="return_value")))
