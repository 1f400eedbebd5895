"""The tables of docs/toys.md: the kernel toy as printed there, and with --mapping the mapping toy's (two CPU minutes).

    python -m benchmarks.toys.tables [--mapping] --out benchmarks/results/toys.json

Made by `distillaw toys`; what takes core-hours (`--full`, eight classes) is not run here.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path

from benchmarks.result_file import save
from distillaw.cli.app import app


def toys(*words: str) -> dict:
    """What `distillaw toys` answers."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        app(["toys", *words, "--json"], exit_on_error=False, result_action="return_value")
    return json.loads(out.getvalue())


def main() -> None:
    """Run the toys and keep what they answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mapping", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {"kernel": toys("kernel")}
    if args.mapping:
        found["mapping"] = toys("mapping")
    if args.out:
        save(args.out, "python -m benchmarks.toys.tables" + " --mapping" * args.mapping, **found)
    print(*found["kernel"], sep="\n")


if __name__ == "__main__":
    main()
