r"""docs/open-runs.md: the open table of distillation runs, and what it says.

distillaw study run studies/open.toml --corpus PATH/TO/books.parquet --out out/open
python benchmarks/open_runs.py --runs out/open   # runs -> the table and held-out sums that ship, frozen predictions
python benchmarks/open_runs.py                   # these -> results, the law that ships, the page's tables and figures

The second line needs no folder: it starts from the files in src/distillaw/studies.
"""

import argparse
import shutil
from datetime import date
from pathlib import Path

from open_runs_answers import answers
from open_runs_data import collect, read_shipped
from open_runs_figures import draw
from open_runs_fit import fits
from open_runs_law import write_law
from open_runs_page import PAGE, TABLES
from worlds_study_page import filled

from distillaw.runs.files import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "open_runs.json"
SCORE = RESULTS.with_name("open_runs_score.json")


def main() -> None:
    """Collect, answer, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, help="the study's folder; without it, the table as it ships")
    parser.add_argument("--no-fits", action="store_true", help="keep the fits of the last time")
    args = parser.parse_args()
    if args.runs:
        collect(args.runs)
        for file in sorted((args.runs / "predictions").glob("*.json")):
            shutil.copy(file, RESULTS.with_name("open_runs_frozen.json"))
    runs = read_shipped()
    found = {"command": "python benchmarks/open_runs.py", "date": date.today().isoformat(), **answers(runs)}
    found["fits"] = read_json(RESULTS)["fits"] if args.no_fits else fits(runs)
    if SCORE.exists():
        found["score"] = read_json(SCORE)
    write_json(RESULTS, found)
    write_law(found, runs)
    if PAGE.exists():
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found, TABLES), encoding="utf-8")
    draw(found)


if __name__ == "__main__":
    main()
