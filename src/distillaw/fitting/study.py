"""The laws of a study: every family that its runs may carry, or why a family cannot be fitted."""

from collections.abc import Callable, Mapping
from pathlib import Path

from distillaw.errors import DistillawError
from distillaw.fitting.api import fit
from distillaw.fitting.result import FitResult
from distillaw.runs.files import write_json
from distillaw.runs.places import GENERATOR, check_file, remove_file

FAMILIES = ("supervised", "distillation-kappa", "distillation-reduced", "capacity-gap")


def fit_families(
    source: str | Path, *, bootstrap: int = 300, columns: Mapping[str, str] | None = None
) -> tuple[dict[str, FitResult], dict[str, str]]:
    """Each family fitted to a table of runs or a study folder, and why the others could not be.

    Args:
        source: as in `distillaw.fit`.
        bootstrap: replicates.
        columns: {our name: column}.
    """
    fits: dict[str, FitResult] = {}
    errors: dict[str, str] = {}
    for family in FAMILIES:
        try:
            fits[family] = fit(source, family=family, bootstrap=bootstrap, columns=columns)
        except DistillawError as error:
            errors[family] = str(error)
    return fits, errors


def law_files(folder: Path) -> list[Path]:
    """Where a study keeps its laws, and why those that cannot be fitted are not."""
    return [folder / "laws" / f"{family}{end}" for family in FAMILIES for end in (".json", ".error.json")]


def fit_laws(
    folder: Path, *, mark: Callable[[FitResult], FitResult] = lambda fit: fit
) -> tuple[dict[str, FitResult], dict[str, str]]:
    """As `fit_families` of a study folder, kept in laws/<family>.json; what cannot be fitted says why there.

    Args:
        folder: the study.
        mark: what to add to each fit before it is kept, such as the study's doubts.

    Raises:
        ConfigError: a file of another origin stands where a law goes; nothing has been written.
    """
    for file in law_files(folder):
        check_file(file)
    fits, errors = fit_families(folder)
    fits = {family: mark(fit) for family, fit in fits.items()}
    for family in FAMILIES:
        file, why = folder / "laws" / f"{family}.json", folder / "laws" / f"{family}.error.json"
        if family in fits:
            fits[family].save(file)
            remove_file(why)
        else:
            remove_file(file)
            write_json(why, {"generator": GENERATOR, "family": family, "error": errors[family]})
    return fits, errors
