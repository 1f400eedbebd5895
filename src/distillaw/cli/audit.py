"""`distillaw audit TARGET`: does a loss, a trainer or a script compute what was declared?"""

import os
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from distillaw.audit.contract import TEMPLATE, read_contract
from distillaw.audit.findings import VERDICTS, finding_table
from distillaw.cli.console import print_table, write_whole
from distillaw.cli.options import OutFile
from distillaw.cli.output import Output
from distillaw.errors import ConfigError


def audit(
    target: str | None = None,
    /,
    *,
    contract: Path | None = None,
    new_contract: Annotated[bool, Parameter(negative="")] = False,
    timeout: float = 600.0,
    out: OutFile | None = None,
    output: Output = Output(),
) -> int:
    """Run a loss, a training loop, a trainer or a script as a black box on tiny models, and compare with a contract.

    Each property is right, wrong (with the smallest failing example and what is computed instead), differs (the
    gradient is the declared one, the reported number is not) or not testable, and why. Exit code 1 where one is wrong.

    Args:
        target: file.py:name or package.module:name of a loss, a loop or a trainer; a script; or by name what brings its
            own contract: own, own-engine, trl-gkd, trl-gkd-trainer, trl-distillation, liger-jsd, torchtune-kl,
            axolotl-kd, axolotl-kd-offline, axolotl-kd-vllm, axolotl-kd-sglang.
        contract: TOML of what the target is declared to compute.
        new_contract: print a contract with every field and its choices, to be filled in.
        timeout: seconds that the target may take; one that hangs ends with exit code 2 and the case it was at.
        out: also write one HTML page.
    """
    if new_contract:
        output.answer({"contract": TEMPLATE}, write_whole, TEMPLATE)
        return 0
    if target is None:
        raise ConfigError("audit: name a target, e.g. losses.py:distillation_loss, or ask for --new-contract")
    declared = None if contract is None else read_contract(contract)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from distillaw.audit.run import audit_target

    with output.working(f"auditing {target}") as say:
        spoke = time.monotonic()

        def told(phase: str) -> None:
            nonlocal spoke
            if time.monotonic() - spoke > 5:
                spoke = time.monotonic()
                say(f"{target}: {phase}")

        found = audit_target(target, declared, timeout=timeout, told=told)
    answer = found.to_json()
    if out is not None:
        from distillaw.report.audit import write_audit_page

        write_audit_page(answer, out)
    output.answer(answer, _print, answer, target, out)
    return int(found.is_wrong)


def _print(answer: dict[str, Any], target: str, page: Path | None) -> None:
    print_table(finding_table(answer, verdicts=VERDICTS[:-1]))
    for names, _, why in finding_table(answer, verdicts=VERDICTS[-1:]).rows:
        print(f"\nnot testable here: {names}\n  {why}")
    for note in answer["notes"]:
        print(f"\n{note}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in answer["counts"].items() if count)
    print(f"\n{target}: {counts}" + (f"; page: {page}" if page else ""))
