"""Folders of runs: where things lie, what state they are in, and the table of finished ones.

    runs/<run_id>/   spec.json status.json metrics.jsonl distances.jsonl calibration.json heldout.parquet result.json
                     + a Hugging Face model
    trunks/<id>/     metrics.jsonl distances.jsonl state/step-*/ (latest checkpoints of the constant-rate trunk)

`result.json` is written last: a folder that has it is finished, and nothing finished is ever redone.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillaw.errors import CacheError, ConfigError, DistillawError
from distillaw.runs.files import (
    FILES,
    RESULT,
    check_files,
    check_table,
    digests,
    read_json,
    vouched,
    write_json,
    write_table,
    write_with,
)
from distillaw.runs.paired import DocumentScores, read_scores
from distillaw.runs.places import claim_folder
from distillaw.runs.spec import arm_of

CALIBRATION_KEYS = ("ece", "ece_se", "ece_teacher", "ece_teacher_se", "kl_from_teacher", "kl_from_teacher_se")
RESULT_KEYS = (
    *(
        "run_id group role purpose arm params total_params layers width tokens teacher_run teacher_loss "
        "teacher_params teacher_total_params teacher_tokens lambda temperature divergence top_k top_p "
        "init start_loss start_params start_run seed loss loss_se peak_lr branch_lr cooldown batch_tokens steps split "
        "unique_tokens train_flops teacher_flops teacher_flops_spent seconds device vocab_size context"
    ).split(),
    *CALIBRATION_KEYS,
)
"""Columns of runs.parquet, in order: the interface contract's keys and what a fit or a report needs besides."""
SKIPPED = "skipped_steps"
"""Of a result whose run left out steps; no column."""
_LATER = {
    "divergence": "forward-kl",
    "top_k": 0,
    "top_p": 1.0,
    "cooldown": None,
    "start_loss": None,
    "start_params": None,
    "start_run": None,
    "branch_lr": None,
    "teacher_total_params": None,
} | dict.fromkeys(CALIBRATION_KEYS)
"""Keys that older results lack, and what they were then; the cooldown is in the run's spec.json, and no rate fell."""

TABLE = "runs.parquet"
CALIBRATION, HELDOUT, SPEC = "calibration.json", "heldout.parquet", "spec.json"
EVIDENCE = (SPEC, HELDOUT, CALIBRATION, "metrics.jsonl", "distances.jsonl")
"""What tables, verdicts and reports read of a finished run besides its result."""
_UNSIGNED = {RESULT, "status.json", "README.md", "evaluation.json"}
"""Files of a finished run that its result does not vouch for: they may change."""
_AGREED = ("run_id", "role", "params", "seed", "teacher_run")
"""What spec.json and result.json both say."""
_ARMS_OF_BEFORE = (None, "supervised", "distilled")
"""What `arm` was of a study's run until it said where the first weights are from; of other runs it is their stage."""
ROUNDING = 1e-6
"""Share by which a loss may differ from that of its held-out documents."""


def run_result(model: str | Path) -> dict[str, Any]:
    """What the run that a model's folder holds came to; empty where there is none, or where it is damaged."""
    path = Path(model) / RESULT
    try:
        return read_json(path) if path.is_file() else {}
    except CacheError:
        return {}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run on disk."""

    path: Path

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run; None if it is not finished.

        Raises:
            CacheError: result.json is damaged or lacks keys, or what it rests on is damaged.
        """
        file = self.path / RESULT
        if not file.exists():
            return None
        result = _LATER | read_json(file)
        if missing := [key for key in RESULT_KEYS if key not in result]:
            raise CacheError(f"{file}: damaged, keys missing: {missing}. Delete {self.path} to have the run done again")
        self.check(result)
        return result | {"arm": arm_of(result)} if result["arm"] in _ARMS_OF_BEFORE else result

    def check(self, result: Mapping[str, object]) -> None:
        """Refuse a finished run whose files are not those that were written, or do not belong together.

        Args:
            result: what its result.json holds. What it vouches for needs no second look; of a run without checksums
                the loss is compared with that of its documents.

        Raises:
            CacheError: naming the file, and what is wrong with it.
        """
        again = f"Restore it from a copy, or delete {self.path} to have the run done again"
        if result.get("run_id", self.path.name) != self.path.name:
            raise CacheError(f"{self.path / RESULT}: the result of another run ({result['run_id']}). {again}")
        check_files(self.path, result, EVIDENCE, remedy=again)
        spec = read_json(self.path / SPEC) if (self.path / SPEC).exists() else {}
        for key in _AGREED:
            if key in spec and key in result and spec[key] != result[key]:
                raise CacheError(
                    f"{self.path / RESULT}: {key} {result[key]}, and {spec[key]} in its {SPEC}: one of them is of "
                    f"another run. {again}"
                )
        if HELDOUT in vouched(result) or not (self.path / HELDOUT).exists():
            return
        there, stated = self.scores().loss, result.get("loss")
        if isinstance(stated, int | float) and not math.isclose(there, stated, rel_tol=ROUNDING):
            raise CacheError(
                f"{self.path}: a loss of {stated:.6g} in {RESULT}, and {there:.6g} over the documents of {HELDOUT}: "
                f"one of them is damaged or of another run. {again}"
            )

    def scores(self) -> DocumentScores:
        """Held-out losses by document, of a run that was read by `result`.

        Raises:
            CacheError: missing, unreadable or damaged.
            DataError: empty, or a loss that is not finite.
        """
        return read_scores(self.path / HELDOUT)

    def state(self) -> str:
        """`planned`, `running`, `done` or `failed`."""
        if (self.path / "result.json").exists():
            return "done"
        status = self.path / "status.json"
        state = str(read_json(status).get("state")) if status.exists() else "planned"
        return "planned" if state == "done" else state  # its result was deleted: it is to be done again

    def failure(self) -> tuple[str, bool]:
        """Error of a failed run, and whether it diverged."""
        status = read_json(self.path / "status.json")
        return str(status.get("error", "unknown")), bool(status.get("diverged", False))

    def set_status(self, state: str, **details: object) -> None:
        """Write status.json.

        Raises:
            ConfigError: the folder holds what no run has written.
        """
        self._claim()
        write_json(self.path / "status.json", {"state": state, "pid": os.getpid(), **details})

    def write_spec(self, spec: Mapping[str, object]) -> None:
        """Write spec.json; errors as of `set_status`."""
        self._claim()
        write_json(self.path / SPEC, spec)

    def finish(self, result: Mapping[str, object]) -> None:
        """Write result.json, the mark of a finished run that vouches for its files, then the status."""
        self._claim()
        skipped = {SKIPPED: result[SKIPPED]} if result.get(SKIPPED) else {}
        write_json(self.path / RESULT, {key: result[key] for key in RESULT_KEYS} | skipped | self.seal())
        self.set_status("done")

    def _claim(self) -> None:
        """Make the folder ours as a run begins; one that was begun holds a file of a run."""
        begun = ("status.json", SPEC, RESULT, "heldout.parquet")
        if not any((self.path / name).exists() for name in begun):
            claim_folder(self.path)

    def seal(self) -> dict[str, object]:
        """What result.json says of the files beside it: scores, logs, and the model here or in model/."""
        files = [file for place in (self.path, self.path / "model") for file in place.glob("[!.]*") if file.is_file()]
        return {FILES: digests(self.path, [file for file in files if file.name not in _UNSIGNED])}

    def write_heldout(self, scores: DocumentScores) -> None:
        """Write heldout.parquet: one row per held-out document, so that any two runs can be paired."""
        import pyarrow as pa
        from pyarrow import parquet as pq

        kinds = {"document": pa.int64(), "tokens": pa.int64(), "loss_sum": pa.float64()}
        table = pa.table({name: pa.array(getattr(scores, name), kind) for name, kind in kinds.items()})
        write_with(self.path / HELDOUT, lambda path: pq.write_table(table, path))


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """One study on disk."""

    path: Path

    @property
    def data(self) -> Path:
        """Token shards, tokenizer and manifest."""
        return self.path / "data"

    @property
    def workers(self) -> Path:
        """Logs of the workers, and who they are while they live."""
        return self.path / "workers"

    def run(self, run_id: str) -> RunFolder:
        """The folder of one run, existing or not."""
        return RunFolder(self.path / "runs" / run_id)

    def unfinished(self, run_ids: Iterable[str]) -> list[str]:
        """Those that are not done."""
        return [run_id for run_id in run_ids if self.run(run_id).state() != "done"]

    def fail(self, run_ids: Iterable[str], error: str, *, diverged: bool = False) -> dict[str, str]:
        """Mark those failed that are not done; they and their error, also where the disk has no room to say so."""
        failed = self.unfinished(run_ids)
        try:
            for run_id in failed:
                self.run(run_id).set_status("failed", error=error, diverged=diverged)
        except DistillawError as full:
            error = f"{error}; and its status could not be written: {full}"
        return dict.fromkeys(failed, error)

    def trunk(self, trunk_id: str) -> Path:
        """The folder of one trunk's checkpoint and log."""
        return self.path / "trunks" / trunk_id

    def results(self) -> list[dict[str, Any]]:
        """Results of all finished runs, by run id."""
        folders = sorted((self.path / "runs").glob("*/result.json"))
        return [result for file in folders if (result := RunFolder(file.parent).result()) is not None]

    def write_table(self, purposes: Mapping[tuple[str, str], str]) -> Path:
        """Write runs.parquet from the result files of the given runs; the files stay the truth.

        Runs that were evaluated (`distillaw evaluate`) bring further columns, empty for the others.

        Args:
            purposes: (run id, arm) -> purpose in this study; finished runs that are not named are left out. A run
                that serves two arms has a row in each.
        """
        import pyarrow as pa

        results = {str(r["run_id"]): r for r in self.results()}
        rows = [
            results[run_id] | {"purpose": purpose, "arm": arm}
            for (run_id, arm), purpose in sorted(purposes.items())
            if run_id in results
        ]
        if not rows:
            raise ConfigError(f"{self.path}: no finished runs yet; `distillaw study run` makes them")
        types = column_types()
        columns = {key: pa.array([row[key] for row in rows], types[key]) for key in RESULT_KEYS}
        measured = [evaluation_columns(self.run(str(row["run_id"])).path) for row in rows]
        for key in dict.fromkeys(key for each in measured for key in each):
            columns[key] = pa.array([each.get(key) for each in measured], pa.float64())
        file = self.path / TABLE
        write_table(pa.table(columns), file)
        return file

    def renew_table(self) -> None:
        """Write runs.parquet again with the runs that it has; nothing where there is none yet."""
        from pyarrow import parquet as pq

        file = self.path / TABLE
        if file.exists():
            known = check_table(pq.read_table(file), file).select(["run_id", "purpose", "arm", "init"]).to_pylist()
            self.write_table({(row["run_id"], arm_of(row)): row["purpose"] for row in known})


def saved_step(state: Path) -> int:
    """Step of the latest checkpoint in the state folder of a trunk or a run; -1 without one."""
    steps = sorted(state.glob("step-*"))
    return int(steps[-1].name.removeprefix("step-")) if steps else -1


def column_types() -> dict[str, object]:
    """Parquet type of every column of runs.parquet."""
    import pyarrow as pa

    text = "run_id group role purpose arm teacher_run init start_run split device divergence".split()
    counts = (
        "params total_params layers width tokens teacher_params teacher_total_params teacher_tokens "
        "seed batch_tokens steps unique_tokens vocab_size context top_k"
    ).split()
    types: dict[str, object] = dict.fromkeys(RESULT_KEYS, pa.float64())
    return types | dict.fromkeys(text, pa.string()) | dict.fromkeys(counts, pa.int64())


RECORD = "evaluation.json"


def evaluation_columns(run: Path) -> dict[str, float]:
    """Columns of an evaluated run in the run table: `score_<task>`, `score_<task>_se`, `bits_per_byte`, `text_ece`, ...

    A run's own `ece` is that on its study's held-out documents; `text_ece` is that on the text it was evaluated on.

    Raises:
        CacheError: evaluation.json is damaged.
    """
    file = run / RECORD
    if not file.exists():
        return {}
    record = read_json(file)
    columns: dict[str, float] = {}
    for task, score in _part(record, "scores").items():
        columns |= {f"score_{task}": score["score"], f"score_{task}_se": score["se"]}
    mean = _part(record, "mean_of_six")
    columns |= {
        f"score_{name}": mean[key] for name, key in (("mean_of_six", "score"), ("mean_of_six_se", "se")) if mean
    }
    heldout, calibration = _part(record, "heldout"), _part(record, "calibration")
    columns |= {key: heldout[key] for key in ("bits_per_byte", "bits_per_byte_se") if key in heldout}
    for column, key in (("text_ece", "ece_data"), ("text_ece_teacher", "ece_teacher")):
        if key in calibration:
            columns |= {column: calibration[key], f"{column}_se": calibration[f"{key}_se"]}
    return columns


def put_into_study(model: Path, evaluation: Path) -> None:
    """Copy a finished evaluation into the run whose model it is, and renew its study's table; else do nothing.

    Args:
        model: the evaluated folder; a run's is STUDY/runs/RUN_ID with result.json.
    """
    run = model.resolve()
    if run.parent.name != "runs" or not (run / "result.json").exists():
        return
    if evaluation.resolve() != run / RECORD:
        write_json(run / RECORD, read_json(evaluation))
    StudyFolder(run.parent.parent).renew_table()


def _part(record: Mapping[str, object], name: str) -> dict:
    part = record.get(name)
    return part if isinstance(part, dict) else {}
