r"""docs/open-runs.md: the open table of distillation runs, and what it says.

distillaw study run studies/open.toml --corpus PATH/TO/books.parquet --out out/open
python -m benchmarks.open_runs.run --runs out/open   # runs -> the table and held-out sums that ship, frozen predictions
python -m benchmarks.open_runs.run                   # these -> results, the shipped law, the page's tables and figures

The second line needs no folder: it starts from the files in src/distillaw/studies.
"""

import argparse
import shutil
from datetime import date
from pathlib import Path

from benchmarks import RESULTS
from benchmarks.open_runs.answers import answers
from benchmarks.open_runs.data import collect, read_shipped
from benchmarks.open_runs.figures import draw
from benchmarks.open_runs.fit import fits
from benchmarks.open_runs.law import write_law
from benchmarks.open_runs.page import PAGE, TABLES
from benchmarks.worlds_study.page import filled
from distillaw.runs.files import read_json, write_json

FILE = RESULTS / "open_runs.json"
SCORE = RESULTS / "open_runs_score.json"


def main() -> None:
    """Collect, answer, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="the study's folder; without it, the table as it ships")
    parser.add_argument("--no-fits", action="store_true", help="keep the fits of the last time")
    args = parser.parse_args()
    if args.runs:
        collect(args.runs)
        for file in sorted((args.runs / "predictions").glob("*.json")):
            shutil.copy(file, RESULTS / "open_runs_frozen.json")
    runs = read_shipped()
    found = {"command": "python -m benchmarks.open_runs.run", "date": date.today().isoformat(), **answers(runs)}
    found["fits"] = read_json(FILE)["fits"] if args.no_fits else fits(runs)
    if SCORE.exists():
        found["score"] = read_json(SCORE)
    write_json(FILE, found)
    write_law(found, runs)
    if PAGE.exists():
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found, TABLES), encoding="utf-8")
    draw(found)


if __name__ == "__main__":
    main()
