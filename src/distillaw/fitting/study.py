"""The laws of a study: every family that its runs may carry, or why a family cannot be fitted."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from distillaw.errors import CacheError, DataError, DistillawError
from distillaw.fitting.result import FitResult
from distillaw.runs.files import read_json, vouched, write_json
from distillaw.runs.places import GENERATOR, check_file, remove_file
from distillaw.runs.record import CONCLUSION, StudyRecord
from distillaw.runs.spec import ARMS

FAMILIES = ("supervised", "distillation-kappa", "distillation-reduced", "capacity-gap")
LAWS = (*FAMILIES, *(f"capacity-gap-{arm}" for arm in ARMS[1:]))
"""Laws that a study keeps: a line of teachers for every arm of first weights, the first of them without its name."""


def fit_families(
    source: str | Path, *, bootstrap: int = 300, columns: Mapping[str, str] | None = None
) -> tuple[dict[str, FitResult], dict[str, str]]:
    """Each of `LAWS` fitted to a table of runs or a study folder, and why families could not be.

    Args:
        source: as in `distillaw.fit`.
    """
    from distillaw.fitting.api import fit_arms  # whoever asks for the laws that a study keeps fits none

    fits: dict[str, FitResult] = {}
    errors: dict[str, str] = {}
    for family in FAMILIES:
        try:
            arms = fit_arms(source, family=family, bootstrap=bootstrap, columns=columns)
            fits |= {f"{family}-{arm}" if k else family: found for k, (arm, found) in enumerate(arms.items())}
        except DistillawError as error:
            errors[family] = str(error)
    return fits, errors


def law_files(folder: Path) -> list[Path]:
    """Where a study keeps its laws, and why those that cannot be fitted are not."""
    return [folder / "laws" / f"{family}{end}" for family in LAWS for end in (".json", ".error.json")]


def fit_laws(
    folder: Path, *, mark: Callable[[FitResult], FitResult] = lambda fit: fit
) -> tuple[dict[str, FitResult], dict[str, str]]:
    """As `fit_families` of a study folder, kept in laws/<family>.json; what cannot be fitted says why there.

    Args:
        mark: what to add to each fit before it is kept, such as the study's doubts.

    Raises:
        ConfigError: a file of another origin stands where a law goes; nothing has been written.
    """
    for file in law_files(folder):
        check_file(file)
    fits, errors = fit_families(folder)
    fits = {family: mark(fit) for family, fit in fits.items()}
    for family in LAWS:
        file, why = folder / "laws" / f"{family}.json", folder / "laws" / f"{family}.error.json"
        if family in fits:
            fits[family].save(file)
        else:
            remove_file(file)
        if family in errors:
            write_json(why, {"generator": GENERATOR, "family": family, "error": errors[family]})
        else:
            remove_file(why)
    return fits, errors


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLaws:
    """What laws/ of a study folder holds."""

    fits: Mapping[str, FitResult]
    """By file stem; unreadable ones are left out."""
    errors: Mapping[str, str]
    """Why a family was not fitted, by family."""
    problems: Sequence[str]
    """What could not be read or is missing, one sentence each."""


@lru_cache(maxsize=4)
def kept_laws(record: StudyRecord) -> KeptLaws:
    """The laws of a study, read once for each record of it."""
    folder = record.folder / "laws"
    fits, problems, errors = {}, [], {}
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".error.json"):
            with contextlib.suppress(CacheError):
                errors[path.name.removesuffix(".error.json")] = str(read_json(path).get("error", ""))
            continue
        try:
            fit = FitResult.load(path)
            if path.stem in LAWS and not path.stem.startswith(fit.family):
                raise DataError(f"{path}: holds a {fit.family} law, so it is not the file of its name")
        except (DataError, OSError, KeyError, TypeError, ValueError) as error:
            problems.append(f"{error}; this law is left out")
        else:
            fits[path.stem] = fit
    missing = _listed(record.folder) - {path.name for path in folder.glob("*.json")}
    problems += [
        f"{folder / name}: missing, so this law is left out; `distillaw report {record.folder}`"
        for name in sorted(missing)
    ]
    return KeptLaws(fits=fits, errors=errors, problems=tuple(problems))


def _listed(folder: Path) -> set[str]:
    """Names of the laws that a study's conclusion was drawn with."""
    try:
        listed = vouched(read_json(folder / CONCLUSION))
    except CacheError:
        return set()
    return {Path(name).name for name in listed if name.startswith("laws/") and ".error." not in name}
