"""Frozen predictions, rehearsed on a finished study: hide its largest token budget, freeze, bring it back, score.

    python -m benchmarks.fits.frozen                      # the shipped table of the pocket study
    python -m benchmarks.fits.frozen out/quickstart       # any study folder: its paired runs speak, too

Nothing is trained. A rehearsal is no proof of foresight: the laws' forms were known when it was written.
"""

import argparse
import shutil
import tempfile
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.result_file import save, typed
from distillaw.cli.verify import show_card
from distillaw.errors import DistillawError
from distillaw.runs.files import CHECKSUM
from distillaw.verifying import scorecard
from distillaw.verifying.api import freeze_study
from distillaw.verifying.frozen import read_runs
from distillaw.verifying.scorecard import score_places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?", type=Path, help="a study folder; default: the shipped pocket table")
    parser.add_argument("--out", type=Path, help="keep the sums, e.g. benchmarks/results/frozen.json")
    asked = parser.parse_args()
    study = asked.study
    table = study / "runs.parquet" if study else Path(str(files("distillaw") / "studies" / "pocket_runs.parquet"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / (study.resolve().name if study else "pocket")
        folder.mkdir()
        hidden = hide_largest_budget(table, study, folder)
        try:
            freeze_study(folder, hidden)
        except DistillawError as error:
            raise SystemExit(f"{folder.name}: {error}") from None
        shutil.copy(table, folder / "runs.parquet")
        if study:
            link_runs(study, folder, [path.name for path in study.glob("runs/*")])
        card = score_places([folder])
    show_card(card)
    if asked.out:
        decided = scorecard.decisions(card.predictions, card.choices)
        sums = [asdict(one) for one in scorecard.by_forecaster(card.predictions)]
        save(asked.out, typed(), study=folder.name, by_forecaster=sums, decisions=decided)


def hide_largest_budget(table: Path, study: Path | None, folder: Path) -> list:
    """A study without its students on the most tokens; returns their cells."""
    rows = pq.read_table(table)
    students = [run for run in read_runs(table) if run.answers]
    most = max(run.point.tokens for run in students)
    is_hidden = pc.and_(pc.equal(rows["role"], "student"), pc.greater(rows["tokens"], 0.99 * most))
    seen = rows.filter(pc.invert(is_hidden))
    metadata = {k: v for k, v in (rows.schema.metadata or {}).items() if k != CHECKSUM.encode()}  # of all rows
    seen = seen.replace_schema_metadata(metadata)
    pq.write_table(seen, folder / "runs.parquet")
    if study:
        for name in ("study.json", "tuning.json"):
            shutil.copy(study / name, folder / name)
        link_runs(study, folder, seen["run_id"].to_pylist())
    return [run.point for run in students if run.point.tokens > 0.99 * most]


def link_runs(study: Path, folder: Path, names: list[str]) -> None:
    """Let the scratch study see some of the runs."""
    (folder / "runs").mkdir(exist_ok=True)
    for name in names:
        target = folder / "runs" / name
        if not target.exists():
            target.symlink_to((study / "runs" / name).resolve())


if __name__ == "__main__":
    main()
