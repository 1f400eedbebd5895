"""Folders of runs: where things lie, what state they are in, and the table of finished ones.

    runs/<run_id>/   spec.json status.json metrics.jsonl distances.jsonl calibration.json heldout.parquet result.json
                     + a Hugging Face model
    trunks/<id>/     metrics.jsonl distances.jsonl state/step-*/ (latest checkpoint of the constant-rate trunk)

`result.json` is written last: a folder that has it is finished, and nothing finished is ever redone.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distillaw.errors import CacheError, ConfigError
from distillaw.runs.evaluations import evaluation_columns
from distillaw.runs.files import read_json, write_json, write_with

CALIBRATION_KEYS = ("ece", "ece_se", "ece_teacher", "ece_teacher_se", "kl_from_teacher", "kl_from_teacher_se")
RESULT_KEYS = (
    "run_id", "group", "role", "purpose", "arm", "params", "total_params", "layers", "width", "tokens",
    "teacher_run", "teacher_loss", "teacher_params", "teacher_total_params", "teacher_tokens", "lambda",
    "temperature", "divergence", "top_k", "top_p", "init", "start_loss", "seed",
    "loss", "loss_se", "peak_lr", "branch_lr", "cooldown", "batch_tokens", "steps", "split", "unique_tokens",
    "train_flops", "teacher_flops", "teacher_flops_spent", "seconds", "device", "vocab_size", "context",
    *CALIBRATION_KEYS,
)  # fmt: skip
"""Columns of runs.parquet, in order: the interface contract's keys and what a fit or a report needs besides."""
_LATER = {"divergence": "forward-kl", "top_k": 0, "top_p": 1.0, "cooldown": None, "start_loss": None, "branch_lr": None,
          "teacher_total_params": None} | dict.fromkeys(CALIBRATION_KEYS)  # fmt: skip
"""Keys that older results lack, and what they were then; the cooldown is in the run's spec.json, and no rate fell."""

CALIBRATION = "calibration.json"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run on disk."""

    path: Path

    def result(self) -> dict[str, object] | None:
        """The result of a finished run; None if it is not finished.

        Raises:
            CacheError: result.json is damaged or lacks keys.
        """
        file = self.path / "result.json"
        if not file.exists():
            return None
        result = _LATER | read_json(file)
        if missing := [key for key in RESULT_KEYS if key not in result]:
            raise CacheError(
                f"{file}: damaged, keys missing: {missing}. Delete {self.path} to have the run done again"
            )
        return result

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
        """Write status.json."""
        write_json(self.path / "status.json", {"state": state, "pid": os.getpid(), **details})

    def write_spec(self, spec: Mapping[str, object]) -> None:
        """Write spec.json."""
        write_json(self.path / "spec.json", spec)

    def finish(self, result: Mapping[str, object]) -> None:
        """Write result.json, the mark of a finished run, then the status."""
        write_json(self.path / "result.json", {key: result[key] for key in RESULT_KEYS})
        self.set_status("done")

    def write_heldout(self, documents: list[int], tokens: list[int], loss_sums: list[float]) -> None:
        """Write heldout.parquet: one row per held-out document, so that any two runs can be paired."""
        import pyarrow as pa
        from pyarrow import parquet as pq

        table = pa.table({
            "document": pa.array(documents, pa.int64()), "tokens": pa.array(tokens, pa.int64()),
            "loss_sum": pa.array(loss_sums, pa.float64()),
        })  # fmt: skip
        write_with(self.path / "heldout.parquet", lambda path: pq.write_table(table, path))


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

    def trunk(self, trunk_id: str) -> Path:
        """The folder of one trunk's checkpoint and log."""
        return self.path / "trunks" / trunk_id

    def results(self) -> list[dict[str, object]]:
        """Results of all finished runs, by run id."""
        folders = sorted((self.path / "runs").glob("*/result.json"))
        return [result for file in folders if (result := RunFolder(file.parent).result()) is not None]

    def write_table(self, purposes: Mapping[str, str]) -> Path:
        """Write runs.parquet from the result files of the given runs; the files stay the truth.

        Runs that were evaluated (`distillaw evaluate`) bring further columns, empty for the others.

        Args:
            purposes: run id -> purpose in this study; finished runs that are not named are left out.
        """
        import pyarrow as pa
        from pyarrow import parquet as pq

        rows = [
            r | {"purpose": purposes[str(r["run_id"])]}
            for r in self.results()
            if str(r["run_id"]) in purposes
        ]
        if not rows:
            raise ConfigError(f"{self.path}: no finished runs yet; `distillaw study run` makes them")
        types = column_types()
        columns = {key: pa.array([row[key] for row in rows], types[key]) for key in RESULT_KEYS}
        measured = [evaluation_columns(self.run(str(row["run_id"])).path) for row in rows]
        for key in dict.fromkeys(key for each in measured for key in each):
            columns[key] = pa.array([each.get(key) for each in measured], pa.float64())
        table = pa.table(columns)
        file = self.path / "runs.parquet"
        write_with(file, lambda path: pq.write_table(table, path))
        return file

    def renew_table(self) -> None:
        """Write runs.parquet again with the runs that it has; nothing where there is none yet."""
        from pyarrow import parquet as pq

        file = self.path / "runs.parquet"
        if file.exists():
            known = pq.read_table(file, columns=["run_id", "purpose"]).to_pylist()
            self.write_table({row["run_id"]: row["purpose"] for row in known})


def column_types() -> dict[str, object]:
    """Parquet type of every column of runs.parquet."""
    import pyarrow as pa

    text = (
        "run_id",
        "group",
        "role",
        "purpose",
        "arm",
        "teacher_run",
        "init",
        "split",
        "device",
        "divergence",
    )
    counts = ("params", "total_params", "layers", "width", "tokens", "teacher_params", "teacher_total_params",
              "teacher_tokens", "seed", "batch_tokens", "steps", "unique_tokens", "vocab_size", "context",
              "top_k")  # fmt: skip
    types: dict[str, object] = dict.fromkeys(RESULT_KEYS, pa.float64())
    return types | dict.fromkeys(text, pa.string()) | dict.fromkeys(counts, pa.int64())
