"""One entry for every kind of target."""

import time

import torch

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
        findings = _audited(target, contract)
    finally:
        torch.set_num_threads(threads)
    findings.notes.append(f"audited in {time.monotonic() - started:.1f} s on the CPU")
    return findings


def _audited(target: str, contract: Contract | None) -> Findings:
    if contract is None:
        raise ConfigError(
            f"audit {target}: what is it declared to compute? Give --contract FILE; "
            "`distillaw audit --new-contract` writes one to fill in"
        )
    if contract.target.kind == "loop":
        from distillaw.audit.loops import audit_loop

        return audit_loop(load(target), contract, target)
    return audit_loss(load(target), contract, target)
