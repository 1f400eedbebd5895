"""A study from file to finished runs: check everything first, then train, then write the tables.

study.json    the resolved study, its data, versions and machine
tuning.json   what the search for rate and batch measured
runs.parquet  one row per finished run of this study
"""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from distillaw.data.documents import exposed, exposure
from distillaw.data.prepare import check_home, prepare_data, require_tokens, world_of
from distillaw.data.shards import TokenStore
from distillaw.errors import CacheError, ConfigError
from distillaw.quantities import finite, parse_count
from distillaw.runs.files import read_json, require_space, write_json
from distillaw.runs.process import installed
from distillaw.runs.store import StudyFolder
from distillaw.shapes import Shape
from distillaw.sweep.changes import change_in_words, changed_settings, compare_again, set_aside
from distillaw.sweep.checks import check_cuts
from distillaw.sweep.cost import StudyCost, study_cost, study_vocab
from distillaw.sweep.executor import Executor
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import Facts, Progress, ReadyJobs
from distillaw.sweep.scheduler import Display, Scheduler, StudyOutcome, hold_study, log_event
from distillaw.sweep.spec import StudySpec
from distillaw.sweep.tuning import LatticePoint, RateSearch, SearchPlace
from distillaw.version import __version__
from distillaw.worlds.oracle import find_oracle, is_oracle, oracle_hash, parse_oracle


def run_study(
    spec: StudySpec,
    folder: Path,
    *,
    place: Callable[[StudyFolder], Executor],
    display: Display,
    command: str,
    again: Sequence[str] = (),
    holdout: bool = True,
    settings: Sequence[str] = (),
) -> StudyOutcome:
    """Train whatever the study still lacks and write its tables.

    Args:
        place: opens the place where workers run; asked when the folder is held and checked.
        again: finished or failed runs to be done again; what they were is kept aside.
        holdout: whether held-out students are trained too; they wait until predictions of them are frozen.

    Returns:
        What was done, and every run of the study that has failed, now or before.

    Raises:
        ConfigError, DataError, CacheError, VocabularyError: before anything is trained.
        RunError: another process works on the folder, the disk is full, or workers do not start.
    """
    check_home(spec.data, folder)
    study = StudyFolder(folder.resolve())
    with hold_study(study, display.note) as claim:
        cost = study_cost(spec, study_vocab(spec))
        _check_folder(spec, study.path, cost.disk_bytes)
        clear_failures(study)
        with Scheduler(study, place(study), display=display, claim=claim) as scheduler:
            if not (study.data / "manifest.json").exists():
                scheduler.warm_up()  # a new study: workers import torch while its text is tokenised
            store = prepare_data(spec.data, study.data, say=display.note)
            facts = check_facts(spec, store, display)
            _note_changes(spec, facts, study, display)
            _note_teachers(facts, study, display)
            _note_exposed(spec, store, display)
            write_study(spec, study, store, command, fingerprints=facts.fingerprints, settings=settings)
            for line in set_aside(study, again):
                log_event(study.path, "again", what=line)
                display.note(line)
            outcome = scheduler.run(lambda: Planner(spec, facts, read_progress(study), holdout=holdout).ready_jobs())
        for line in compare_again(study, again):
            display.note(line)
        progress = read_progress(study)
        write_tables(spec, facts, progress, study)
        ready = Planner(spec, facts, progress, holdout=holdout).ready_jobs()
        outcome.failed = standing_failures(ready, progress)
        outcome.waiting = ready.waiting
        return outcome


def _note_changes(spec: StudySpec, facts: Facts, study: StudyFolder, display: Display) -> None:
    """Say what was changed in the study file since the folder was last worked on, and what that means."""
    if lines := changed_settings(study.path, spec):
        progress = read_progress(study)
        ready = Planner(spec, facts, progress).ready_jobs()
        text = change_in_words(lines, ready, list(progress.losses))
        log_event(study.path, "changed", what=text, settings=lines)
        display.note(text)


def _note_teachers(facts: Facts, study: StudyFolder, display: Display) -> None:
    """Say where an external teacher is not the one that earlier students learnt from: on purpose, or damaged."""
    file = study.path / "study.json"
    known = read_json(file).get("fingerprints") if file.exists() else None
    for name, earlier in (known if isinstance(known, Mapping) else {}).items():
        if facts.fingerprints.get(name, earlier) != earlier:
            display.note(
                f"{name}: not the weights that this study's students learnt from (fingerprint was {earlier}, is "
                f"{facts.fingerprints[name]}), so its students are trained anew. If nobody changed them, the file "
                "is damaged"
            )


def _note_exposed(spec: StudySpec, store: TokenStore, display: Display) -> None:
    """Say which models from outside have read their students' text: a study may want that as a control."""
    for source, teacher in spec.external_teachers().items():
        if wrong := exposed(exposure(teacher.label, source, store)):
            display.note(wrong)


def standing_failures(ready: ReadyJobs, progress: Progress) -> dict[str, str]:
    """Failed runs of the study as it stands; a tuning run that diverged is a finding, not a failure."""
    failed = {}
    for job in ready.jobs:
        for run_id in job.run_ids:
            if run_id in progress.failures:
                failed[run_id] = progress.failures[run_id]
            elif run_id in progress.diverged and job.trunk.purpose != "tuning":
                failed[run_id] = "training diverged; lower peak_lr in the study file"
    return failed


def check_facts(spec: StudySpec, store: TokenStore, display: Display) -> Facts:
    """Check text and external teachers against the study; what jobs depend on besides its file."""
    require_tokens(store, spec.longest(), context=spec.training.context)
    if spec.data.validation_documents < 60:
        display.note(
            f"only {spec.data.validation_documents} held-out documents: errors are clustered by document "
            "and will be wide and themselves uncertain; 60 or more are wanted"
        )
    fingerprints = {name: _check_teacher(name, spec, store) for name in spec.external_teachers()}
    vocab_size = store.manifest["vocab_size"]
    check_cuts(spec, vocab_size, _external_shape)
    return Facts(vocab_size=vocab_size, data_hash=store.data_hash, fingerprints=fingerprints)


def _external_shape(name: str) -> Shape:
    from distillaw.models.cut import shape_of
    from distillaw.models.source import locate

    return shape_of(locate(name).config(), name)


def _check_teacher(name: str, spec: StudySpec, store: TokenStore) -> str:
    """Refuse an external teacher that cannot serve, before anything is trained; returns its fingerprint."""
    if is_oracle(name):
        world, oracle = world_of(store), parse_oracle(name)
        find_oracle(world, oracle, spec.training.context)
        return oracle_hash(world, oracle, spec.training.context)
    from distillaw.data.tokenizer import load_tokenizer
    from distillaw.models.source import check_config, fingerprint, locate
    from distillaw.models.teacher import check_vocabulary

    source = locate(name)
    check_config(source, context=spec.training.context)
    check_vocabulary(source, load_tokenizer(str(store.tokenizer_folder)))
    return fingerprint(source)


def read_progress(study: StudyFolder) -> Progress:
    """Losses of finished runs, errors of failed ones, and which diverged."""
    losses, failures, diverged = {}, {}, set()
    for path in sorted((study.path / "runs").glob("*/")):
        run = study.run(path.name)
        result = run.result()
        if result is not None:
            losses[path.name] = float(result["loss"])
        elif run.state() == "failed":
            error, has_diverged = run.failure()
            if has_diverged:
                diverged.add(path.name)
            else:
                failures[path.name] = error
    return Progress(losses=losses, failures=failures, diverged=frozenset(diverged))


def stored_facts(study: StudyFolder) -> Facts | None:
    """What study.json says that jobs depend on; None before there is one.

    Raises:
        CacheError: study.json is damaged.
    """
    file = study.path / "study.json"
    if not file.exists():
        return None
    record = read_json(file)
    data, fingerprints = record.get("data"), record.get("fingerprints", {})
    if not isinstance(data, Mapping) or not {"vocab_size", "data_hash"} <= data.keys():
        raise CacheError(f"{file}: damaged: data.vocab_size and data.data_hash are not both there; {_WRITES_IT}")
    if not isinstance(data["vocab_size"], int) or not isinstance(fingerprints, Mapping):
        raise CacheError(f"{file}: damaged: data.vocab_size or fingerprints are not what they should be; {_WRITES_IT}")
    return Facts(vocab_size=data["vocab_size"], data_hash=str(data["data_hash"]), fingerprints=dict(fingerprints))


_WRITES_IT = "the command that started the study writes it anew"


def cost_left(spec: StudySpec, folder: Path) -> StudyCost:
    """What is left to spend in a folder, at the batch and the rates that its searches have chosen so far."""
    study = StudyFolder(folder)
    facts = stored_facts(study)
    if facts is None:
        return study_cost(spec, study_vocab(spec))
    return study_cost(spec, facts.vocab_size, facts=facts, progress=read_progress(study))


def clear_failures(study: StudyFolder) -> None:
    """Forget failures that are worth another try: everything but divergence, which would only repeat."""
    for run_id in read_progress(study).failures:
        study.run(run_id).set_status("planned")


def _check_folder(spec: StudySpec, folder: Path, needed: float) -> None:
    """Refuse a folder of another study, or one without room for what is still to come."""
    file = folder / "study.json"
    name = read_json(file).get("name", spec.name) if file.exists() else spec.name
    if name != spec.name:
        raise ConfigError(f"{folder} holds the study {name!r}, not {spec.name!r}; choose another folder with --out")
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    require_space(folder, needed - used)


def write_study(
    spec: StudySpec,
    study: StudyFolder,
    store: TokenStore,
    command: str,
    *,
    fingerprints: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
) -> None:
    """Write study.json. Runs that no longer belong to a changed study file stay on disk, out of the table."""
    file = study.path / "study.json"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    created = read_json(file).get("created", now) if file.exists() else now
    manifest = store.manifest
    splits = manifest["splits"]
    tokenizer = spec.data.tokenizer or "byte-level BPE trained on the corpus"
    tokenizer = tokenizer if spec.data.world is None else "the words of the world"
    target = None
    if spec.target is not None:
        target = {"student_params": parse_count(spec.target.params), "student_tokens": spec.target.tokens}
    write_json(
        file,
        {
            "name": spec.name,
            "spec": asdict(spec),
            "spec_hash": spec.spec_hash,
            "created": created,
            "command": command,
            "target": target,
            "set": list(settings),
            "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
            "data": {
                "corpus": spec.data.source,
                "documents": manifest["documents"],
                "characters": manifest["characters"],
                "duplicates": manifest.get("duplicates"),
                "tokens": {name: split["tokens"] for name, split in splits.items()},
                "tokenizer": tokenizer,
                "vocab_size": manifest["vocab_size"],
                "data_hash": store.data_hash,
                "heldout_documents": splits["validation"]["documents"],
                "heldout_tokens": splits["validation"]["tokens"] - splits["validation"]["documents"],
            },
            "fingerprints": dict(fingerprints or {}),
            "versions": {
                "distillaw": __version__,
                **{name: found for name, found in installed(*_RECORDED).items() if found is not None},
            },
        },
    )


_RECORDED = ("torch", "transformers", "tokenizers", "numpy")
_NEEDED = {"train": ("torch", "transformers", "tokenizers", "pyarrow", "rensa"), "report": ("jinja2", "matplotlib")}


def require_trainable() -> None:
    """Refuse to start where the training extra is not installed.

    Raises:
        ConfigError: naming the missing package and how to get it.
    """
    for extra, packages in _NEEDED.items():
        if missing := sorted(name for name, found in installed(*packages).items() if found is None):
            raise ConfigError(
                f'a study needs {", ".join(missing)}: pip install "distillaw[{extra}]" (torch first: its CPU build)'
            )


def write_tables(spec: StudySpec, facts: Facts, progress: Progress, study: StudyFolder) -> None:
    """Write runs.parquet (the runs that belong to this study file) and tuning.json."""
    planner = Planner(spec, facts, progress)
    ready = planner.ready_jobs()
    # tuning jobs come first: a run of the search that serves the grid is the grid's
    purposes = {(run_id, job.trunk.start_arm): job.trunk.purpose for job in ready.jobs for run_id in job.run_ids}
    if any(study.run(run_id).state() == "done" for run_id, _ in purposes):
        study.write_table(purposes)
    write_json(study.path / "tuning.json", tuning_record(spec, planner, ready))


def tuning_record(spec: StudySpec, planner: Planner, ready: ReadyJobs) -> dict[str, object]:
    """tuning.json: per arm and size, the rates and batches tried, their losses, the best, whether interior."""
    arms = []
    for search in (ready.supervised, ready.teacher, ready.distilled, *ready.cuts.values()):
        if search is not None:
            keys = dict.fromkeys((place.arm, place.size) for place in search.rate)
            arms += [_arm(spec, planner, search, *key, ready.reference) for key in keys]
    batch = planner.batch_tokens(ready.supervised.batch) if ready.supervised else spec.batch_tokens
    return {"enabled": spec.tuning.enabled, "batch_tokens": batch, "arms": arms}


def _arm(
    spec: StudySpec, planner: Planner, search: RateSearch, arm: str, size: str, teacher_run: str | None
) -> dict[str, object]:
    """One arm at one size."""

    def entry(point: LatticePoint) -> dict[str, object]:
        job, loss = planner.point(point, teacher_run), search.points[point]
        return {
            "peak_lr": job.trunk.peak_lr,
            "batch_tokens": job.trunk.batch_tokens,
            "branch_lr": job.trunk.branch_lr(job.budgets[0]),
            "tokens": job.budgets[0],
            "loss": finite(loss),
            "run_id": job.run_ids[0],
        }

    def rates(place: SearchPlace) -> dict[str, object]:
        best = search.best(place)
        tried = sorted(p for p in search.points if (p.place, p.batch) == (place, best.batch))
        job = planner.point(best, teacher_run)
        return {
            "grid": [entry(point) | {"multiplier": 2.0**point.rate} for point in tried],
            "tokens": job.budgets[0],
            "best": job.trunk.peak_lr,
            "interior": search.interior[place],
        }

    near, far = SearchPlace(arm, size), SearchPlace(arm, size, True)
    most = far if far in search.rate else near
    found: dict[str, object] = {
        "arm": arm,
        "size": size,
        "params": int(planner.params(size)),
        "tokens": spec.tuning_tokens,
    }
    found |= {
        name: rates(place) for name, place in {"learning_rate": near, "horizon": far}.items() if place in search.rate
    }
    if (arm, size) in search.batch_interior:
        tried = sorted(
            (p for p in search.points if (p.place, p.rate) == (most, search.rate[most])), key=lambda p: p.batch
        )
        batches = [entry(point) | {"multiplier": 2.0**point.batch} for point in tried]
        best = planner.batch_tokens(search.batch)
        found["batch"] = {"grid": batches, "best": best, "interior": search.batch_interior[arm, size]}
    return found
