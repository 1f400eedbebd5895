"""What follows the runs of a study: fit its laws, decide, write the report. Nothing is trained here.

The conclusion is a function of runs.parquet, study.json and predictions/; while none of them changes it is not
computed again.
"""

from collections.abc import Callable
from pathlib import Path

from distillaw.controls.api import check_controls, check_design, doubted_law, summary
from distillaw.errors import CacheError
from distillaw.fitting.study import fit_laws
from distillaw.runs.files import FILES, check_files, content_hash, digests, file_sha256, read_json, vouched, write_json
from distillaw.runs.places import GENERATOR
from distillaw.runs.record import CONCLUSION, read_study
from distillaw.verifying.frozen import frozen_files, predictions_folder
from distillaw.version import __version__


def conclude_study(folder: Path, *, say: Callable[[str], None] = lambda line: None) -> dict[str, object]:
    """Check the controls of a study folder, fit its laws, decide for its target, write report.html and verdict.json.

    Controls that fail do not stop a fit: they go into the laws' files, the verdict and the report.

    Args:
        folder: the study.
        say: told how the controls stand, those of the fitted laws included.

    Returns:
        What verdict.json holds.

    Raises:
        DistillawError: no finished runs, or the tables are damaged.
    """
    files = [folder / name for name in ("runs.parquet", "study.json", "tuning.json")]
    files += frozen_files(predictions_folder(folder))
    inputs = content_hash([*map(file_sha256, files), __version__])
    if (known := _concluded(folder, inputs)) is not None:
        if line := known.get("controls"):
            say(str(line))
        return read_json(folder / "verdict.json")
    controls = check_design(read_study(folder))
    fit_laws(folder, mark=lambda fit: doubted_law(fit, controls))
    line = f"controls: {summary(check_controls(read_study(folder)))}: distillaw study check {folder}"
    say(line)
    from distillaw.report.document import write_report

    write_report(folder)
    verdict = read_json(folder / "verdict.json")
    made = [folder / "verdict.json", *(folder / "laws").glob("*.json")]
    said = {"generator": GENERATOR, "inputs": inputs, "sentence": verdict.get("sentence", ""), "controls": line}
    write_json(folder / CONCLUSION, {**said, FILES: digests(folder, made)})
    return verdict


def _concluded(folder: Path, inputs: str) -> dict[str, object] | None:
    """The record of a conclusion from the same inputs; None where there is none, or something of it is not whole."""
    if not (folder / "report.html").exists() or not (folder / CONCLUSION).exists():
        return None
    try:
        known = read_json(folder / CONCLUSION)
        check_files(folder, known, vouched(known), remedy="It is made again")
    except CacheError:
        return None
    return known if known.get("inputs") == inputs else None
