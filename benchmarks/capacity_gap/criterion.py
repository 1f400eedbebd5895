"""Which units should a cut keep? Students of three criteria after recovery training, beside what each cut lost.

    python -m benchmarks.capacity_gap.criterion CORPUS --folder out/criterion

A study of pruned students alone, once per criterion in one folder: same teachers, seeds, batches and rate, each student
taught by the teacher that it was cut out of, and alone. Differences are paired over held-out documents and averaged
over students; the runs stay in the folder, and a second call trains nothing. About 4 CPU-minutes.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from benchmarks.result_file import save, typed
from distillaw.data.prepare import DataSpec
from distillaw.runs.paired import paired_difference
from distillaw.runs.record import Run, read_study
from distillaw.sweep.checks import CRITERIA, check_study
from distillaw.sweep.executor import LocalExecutor
from distillaw.sweep.scheduler import Display
from distillaw.sweep.spec import ReplicateSpec, StudentsSpec, StudySpec, TeacherSpec, TuningSpec
from distillaw.sweep.study import run_study

SIZE, TOKENS, SEEDS = "0.08M", (51_200,), 2
RATE = 0.0055
"""Half of where studies start their searches (`protocols.sheet.PEAK_LR`): a cut is no random start."""
Place = tuple[str, bool, int, int]


def study(corpus: str, criterion: str) -> StudySpec:
    """The study of one criterion."""
    return StudySpec(
        name="criterion",
        students=StudentsSpec(params=(SIZE,), tokens=TOKENS, starts=("pruned",), criterion=criterion),
        teachers=(TeacherSpec(params="0.2M", tokens=204_800), TeacherSpec(params="0.4M", tokens=204_800)),
        replicates=(ReplicateSpec(params=SIZE, seeds=SEEDS),),
        data=DataSpec(corpus=corpus, vocab_size=512, validation_documents=64),
        tuning=TuningSpec(enabled=False),
        batch_tokens=256,
        peak_lr=RATE,
    )


def students(folder: Path) -> dict[Place, Run]:
    """Pruned students of the folder's table by what they were cut out of, whether it taught them, budget and seed."""
    runs = read_study(folder).arms["pruned"]
    return {(str(r.row["start_run"]), bool(r.teacher_run), r.tokens, r.seed): r for r in runs}


def compare(found: dict[str, dict[Place, Run]]) -> list[dict[str, object]]:
    """A row per budget and arm: mean loss of each criterion, and how far it lies above the activations'."""
    rows = []
    for taught in (True, False):
        for tokens in sorted({place[2] for place in found["activation"]}):
            places = [p for p in found["activation"] if (p[1], p[2]) == (taught, tokens)]
            for criterion in CRITERIA:
                runs = [found[criterion][place] for place in places]
                behind = [
                    paired_difference(run.scores, found["activation"][place].scores)
                    for run, place in zip(runs, places, strict=True)
                ]
                rows.append(
                    {
                        "criterion": criterion,
                        "taught": taught,
                        "tokens": tokens,
                        "students": len(runs),
                        "loss": float(np.mean([run.loss for run in runs])),
                        "start_loss": float(np.mean([run.number("start_loss") for run in runs])),
                        "behind_activation": float(np.mean([d.mean for d in behind])),
                        "behind_by_student": [d.mean for d in behind],
                        # of documents, students taken as independent: their own spread, above, is several times that
                        "documents_se": math.sqrt(sum(d.se**2 for d in behind)) / len(behind),
                    }
                )
    return rows


def main() -> None:
    """Train what is missing, print and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {}
    for criterion in ("activation", "gradient", "uniform"):
        spec = study(arguments.corpus, criterion)
        check_study(spec)
        place = lambda folder: LocalExecutor(folder, 1)  # noqa: E731
        outcome = run_study(spec, arguments.folder, place=place, display=Display(), command="criterion")
        assert not outcome.failed, outcome.failed
        found[criterion] = students(arguments.folder)
    rows = compare(found)
    for row in rows:
        print({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items() if key != "behind_by_student"})
    if arguments.out:
        save(arguments.out, typed(), rows=rows)


if __name__ == "__main__":
    main()
