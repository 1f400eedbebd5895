"""`python -m distillaw` and the console script: what goes round everything, the first imports included."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C before it has begun is one line, too."""
    try:
        from distillaw.cli.app import main as command_line

        command_line()
    except MemoryError:
        sys.stderr.write(
            "distillaw: out of memory before it began; free some, or raise the limit (ulimit -v)\n"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: nothing was started\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
