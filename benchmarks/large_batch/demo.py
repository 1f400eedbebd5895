"""What a large-batch study came to, in one small file: columns, comparisons, slopes, time.

python -m benchmarks.large_batch.demo out/large-batch --out benchmarks/results/large_batch_demo.json
"""

import argparse
from pathlib import Path

from distillaw.large_batch.images.results import read_record
from distillaw.report.large_batch import summarise
from distillaw.runs.files import write_json


def summary(folder: Path) -> dict:
    """The report's numbers without curves and single fits."""
    info, found = read_record(folder).info, summarise(folder)
    walks = [{key: value for key, value in walk.items() if key != "fits"} for walk in found.pop("walks")]
    words = ("sentences", "verdicts", "walk_sentences", "problems")
    return {
        "command": info["command"],
        "date": info["date"],
        "data": info["data"],
        "spec": info["spec"],
        **{key: value for key, value in found.items() if key not in words},
        "walks": walks,
        **{key: found[key] for key in words},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_json(arguments.out, summary(arguments.folder))


if __name__ == "__main__":
    main()
