"""What a large-batch study came to, in one small file: columns, comparisons, slopes, time.

    python -m benchmarks.large_batch.demo out/large-batch --out benchmarks/results/large_batch_demo.json
    python -m benchmarks.large_batch.demo out/noise --beside out/sb640 --out benchmarks/results/large_batch_noise.json

`--beside`: another study on the same images, whose columns are compared with this one's, seed by seed.
"""

import argparse
from pathlib import Path

from distillaw.large_batch.images.results import LEVEL, ImageRecord, read_record, scores_of
from distillaw.report.large_batch import summarise
from distillaw.runs.files import write_json
from distillaw.runs.paired import paired_over_seeds


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


def beside(ours: ImageRecord, other: ImageRecord) -> dict:
    """Every column of ours above every column of the other, points, with its interval."""
    if ours.info["data"]["fingerprint"] != other.info["data"]["fingerprint"]:
        raise SystemExit("the two studies are on different images")
    found = []
    for theirs in other.study.columns:
        for column in ours.study.columns:
            old, new = other.done(theirs), ours.done(column)
            seeds = sorted(old.keys() & new.keys())
            if len(seeds) < 2:
                continue
            gain = paired_over_seeds([(scores_of(old[seed]), scores_of(new[seed])) for seed in seeds])
            interval = [100 * end for end in gain.interval(LEVEL)]
            found.append({"column": column, "over": theirs, "points": 100 * gain.mean, "interval": interval})
    return {
        "spec": other.info["spec"],
        "accuracy": {name: [cell["accuracy"] for cell in other.done(name).values()] for name in other.study.columns},
        "steps": {name: next(iter(other.done(name).values()))["steps"] for name in other.study.columns},
        "gains": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = summary(arguments.folder)
    if arguments.beside:
        found["beside"] = beside(read_record(arguments.folder), read_record(arguments.beside))
    write_json(arguments.out, found)


if __name__ == "__main__":
    main()
