"""One command line after the other in this process, each judged: what a user must never see is a finding.

    python judged.py calls.json findings.jsonl      (in the folder where the commands run)

A process of its own, so that a limit on memory and a hang in C end it and not the tests.
"""

import json
import os
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

SECONDS = 30.0
"""Processor time after which a call hangs; in wall time four times that, since the machine may be busy."""
MEMORY = 12 << 30
_TIMERS = ((signal.ITIMER_PROF, signal.SIGPROF, 1), (signal.ITIMER_REAL, signal.SIGALRM, 4))
LONGEST = 1500
"""Characters of an error line."""


class TooSlowError(BaseException):
    """Not an Exception: no handler on the way may take it for a fault of its own."""


def judge(words: list[str], seconds: float = SECONDS) -> str | None:
    """What is wrong with how a command line ends; None where it ends as it should."""
    from in_process import answer

    def stop(*_) -> None:
        raise TooSlowError

    for timer, kind, limit in _TIMERS:
        signal.signal(kind, stop)
        signal.setitimer(timer, seconds * limit)
    try:
        done = answer(*words)
    except TooSlowError:
        return "hangs: " + _place(sys.exc_info()[2])
    except SystemExit as ended:
        return f"SystemExit {ended.code!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]} @ {_place(error.__traceback__)}"
    finally:
        for timer, *_ in _TIMERS:
            signal.setitimer(timer, 0)
    return _fault(done, words)


def _place(trace) -> str:
    ours = [f for f in traceback.extract_tb(trace) if "distillaw" in f.filename and "/tests/" not in f.filename]
    last = traceback.extract_tb(trace)[-1]
    near = f"{ours[-1].filename.split('distillaw/')[-1]}:{ours[-1].lineno} {ours[-1].name}" if ours else "?"
    return f"{near} ({Path(last.filename).name}:{last.lineno})"


def _fault(done, words: list[str]) -> str | None:
    errors = [line for line in done.stderr.split("\n") if line.startswith("distillaw: ")]
    if done.returncode not in (0, 1, 2):
        return f"exit code {done.returncode}"
    if "Traceback" in done.stderr or "Errno" in done.stderr or re.search(r"\.py:\d", done.stderr):
        return f"python's words: {done.stderr[-300:]}"
    if len(errors) != 1 and done.returncode == 2:
        return f"{len(errors)} errors: {done.stderr[:300]}"
    if errors and done.returncode == 2 and done.stderr.rstrip("\n").split("\n")[-1] != errors[-1]:
        return f"more than one line: {done.stderr[:300]!r}"
    if errors and max(map(len, errors)) > LONGEST:
        return f"an error of {max(map(len, errors))} characters: {errors[0][:200]}"
    if any(ord(c) < 32 and c not in "\n\t\r" for c in done.stderr):
        return f"control characters: {done.stderr[:200]!r}"
    if "--json" in words and done.returncode == 0 and "--help" not in words:
        return _bad_json(done.stdout)
    return None


def _bad_json(text: str) -> str | None:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} in --json")

    try:
        return None if json.loads(text, parse_constant=refuse)["schema_version"] == 1 else "schema_version"
    except (ValueError, KeyError, TypeError) as error:
        return f"--json: {error}: {text[:100]}"


def main(calls: Path, findings: Path) -> None:
    """Judge each call of a JSON list; findings, and how long it took, one JSON line each."""
    os.environ["DISTILLAW_TRACEBACK"] = os.environ["DISTILLAW_STRICT_JSON"] = "1"
    warnings.simplefilter("always")
    sys.stdin = open(os.devnull)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with findings.open("w") as out:
        for number, words in enumerate(json.loads(calls.read_text())):
            out.write(json.dumps({"begun": number}) + "\n")
            out.flush()
            began = time.process_time()
            fault = judge(words)
            out.write(json.dumps({"number": number, "fault": fault, "seconds": time.process_time() - began}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
