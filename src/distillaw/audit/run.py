"""One entry for every kind of target."""

import contextlib
import sys
import time
from pathlib import Path

import torch

from distillaw.audit.adapters import ADAPTERS, merged
from distillaw.audit.contract import Contract
from distillaw.audit.findings import Findings
from distillaw.audit.losses import audit_loss
from distillaw.audit.targets import load
from distillaw.errors import ConfigError


def audit_target(target: str, contract: Contract | None) -> Findings:
    """Audit what a command line names.

    Args:
        target: file.py:name, module:name, a script, or an adapter.
        contract: checked; None for adapters, which declare what their documentation says.

    Raises:
        ConfigError: no such target, no contract for it, or it cannot be called as declared.
    """
    started, threads = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(1)  # tiny models
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a target prints is no part of the answer
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
    if kind == "loop":
        from distillaw.audit.loops import audit_loop

        return audit_loop(load(target), contract, target)
    if kind in ("trainer", "script"):
        from distillaw.audit.loops import audit_runs
        from distillaw.audit.trainers import ScriptTarget, TrainerTarget

        if kind == "script":
            return audit_runs(ScriptTarget(Path(target), contract), target)
        return audit_runs(TrainerTarget(load(target), contract), target)
    return audit_loss(load(target), contract, target)
