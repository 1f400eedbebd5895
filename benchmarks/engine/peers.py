"""Tokens per CPU-second and memory of whole distillation steps, against the tools that people use, in the same run.

    python -m benchmarks.engine.peers --peers-python VENV/bin/python --torchtune-python VENV/bin/python \
        [--out benchmarks/results/distill_peers.json]

Task: peers_task.py. Every variant (peers_variants.py) is a process of its
own, float32, one thread, from the same weights on the same batches; rounds alternate between the variants. Compared
are tokens per CPU-second (all but the first step; medians over rounds, ratios taken within rounds) and the peak of
resident memory above the loaded models. The full distillation losses must agree to four digits at every step, or the
benchmark fails. TRL 1.16.0, accelerate 1.15.0, datasets 5.2.0 and liger-kernel 0.8.5 live in one environment,
torchtune 0.6.1 with torchao <= 0.16 in another; a peer whose interpreter is not given is left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.result_file import save

HERE = Path(__file__).parent
OURS, STORED = "ours, online teacher", ("ours, stored samples", "ours, stored top-64")
NEXT_TOKEN = ("plain, next token", "ours, next token")
FULL = (
    "TRL GKDTrainer",
    "TRL chunked divergence",
    "torchtune chunked",
    "Liger chunked JSD",
    "plain, whole logits",
    "plain, fused chunks",
    OURS,
)
DIGITS = 5e-5
"""Largest relative difference of losses that agree to four digits."""


def main() -> None:
    """Measure, check the losses, print the table, write the results."""
    arguments = _arguments()
    pythons = {"TRL": arguments.peers_python, "Liger": arguments.peers_python, "torchtune": arguments.torchtune_python}
    names = [n for n in (*FULL, *NEXT_TOKEN, *STORED) if not arguments.only or n in arguments.only]
    skipped = {n: "no interpreter given" for n in names if pythons.get(n.split()[0], sys.executable) is None}
    runs: dict[str, list[dict]] = {name: [] for name in names if name not in skipped}
    began = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        make = f"from peers_task import *; torch.set_num_threads(1); make_task(Path({folder!r}), {arguments.steps})"
        subprocess.run([sys.executable, "-c", make], check=True, cwd=HERE, stderr=subprocess.DEVNULL)
        for round_ in range(arguments.rounds):
            for name in list(runs):
                python = pythons.get(name.split()[0], sys.executable)
                result = _run(python, name, folder)
                if isinstance(result, str):
                    skipped[name] = result
                    del runs[name]
                    continue
                runs[name].append(result)
                print(f"round {round_ + 1}, {name}: {_speed(result):.0f} tokens/CPU-s", flush=True)
    rows = [_row(name, runs) for name in runs]
    differences = _differences(runs)
    _print(rows, differences, skipped)
    if arguments.out:
        versions = {k: v for results in runs.values() for k, v in results[0]["versions"].items()}
        save(
            arguments.out,
            "python -m benchmarks.engine.peers --peers-python PYTHON --torchtune-python PYTHON",
            rounds=arguments.rounds,
            steps=arguments.steps,
            load_average=[round(began, 1), round(os.getloadavg()[0], 1)],
            versions=versions,
            largest_relative_loss_difference=differences,
            skipped=skipped,
            rows=rows,
        )
    if any(not difference < DIGITS for difference in differences.values()):
        sys.exit("the losses do not agree to four digits: some variant trains on something else")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-python", help="interpreter that imports trl and liger_kernel")
    parser.add_argument("--torchtune-python", help="interpreter that imports torchtune")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="the first of them warms up")
    parser.add_argument("--only", nargs="+", help="these variants")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _run(python: str, name: str, folder: str) -> dict | str:
    """The figures of one process, or why there are none; our own variants may not fail."""
    done = subprocess.run([python, str(HERE / "peers_variants.py"), name, folder], capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if name.startswith(("ours", "plain")):
        sys.exit(f"{name} failed:\n{done.stderr}")
    return (done.stderr.splitlines() or ["no message"])[-1]


def _speed(result: dict) -> float:
    """Tokens per CPU-second."""
    return 8 * 256 / float(np.median(result["seconds"][1:]))


def _row(name: str, runs: dict[str, list[dict]]) -> dict[str, object]:
    results = runs[name]
    row: dict[str, object] = {
        "variant": name,
        "tokens_per_cpu_second": round(float(np.median([_speed(r) for r in results]))),
        "megabytes_above_models": round(float(np.median([r["megabytes_added"] for r in results]))),
        "megabytes_peak": round(float(np.median([r["megabytes_peak"] for r in results]))),
        "first_loss": round(results[0]["losses"][0], 6),
        "last_loss": round(results[0]["losses"][-1], 6),
    }
    reference = OURS if name in FULL else NEXT_TOKEN[0]
    if reference in runs:
        pairs = zip(results, runs[reference], strict=True)
        ratio = float(np.median([_speed(r) / _speed(b) for r, b in pairs]))
        row["speed_over_" + reference.replace(", ", " ").replace(" ", "_")] = round(ratio, 3)
    return row


def _differences(runs: dict[str, list[dict]]) -> dict[str, float]:
    """Largest relative difference of any step's loss from ours, for variants that train on the same loss."""
    found = {}
    for group, reference in ((FULL, OURS), (NEXT_TOKEN, NEXT_TOKEN[1])):
        for name in group:
            if name in runs and reference in runs and name != reference:
                losses, own = (np.array([r["losses"] for r in runs[n]]) for n in (name, reference))
                found[name] = float(np.max(np.abs(losses / own - 1)))
    return found


def _print(rows: list[dict], differences: dict[str, float], skipped: dict[str, str]) -> None:
    for row in rows:
        print(" ".join(f"{key}={value}" for key, value in row.items()))
    for name, difference in differences.items():
        print(f"{name}: losses within {difference:.1e} of ours")
    for name, reason in skipped.items():
        print(f"{name}: left out, {reason}")


if __name__ == "__main__":
    main()
