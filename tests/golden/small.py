"""A small study and a store of its teacher's targets, made now and compared with what they held, to the bit.

    python tests/golden/small.py         writes small.json anew

Weights depend on the processor's products, so that bits are compared where they were recorded: on one kind of
processor, with one torch. Elsewhere losses agree to the noise of rounding in a few hundred steps.
"""

import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import study_text

HERE = Path(__file__).parent
RECORD = HERE / "small.json"
STUDY = study_text(
    "golden",
    """[students]
params = ["0.03M"]
tokens = ["4k", "12k"]
[[teachers]]
params = "0.05M"
tokens = "16k"
[target]
params = "0.03M"
tokens = "12k"
""",
    batch=128,
)


def processor() -> str:
    """The processor as the system calls it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def machine() -> dict[str, str]:
    """What decides how products are rounded."""
    import torch

    return {"processor": processor(), "capability": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}


def measure(folder: Path) -> dict[str, object]:
    """Run the study in a folder, store its teacher's targets: losses of every run, what was read, what was stored."""
    from in_process import answer

    file, out, store = folder / "golden.toml", folder / "out", folder / "store"
    file.write_text(STUDY)
    ran = answer("study", "run", file, "--out", out, "--workers", "1", "--quiet")
    assert ran.returncode == 0, ran.stderr
    results = [json.loads(one.read_text()) for one in sorted(out.glob("runs/*/result.json"))]
    teacher = next(out / "runs" / r["run_id"] for r in results if r["role"] == "teacher")
    built = answer(
        *f"cache build --teacher {teacher} --data {out / 'data'} --out {store}".split(),
        *"--tokens 4k --context 32 --json".split(),
    )
    assert built.returncode == 0, built.stderr
    return {
        "machine": machine(),
        "losses": {r["run_id"]: [r["purpose"], r["loss"], r["ece"], r["kl_from_teacher"]] for r in results},
        "data_hash": json.loads((out / "data" / "manifest.json").read_text())["data_hash"],
        "targets": _bytes_of(store),
    }


def _bytes_of(store: Path) -> str:
    """One digest of the shards of a store."""
    digest = hashlib.sha256()
    for path in sorted(store.glob("*.bin")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """Record."""
    with tempfile.TemporaryDirectory() as folder:
        RECORD.write_text(json.dumps(measure(Path(folder)), indent=1) + "\n")


if __name__ == "__main__":
    main()
