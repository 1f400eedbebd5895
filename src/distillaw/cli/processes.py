"""The processes of `--processes`: torchrun on this machine, which ends as the command does and says no more than it.

torchrun alone prints its own trace below what a process had to say, and exits with 1 whatever that was.
"""

import logging
import signal
import sys


def main() -> None:
    """NUMBER ARGUMENTS...: `distillaw ARGUMENTS...` on so many processes."""
    logging.disable(logging.ERROR)  # what torchrun would log of a failure is said here
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    number, *arguments = sys.argv[1:]
    launcher = ["--standalone", f"--nproc-per-node={number}", "-m", "distillaw"]
    try:
        run(parse_args([*launcher, *arguments]))
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as failed:
        rank, first = failed.get_first_failure()
        if first.exitcode > 0:
            sys.exit(first.exitcode)
        sys.stderr.write(
            f"distillaw: process {rank} of {number} was killed by {signal.Signals(-first.exitcode).name}. What is "
            "saved is intact, and the same command continues\n"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
