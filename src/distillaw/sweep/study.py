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
from dataclasses import asdict
from pathlib import Path

from distillaw.data.prepare import prepare_data, require_tokens
from distillaw.data.shards import TokenStore
from distillaw.errors import ConfigError, RunError
from distillaw.quantities import format_bytes, parse_count
from distillaw.runs.files import locked, read_json, write_json
from distillaw.runs.store import StudyFolder
from distillaw.sweep.cost import study_cost
from distillaw.sweep.jobs import Facts, Planner, Progress
from distillaw.sweep.local import Display, LocalScheduler, Outcome
from distillaw.sweep.record import write_tables
from distillaw.sweep.spec import StudySpec
from distillaw.version import __version__


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
        write_tables(spec, facts, read_progress(study), study)
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
