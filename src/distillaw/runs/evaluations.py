"""What was measured of a run's model after it finished: evaluation.json in its folder, columns in the run table."""

from collections.abc import Mapping
from pathlib import Path

from distillaw.runs.files import read_json, write_json

RECORD = "evaluation.json"


def evaluation_columns(run: Path) -> dict[str, float]:
    """Columns of an evaluated run in the run table: `score_<task>`, `score_<task>_se`, `bits_per_byte`, `text_ece`, ...

    A run's own `ece` is that on its study's held-out documents; `text_ece` is that on the text it was evaluated on.

    Args:
        run: the run's folder.

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
        f"score_{name}": mean[key]
        for name, key in (("mean_of_six", "score"), ("mean_of_six_se", "se"))
        if mean
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
        evaluation: evaluation.json.
    """
    from distillaw.runs.store import StudyFolder

    run = model.resolve()
    if run.parent.name != "runs" or not (run / "result.json").exists():
        return
    if evaluation.resolve() != run / RECORD:
        write_json(run / RECORD, read_json(evaluation))
    StudyFolder(run.parent.parent).renew_table()


def _part(record: Mapping[str, object], name: str) -> dict:
    part = record.get(name)
    return part if isinstance(part, dict) else {}
