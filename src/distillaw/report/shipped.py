"""The run table of the pocket study that ships with the package, refitted live: what a larger study can show."""

from dataclasses import dataclass
from importlib.resources import as_file, files

from distillaw.errors import DistillawError
from distillaw.figures.fits import LABELS, FittedLaw, fitted_law
from distillaw.report.content import status_words
from distillaw.report.fits import fits_picture
from distillaw.report.picture import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """What the refit shows, or why there is none."""

    picture: Picture | None
    notes: tuple[str, ...]


def refit_shipped_table() -> Refit:
    """Fit both laws on the shipped table, now, and draw predicted against measured.

    Without bootstrap: the picture needs the estimate alone, and every report pays for this. The checks of
    identifiability stay on, so that a law which a full fit would not stand by is not drawn here either.
    """
    source = files("distillaw") / "studies" / "pocket_runs.parquet"
    if not source.is_file():
        return Refit(
            picture=None, notes=("The run table of the pocket study is not part of this installation.",)
        )
    from distillaw.fitting.api import fit
    from distillaw.runs.table import read_table

    with as_file(source) as path:
        table = read_table(path)
    laws: list[FittedLaw] = []
    notes = []
    for family, label in LABELS.items():
        try:
            found = fit(table, family=family, bootstrap=0)
        except DistillawError as error:
            notes.append(f"Shipped pocket study, {label}: {error}")
            continue
        law = fitted_law(label, found, table["loss"])
        why = "." if law is not None else f": {found.remedy or found.status.value}"
        size = f"{found.nobs} rows in {found.ngroups} independent runs"
        notes.append(f"Shipped pocket study, {label}: {status_words(found.status.name)}, {size}{why}")
        laws += [law] if law is not None else []
    picture = None if not laws else fits_picture(
        laws, name="shipped-fit", title="Predicted against measured: the shipped pocket study",
        of="The shipped pocket study, not this one",
        caption="Not this study: the run table of the pocket study, which ships with the package, refitted while this "
        "page was made. It shows what laws look like where there are enough runs to fit them.",
    )  # fmt: skip
    return Refit(picture=picture, notes=tuple(notes))
