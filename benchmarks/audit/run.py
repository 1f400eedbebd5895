"""Injected bugs found, designs flagged, and what the audit says of this release of the peers.

    python -m benchmarks.audit.run [--peers FOLDER] [--axolotl PYTHON] [--out benchmarks/results/audit.json]

A bug is found where a property it belongs to is wrong, and found for the right reason where no other property is. A
design is flagged where any property is wrong or differs. The audit was written with these in view; `fresh` ones were
written after it and judged once. `--peers`: a folder of packages that are not installed here (pip --target);
`--axolotl`: an interpreter that has axolotl and imports distillaw. Also fills the table of docs/audit-catalogue.md.
"""

import argparse
import json
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.audit.injected_fresh import FRESH, FRESH_DESIGNS
from benchmarks.audit.injected_loops import LOOP_DESIGNS, OPEN_LOOPS, OWN_LOOPS
from benchmarks.audit.injected_losses import DESIGNS, OPEN, OWN
from benchmarks.result_file import save, typed
from distillaw.audit.adapters import ADAPTERS, merged
from distillaw.audit.loops import LoopTarget, audit_runs
from distillaw.audit.losses import audit_loss
from distillaw.errors import ConfigError
from distillaw.runs.files import write_text
from distillaw.table import Table, text

CATALOGUE = Path("docs/audit-catalogue.md")
PEERS = {"trl": "trl", "liger": "liger-kernel", "torchtune": "torchtune", "axolotl": "axolotl"}


def verdict(answer: dict[str, Any]) -> dict[str, list[str]]:
    """Properties by verdict, and what is said of those that are not right."""
    kept = {v: [p for p in answer["properties"] if p["verdict"] == v] for v in ("wrong", "differs")}
    says = [f"{p['name']}: {e['says']}" for each in kept.values() for p in each for e in p["evidence"]]
    return {v: [p["name"] for p in each] for v, each in kept.items()} | {"says": says[:6]}


def peer(name: str, python: str) -> dict[str, Any]:
    """What the audit says of one, here or (axolotl, which pins other releases) by another interpreter."""
    package = PEERS.get(name.split("-")[0])
    try:
        if package == "axolotl" and python:
            asks = f"from importlib.metadata import version; print(version({package!r}))"
            release = subprocess.run([python, "-c", asks], capture_output=True, text=True, check=True).stdout.strip()
            audit = [python, "-m", "distillaw", "audit", name, "--json"]
            answer = json.loads(subprocess.run(audit, capture_output=True, text=True, check=False).stdout)
        else:
            release = version(package) if package else ""
            answer = merged(name, ADAPTERS[name]()).to_json()
    except (ConfigError, PackageNotFoundError) as error:
        return {"target": name, "skipped": str(error)[:120]}
    return {"target": name, "release": release, **verdict(answer)}


def write_catalogue(rows: list[dict]) -> None:
    """The table of bugs in docs/audit-catalogue.md, between its marks."""
    columns = [text("bug"), text("in a"), text("seen in"), text("what the audit says")]
    bugs = [r for r in rows if "design" not in r["kind"]]
    cells = [
        [
            r["name"],
            r["target"],
            f"[{r['source'].removeprefix('https://github.com/')}]({r['source']})" if r["source"] else "",
            r["says"][0],
        ]
        for r in bugs
    ]
    page = CATALOGUE.read_text(encoding="utf-8")
    begin, end = "<!-- table bugs -->", "<!-- end -->"
    head, rest = page.split(begin)
    _, tail = rest.split(end)
    write_text(CATALOGUE, f"{head}{begin}\n{Table(columns, cells).markdown()}\n{end}{tail}", known=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default="")
    parser.add_argument("--axolotl", default="")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/audit.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peers:
        sys.path.append(options.peers)
    rows = []
    for kind, bugs in (
        ("open", (*OPEN, *OPEN_LOOPS)),
        ("own", (*OWN, *OWN_LOOPS)),
        ("fresh", FRESH),
        ("design", (*DESIGNS, *LOOP_DESIGNS)),
        ("fresh design", FRESH_DESIGNS),
    ):
        for each in bugs:
            began = time.process_time()
            is_loop = hasattr(each, "loop")
            if is_loop:
                found = audit_runs(LoopTarget(each.loop(), each.contract()), each.name)  # type: ignore[union-attr]
            else:
                found = audit_loss(each.loss(), each.contract(), each.name)  # type: ignore[union-attr]
            said = verdict(found.to_json())
            wrong = set(said["wrong"])
            row = {"name": each.name, "kind": kind, "target": "loop" if is_loop else "loss", "source": each.source}
            row |= said | {"cpu_seconds": round(time.process_time() - began, 2)}
            if "design" in kind:
                row["flagged"] = bool(wrong or said["differs"])
            else:
                row |= {"found": bool(wrong & set(each.properties)), "only": not wrong - set(each.properties)}
            rows.append(row)
    counts = {
        "seconds_median": sorted(r["cpu_seconds"] for r in rows)[len(rows) // 2],
        "seconds_longest": max(r["cpu_seconds"] for r in rows),
    }
    for kind in ("open", "own", "fresh"):
        bugs = [r for r in rows if r["kind"] == kind]
        counts[kind] = {
            "bugs": len(bugs),
            "found": sum(r["found"] for r in bugs),
            "right_reason": sum(r["found"] and r["only"] for r in bugs),
        }
    for kind in ("design", "fresh design"):
        designs = [r for r in rows if r["kind"] == kind]
        counts[kind] = {"designs": len(designs), "flagged": sum(r["flagged"] for r in designs)}
    peers = [peer(name, options.axolotl) for name in ADAPTERS]
    save(options.out, typed(), counts=counts, rows=rows, peers=peers)
    write_catalogue(rows)
    print(counts)
    for each in peers:
        print(each)


if __name__ == "__main__":
    main()
