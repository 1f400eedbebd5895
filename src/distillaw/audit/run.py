"""One entry for every kind of target."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from distillaw.audit.adapters import ADAPTERS, merged
from distillaw.audit.contract import Contract, load
from distillaw.audit.findings import Findings, phases_to
from distillaw.audit.losses import audit_loss
from distillaw.errors import ConfigError


class _TimeIsUp(BaseException):
    """Raised inside a target, whose own `except Exception` lets it pass."""


@contextlib.contextmanager
def _limited(target: str, seconds: float, at: list[str]) -> Iterator[None]:
    """End what runs longer, from the main thread of systems that have alarms.

    Raises:
        ConfigError: the time is up; what the audit was at.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)  # again, for targets that swallow the first
    try:
        yield
    except _TimeIsUp:
        raise ConfigError(
            f"audit {target}: not done after {seconds:g} s; it was at: {at[-1]}. Either it never ends there or "
            "it is slow: --timeout SECONDS gives it longer"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def audit_target(
    target: str, contract: Contract | None, *, timeout: float = 600.0, told: Callable[[str], None] = lambda phase: None
) -> Findings:
    """Audit what a command line names.

    Args:
        target: file.py:name, module:name, a script, or an adapter.
        contract: checked; None for adapters, which declare what their documentation says.
        timeout: seconds of wall clock that it may take.
        told: takes what the audit is at.

    Raises:
        ConfigError: no such target, no contract for it, it cannot be called as declared, or it takes too long.
    """
    if not 0 < timeout < float("inf"):
        raise ConfigError(f"audit: timeout = {timeout:g} s must be above 0")
    at = ["importing it"]

    def tells(phase: str) -> None:
        at.append(phase)
        told(phase)

    started, threads = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(1)  # tiny models
    try:
        # what a target prints is no part of the answer
        with phases_to(tells), _limited(target, timeout, at), contextlib.redirect_stdout(sys.stderr):
            findings = _audited(target, contract)
    except SystemExit as ended:  # whose code is not the audit's
        raise ConfigError(
            f"target {target}: it ends the process (SystemExit: {ended}) when it is imported or called; keep what does "
            'under `if __name__ == "__main__":`'
        ) from ended
    finally:
        torch.set_num_threads(threads)
    findings.notes.append(f"audited in {time.monotonic() - started:.1f} s on the CPU")
    return findings


def _audited(target: str, contract: Contract | None) -> Findings:
    if target in ADAPTERS and contract is None:
        return merged(target, ADAPTERS[target]())
    if contract is None:
        raise ConfigError(
            f"audit {target}: what is it declared to compute? Give --contract FILE; "
            "`distillaw audit --new-contract` writes one to fill in. Targets that bring their own: "
            f"{', '.join(ADAPTERS)}"
        )
    kind = contract.target.kind
    if kind in ("store", "tokenizers"):
        from distillaw.audit.assets import audit_store, audit_tokenizers

        return (audit_store if kind == "store" else audit_tokenizers)(target, contract)
    if kind == "loss":
        return audit_loss(load(target), contract, target)
    from distillaw.audit.loops import LoopTarget, audit_runs

    if kind == "loop":
        return audit_runs(LoopTarget(load(target), contract), target)
    from distillaw.audit.trainers import ScriptTarget, TrainerTarget

    of_kind = ScriptTarget(Path(target), contract) if kind == "script" else TrainerTarget(load(target), contract)
    return audit_runs(of_kind, target)
