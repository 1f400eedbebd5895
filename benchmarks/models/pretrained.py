"""What cutting a pretrained model and giving it other tokens costs, and how it reads in bits per byte, before training.

    python -m benchmarks.models.pretrained MODEL --books BOOKS --foreign CHINESE --out FILE

MODEL is a folder or a GGUF file of SmolLM2-135M-Instruct; BOOKS and CHINESE are texts as every `--text` takes them.
The numbers are those of `prune.json`, `vocabulary.json` and `distillaw scout`: 60 % of the parameters kept by gradient
and by position, 4,000 Chinese pieces with mean and with random rows, a scout of 30 kB of speeches. Half an hour.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.result_file import save


def distillaw(*words: object) -> dict:
    """What a command answers."""
    command = [sys.executable, "-m", "distillaw", *map(str, words), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Run the commands, print and keep their answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--books", required=True)
    parser.add_argument("--foreign", required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cut = ("--keep", 0.6, "--text", args.books, "--tokens", 7680, "--heldout-tokens", 4000, "--context", 512)
        extend = ("vocabulary", "extend", args.model, "--text", args.foreign, "--other", "sotu", "--pieces", "4k")
        found = {
            "prune": {
                by: distillaw("prune", args.model, *cut, "--importance", by, "--out", f"{folder}/{by}")
                for by in ("gradient", "uniform")
            },
            "vocabulary": {
                rows: distillaw(*extend, "--rows", rows, "--out", f"{folder}/{rows}") for rows in ("mean", "random")
            },
            "scout": distillaw("scout", args.model, "--text", "sotu", "--max-bytes", "30k"),
        }
    print(json.dumps(found, indent=1))
    if args.out:
        save(args.out, "python -m benchmarks.models.pretrained MODEL --books BOOKS --foreign CHINESE", **found)


if __name__ == "__main__":
    main()
