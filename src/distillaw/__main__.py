"""`python -m distillaw` and the console script: what goes round everything, the first imports included."""

import _thread
import os
import signal
import sys
import time


def heed_interrupts() -> None:
    """Send Ctrl-C again where it fell into a finaliser: Python prints and drops what is raised there.

    It falls there whenever a library in C, a tokenizer say, sets off the garbage collection before it comes back.
    """
    otherwise = sys.unraisablehook

    def again() -> None:
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    def dropped(what: "sys.UnraisableHookArgs") -> None:
        if what.exc_type is KeyboardInterrupt:
            _thread.start_new_thread(again, ())
        else:
            otherwise(what)

    sys.unraisablehook = dropped


def main() -> None:
    """Run the command line; Ctrl-C before it has begun is one line, too."""
    heed_interrupts()
    try:
        from distillaw.cli.app import main as command_line

        command_line()
    except MemoryError:
        sys.stderr.write("distillaw: out of memory before it began; free some, or raise the limit (ulimit -v)\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: nothing was started\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
