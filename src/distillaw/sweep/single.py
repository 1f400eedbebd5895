"""One run from one TOML file: a study with one student, no tuning, and at most one external teacher."""

from dataclasses import dataclass, field
from pathlib import Path

from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.runs.config import from_table, read_toml
from distillaw.runs.files import locked
from distillaw.runs.spec import Recipe
from distillaw.runs.store import StudyFolder
from distillaw.sweep.jobs import Board, Planner
from distillaw.sweep.local import Display, LocalScheduler, Outcome
from distillaw.sweep.spec import StudentsSpec, StudySpec, TeacherSpec, TuningSpec, check_study
from distillaw.sweep.study import check_facts, clear_failures, read_progress, standing_failures, write_study


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleSpec:
    """The file that `distillaw train` reads."""

    name: str
    params: str
    """Target non-embedding size, e.g. "0.3M"."""
    tokens: int
    peak_lr: float
    """Peak rate at width 64 (train/optim.py has the rule for other widths)."""
    teacher: str = ""
    """Folder of the teacher; empty pretrains."""
    batch_tokens: int = 1024
    seed: int = 0
    data: DataSpec = field(default_factory=DataSpec)
    training: Recipe = field(default_factory=Recipe)

    def as_study(self) -> StudySpec:
        """The study whose only wanted run is this one."""
        return StudySpec(
            name=self.name, students=StudentsSpec(params=(self.params,), tokens=(self.tokens,)),
            teachers=(TeacherSpec(path=self.teacher),) if self.teacher else (), data=self.data,
            training=self.training, tuning=TuningSpec(enabled=False), batch_tokens=self.batch_tokens,
            peak_lr=self.peak_lr, seed=self.seed,
        )  # fmt: skip


def load_single(path: Path) -> SingleSpec:
    """Read and check the file of one run.

    Raises:
        ConfigError: anything in it that cannot be run.
    """
    single = from_table(SingleSpec, read_toml(path), f"{path}:")
    check_study(single.as_study())
    return single


def run_single(
    single: SingleSpec, folder: Path, *, display: Display, command: str
) -> tuple[dict[str, object] | None, Outcome]:
    """Train the run, or find it finished; returns (its result or None, what was done)."""
    spec = single.as_study()
    with locked(folder / ".lock", f"the folder {folder}"):
        study = StudyFolder(folder)
        clear_failures(study)
        store = prepare_data(spec.data, study.data, say=display.note)
        facts = check_facts(spec, store, display)
        write_study(spec, study, store, command)
        wanted = "distilled" if single.teacher else "supervised"

        def board() -> Board:
            full = Planner(spec, facts, read_progress(study)).board()
            full.jobs = [job for job in full.jobs if job.trunk.arm == wanted]
            return full

        with LocalScheduler(study, workers=1, display=display) as scheduler:
            outcome = scheduler.run(board)
        full = board()
        outcome.failed = standing_failures(full, read_progress(study))
        return study.run(full.jobs[0].run_ids[0]).result(), outcome
