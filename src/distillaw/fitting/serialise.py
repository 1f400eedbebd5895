"""A fit as one JSON file that predicts the same after loading: parameters, replicates, ranges, provenance."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distillaw.errors import CacheError, DataError
from distillaw.fitting.curve import COEFFICIENTS, Curve
from distillaw.fitting.misfit import Calibration
from distillaw.fitting.models import FREE
from distillaw.fitting.result import FitResult
from distillaw.fitting.status import FitStatus
from distillaw.laws.base import Box
from distillaw.runs.files import parse_json, read_text, sealed, unsealed, write_text
from distillaw.runs.places import check_file

FORMAT = "distillaw-fit"
VERSION = 1
_FAR = 1e4
"""Parameters are logarithms and exponents; the bounds of every fit lie far inside."""
_PLAIN = ("family", "remedy", "nobs", "ngroups", "objective", "delta", "level", "noise", "condition_number",
          "solver_disagreement", "seconds", "seed")  # fmt: skip


def to_json(result: FitResult) -> dict[str, object]:
    """Plain JSON values; numbers at full precision, infinities as null."""
    return {
        "format": FORMAT,
        "schema_version": VERSION,
        "status": result.status.name,
        "params_convention": result.params_convention,
        **{name: _finite(getattr(result, name)) for name in _PLAIN},
        "params": {k: _finite(v) for k, v in result.params.items()},
        "conf_int": {k: [_finite(x) for x in v] for k, v in result.conf_int().items()},
        "derived": _plain(result.derived),
        "curve": _curve_to_json(result.curve),
        "fitted_range": {k: list(v) for k, v in result.fitted_range.as_dict().items()},
        "calibration": {name: getattr(result.calibration, name) for name in Calibration.__slots__},
        "provenance": _plain(result.provenance),
        "resid": result.resid.tolist(),
        "fitted_rows": result.fitted_rows.tolist(),
        "notes": list(result.notes),
        "details": _plain(result.details),
    }


def from_json(document: Mapping) -> FitResult:
    """The result that `to_json` wrote.

    Raises:
        DataError: not a fit of this format and version.
    """
    if document.get("format") != FORMAT:
        raise DataError(f'not a fitted law: expected "format": "{FORMAT}", got {document.get("format")!r}')
    if document.get("schema_version") != VERSION:
        raise DataError(
            f"fitted law of version {document.get('schema_version')}; this program reads {VERSION}"
        )
    try:
        plain = {name: document[name] for name in _PLAIN}
        if plain["condition_number"] is None and document["curve"] is not None:
            plain["condition_number"] = float("inf")
        _check_plain({**plain, **document["calibration"]})
        if not isinstance(document["provenance"], Mapping) or not isinstance(document["details"], Mapping):
            raise TypeError("its provenance or details are no table")
        return FitResult(
            status=FitStatus[document["status"]],
            curve=_curve_from_json(document["curve"]),
            fitted_range=Box.of({k: (v[0], v[1]) for k, v in document["fitted_range"].items()}),
            calibration=Calibration(**document["calibration"]),
            provenance=document["provenance"],
            resid=np.array(document["resid"], dtype=np.float64),
            fitted_rows=np.array(document["fitted_rows"], dtype=np.int64),
            notes=tuple(map(str, document["notes"])),
            details=document["details"],
            **plain,
        )
    except KeyError as error:
        raise DataError(f"fitted law is incomplete: no {error}") from None
    except (TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        raise DataError(f"fitted law is damaged: {error}") from None


def _check_plain(plain: Mapping[str, object]) -> None:
    """Refuse what the rest of the package would take for a number or a text."""
    for name, value in plain.items():
        if name in ("family", "remedy"):
            is_right = isinstance(value, str)
        elif name in ("nobs", "ngroups", "seed"):
            is_right = isinstance(value, int) and not isinstance(value, bool)
        else:
            is_right = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        if not is_right:
            raise DataError(f"fitted law is damaged: {name} is {value!r:.60}")
    if not (isinstance(plain["level"], float) and 0 < plain["level"] < 1):
        raise DataError(f"fitted law is damaged: level is {plain['level']!r}")


def save(result: FitResult, path: str | Path) -> Path:
    """Write the file atomically.

    Raises:
        ConfigError: another file than a fitted law is there.
        RunError: the folder cannot be written; a previous file is intact.
    """
    path = Path(path)
    check_file(path)
    write_text(path, json.dumps(sealed(to_json(result)), allow_nan=False))
    return path


def load(path: str | Path) -> FitResult:
    """Read what `save` wrote.

    Raises:
        DataError: missing, not JSON, or not a fitted law.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; write one with `distillaw fit TABLE --law FAMILY --out {path.name}`"
        )
    try:
        document = parse_json(read_text(path))
    except ValueError as error:
        raise DataError(
            f"{path}: not a JSON file ({error}); `distillaw fit TABLE --law FAMILY --out {path}` writes one"
        ) from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: not a fitted law")
    try:
        return from_json(unsealed(document, path))
    except CacheError as error:
        raise DataError(str(error)) from None
    except DataError as error:
        raise DataError(
            f"{path}: {error}; `distillaw fit TABLE --law FAMILY --out {path}` writes one that is read"
        ) from None


def _curve_to_json(curve: Curve | None) -> dict[str, object] | None:
    if curve is None:
        return None
    return {
        "form": curve.form,
        "theta": curve.theta.tolist(),
        "replicates": curve.replicates.tolist(),
        "centre": list(curve.centre),
        "behind": _curve_to_json(curve.behind),
    }


def _curve_from_json(document: Mapping | None) -> Curve | None:
    if document is None:
        return None
    theta = np.array(document["theta"], dtype=np.float64)
    replicates = np.array(document["replicates"], dtype=np.float64).reshape(-1, len(theta))
    form = document["form"]
    if form not in COEFFICIENTS or len(theta) != (2 if form == "capacity-gap" else 9 if form in FREE else 6):
        raise ValueError(f"{len(theta)} parameters of the form {document['form']!r:.60}")
    if not all((np.abs(values) < _FAR).all() for values in (theta, replicates)):
        raise ValueError(f"a parameter is not finite, or beyond {_FAR:g}")
    return Curve(
        form=document["form"],
        theta=theta,
        replicates=replicates,
        centre=(float(document["centre"][0]), float(document["centre"][1])),
        behind=_curve_from_json(document["behind"]),
    )


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return _finite(value)
