"""A study from file to finished runs: check everything first, then train, then write the tables.

study.json    the resolved study, its data, versions and machine
tuning.json   what the search for rate and batch measured
runs.parquet  one row per finished run of this study
"""

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from distillaw.accounting.shapes import Shape
from distillaw.data.prepare import prepare_data, require_tokens
from distillaw.data.shards import TokenStore
from distillaw.errors import ConfigError, RunError
from distillaw.quantities import format_bytes, parse_count
from distillaw.runs.files import locked, read_json, write_json
from distillaw.runs.store import StudyFolder
from distillaw.sweep.jobs import (
    Board,
    Facts,
    Job,
    Planner,
    Progress,
    executed_tokens,
    job_flops,
    job_seconds,
    nominal,
)
from distillaw.sweep.local import Display, LocalScheduler, Outcome
from distillaw.sweep.spec import StudySpec
from distillaw.version import __version__

BYTES_PER_PARAM_RUN = 4.2
BYTES_PER_PARAM_TRUNK = 12.5
TOKENIZER_BYTES = 60_000
"""Disk of a run: fp32 weights, tokenizer, logs; of a trunk: weights and two moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCost:
    """What a study would spend, before it does."""

    jobs: list[Job]
    seconds: list[float]
    """Estimated core-seconds of each job."""
    flops: float
    tokens: float
    disk_bytes: float
    num_runs: int

    def wall_seconds(self, workers: int) -> float:
        """Estimated wall time, start-up and data preparation included, if no core ever waits."""
        return max(sum(self.seconds) / workers, max(self.seconds)) + 25


def study_cost(spec: StudySpec, vocab_size: int) -> StudyCost:
    """FLOP, time and disk of the whole study, with tuning staying at its start."""
    facts = Facts(vocab_size=vocab_size, data_hash="dry-run", fingerprints={})
    jobs = nominal(spec, facts)
    teachers = {
        j.trunk.run_id(t): j.trunk.shape for j in jobs if j.trunk.role == "teacher" for t in j.budgets
    }

    def teacher_of(job: Job) -> Shape | None:
        return teachers.get(job.trunk.teacher_run or "")

    runs = {run_id: job.trunk for job in jobs for run_id in job.run_ids}
    trunks = {job.trunk.trunk_id: job.trunk for job in jobs}
    disk = sum(BYTES_PER_PARAM_RUN * t.total_params + TOKENIZER_BYTES for t in runs.values())
    disk += sum(BYTES_PER_PARAM_TRUNK * t.total_params for t in trunks.values())
    return StudyCost(
        jobs=jobs, seconds=[job_seconds(job, teacher_of(job)) for job in jobs],
        flops=sum(job_flops(job, teacher_of(job)) for job in jobs), tokens=sum(map(executed_tokens, jobs)),
        disk_bytes=disk, num_runs=len(runs),
    )  # fmt: skip


def run_study(spec: StudySpec, folder: Path, *, workers: int, display: Display, command: str) -> Outcome:
    """Train whatever the study still lacks and write its tables.

    Args:
        spec: the study.
        folder: where it lives; created if need be.
        workers: processes, one core each.
        display: told about every job.
        command: how the user called, for the report.

    Raises:
        ConfigError, DataError, CacheError, VocabularyError: before anything is trained.
        RunError: another process works on the folder, the disk is full, or workers do not start.
    """
    with locked(folder / ".lock", f"the study {folder}"):
        study = StudyFolder(folder)
        _check_disk(folder, study_cost(spec, spec.data.vocab_size).disk_bytes)
        store = prepare_data(spec.data, study.data)
        facts = check_facts(spec, store)
        write_study(spec, study, store, command)
        outcome = LocalScheduler(study, workers=workers, display=display).run(
            lambda: Planner(spec, facts, read_progress(study)).board()
        )
        write_tables(spec, facts, study)
        return outcome


def check_facts(spec: StudySpec, store: TokenStore) -> Facts:
    """Check text and external teachers against the study; what jobs depend on besides its file."""
    from distillaw.train.fingerprint import fingerprint

    require_tokens(
        store, context=spec.training.context, student=max(spec.students.tokens),
        teacher=max((teacher.tokens for teacher in spec.teachers), default=0),
    )  # fmt: skip
    fingerprints = {}
    for teacher in spec.teachers:
        if teacher.path:
            from distillaw.data.tokenizer import load_tokenizer
            from distillaw.models.teacher import check_vocabulary

            path = Path(teacher.path).expanduser().resolve()
            check_vocabulary(path, load_tokenizer(str(store.tokenizer_folder)))
            fingerprints[str(path)] = fingerprint(path)
    vocab_size = store.manifest["vocab_size"]
    assert isinstance(vocab_size, int)
    return Facts(vocab_size=vocab_size, data_hash=store.data_hash, fingerprints=fingerprints)


def read_progress(study: StudyFolder) -> Progress:
    """Losses of finished runs and errors of failed ones."""
    losses, failures = {}, {}
    for path in sorted((study.path / "runs").glob("*/status.json")):
        run = study.run(path.parent.name)
        result = run.result()
        if result is not None:
            losses[run.path.name] = float(str(result["loss"]))
        elif run.state() == "failed":
            failures[run.path.name] = str(read_json(path).get("error", "unknown"))
    return Progress(losses=losses, failures=failures)


def clear_failures(study: StudyFolder) -> None:
    """Forget failures that are worth another try: everything but divergence, which would only repeat."""
    for run_id, error in read_progress(study).failures.items():
        if "diverged" not in error:
            study.run(run_id).set_status("planned")


def write_tables(spec: StudySpec, facts: Facts, study: StudyFolder) -> None:
    """Write runs.parquet (the runs that belong to this study file) and tuning.json."""
    planner = Planner(spec, facts, read_progress(study))
    board = planner.board()
    purposes: dict[str, str] = {}
    for search, teacher_run in ((board.supervised, None), (board.distilled, _tuning_teacher(spec, board))):
        if search is not None:
            for arm, size, i, j in search.points:
                run_id = planner.point(arm, size, i, j, teacher_run).run_id(spec.tuning_tokens)
                purposes[run_id] = "tuning"
    purposes |= {run_id: job.trunk.purpose for job in board.jobs for run_id in job.run_ids}
    if any(study.run(run_id).state() == "done" for run_id in purposes):
        study.write_table(purposes)
    write_json(study.path / "tuning.json", tuning_record(spec, planner, board))


def _tuning_teacher(spec: StudySpec, board: Board) -> str | None:
    middle = spec.middle_teacher()
    if middle is None:
        return None
    if middle.path:
        return str(Path(middle.path).expanduser().resolve())
    trunk = next(
        (j.trunk for j in board.jobs if j.trunk.role == "teacher" and j.trunk.label == middle.params), None
    )
    return trunk.run_id(middle.tokens) if trunk else None


def tuning_record(spec: StudySpec, planner: Planner, board: Board) -> dict[str, object]:
    """tuning.json: per arm and size, the rates and batches tried, their losses, the best, whether interior."""
    arms = []
    teacher_run = _tuning_teacher(spec, board)
    for search in (board.supervised, board.distilled):
        if search is None:
            continue
        for (arm, size), best in search.rate.items():
            rates = {
                i: x for (a, s, i, j), x in search.points.items() if (a, s, j) == (arm, size, search.batch)
            }
            batches = {j: x for (a, s, i, j), x in search.points.items() if (a, s, i) == (arm, size, best)}

            def entry(i: int, j: int, loss: float, arm: str = arm, size: str = size) -> dict[str, object]:
                trunk = planner.point(arm, size, i, j, teacher_run)
                return {"peak_lr": trunk.peak_lr, "batch_tokens": trunk.batch_tokens, "loss": _finite(loss),
                        "run_id": trunk.run_id(spec.tuning_tokens)}  # fmt: skip

            middle = planner.point(arm, size, best, search.batch, teacher_run)
            arms.append({
                "arm": arm, "size": size, "params": middle.params, "tokens": spec.tuning_tokens,
                "learning_rate": {
                    "grid": [entry(i, search.batch, x) | {"multiplier": 2.0**i} for i, x in sorted(rates.items())],
                    "best": middle.peak_lr, "interior": search.interior.get((arm, size, "rate"), False)},
                "batch": {
                    "grid": [entry(best, j, x) | {"multiplier": 2.0**j} for j, x in sorted(batches.items())],
                    "best": middle.batch_tokens, "interior": search.interior.get((arm, size, "batch"), False)},
            })  # fmt: skip
    batch = planner.batch_tokens(board.supervised.batch) if board.supervised else spec.batch_tokens
    return {"enabled": spec.tuning.enabled, "batch_tokens": batch, "arms": arms}


def _finite(loss: float) -> float | None:
    return loss if loss < float("inf") else None


def _check_disk(folder: Path, needed: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"{folder}: {format_bytes(free)} free, the study needs about {format_bytes(needed)}. "
            "Free space or choose another folder with --out"
        )


def write_study(spec: StudySpec, study: StudyFolder, store: TokenStore, command: str) -> None:
    """Write study.json; a changed study file is noted, since finished runs that no longer fit are left out."""
    file = study.path / "study.json"
    created = (
        read_json(file)["created"] if file.exists() else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    )
    manifest = store.manifest
    splits = manifest["splits"]
    assert isinstance(splits, Mapping)
    target = None
    if spec.target is not None:
        target = {"student_params": parse_count(spec.target.params), "student_tokens": spec.target.tokens}
    write_json(file, {
        "name": spec.name, "spec": asdict(spec), "spec_hash": spec.spec_hash, "created": created, "command": command,
        "target": target,
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "data": {
            "corpus": spec.data.corpus, "documents": manifest["documents"], "characters": manifest["characters"],
            "tokens": {name: split["tokens"] for name, split in splits.items()},
            "tokenizer": spec.data.tokenizer or "byte-level BPE trained on the corpus",
            "vocab_size": manifest["vocab_size"], "data_hash": store.data_hash,
            "heldout_documents": splits["validation"]["documents"],
            "heldout_tokens": splits["validation"]["tokens"] - splits["validation"]["documents"],
        },
        "versions": {"distillaw": __version__, **_versions("torch", "transformers", "tokenizers", "numpy")},
    })  # fmt: skip


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def require_trainable() -> None:
    """Refuse to start where the training extra is not installed.

    Raises:
        ConfigError: naming the missing package and how to get it.
    """
    for package in ("torch", "transformers", "tokenizers", "pyarrow"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ConfigError(
                f'training needs {package}: pip install "distillaw[train]" (torch first, CPU build)'
            ) from None
