"""How parameters are counted: embeddings that are most of a model, and constants that hold in one convention only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillaw.controls.control import About, Control, worst
from distillaw.controls.study_runs import StudyRuns
from distillaw.errors import DistillawError
from distillaw.fitting.api import fit
from distillaw.fitting.result import FitResult
from distillaw.runs.record import Run

SHARE = About(
    name="embedding-share",
    guards="where embeddings are most of a model, its loss follows them and not the parameters that the law counts",
    remedy="a smaller vocabulary or larger students",
    concerns=("laws",),
)
CONVENTIONS = About(
    name="conventions",
    guards="constants may hold in one way of counting parameters only, and predictions with them",
    remedy="quote the convention with every constant, do not extrapolate in size, and add larger students",
    concerns=("laws",),
)
MOST = 0.30
"""Of the non-embedding parameters, for one embedding matrix."""
FAMILIES = ("supervised", "distillation-kappa")
BEYOND = 10.0
"""Times the largest size: where the two predictions are compared as well."""


def check_share(runs: StudyRuns) -> Control:
    """One embedding matrix is at most 30 % of the non-embedding parameters of every model that a law is fitted on."""
    shares = {run.params: share for run in runs.main if (share := _embedding(run) / run.params) > 0}
    if not shares:
        return SHARE.control("not done", "the table has neither vocabulary and width nor total parameters")
    smallest = min(shares)
    largest = max(shares.values())
    words = (
        f"one embedding matrix is {100 * shares[smallest]:.0f} % of the smallest model ({smallest:,} parameters); "
        f"at most {100 * MOST:.0f} % wanted"
    )
    return SHARE.control("passed" if round(largest, 2) <= MOST else "failed", words,
                         shares={str(n): share for n, share in sorted(shares.items())})  # fmt: skip


def _embedding(run: Run) -> float:
    """Parameters of one vocabulary matrix; NaN where the table does not say."""
    direct = run.number("vocab_size") * run.number("width")
    return direct if np.isfinite(direct) else (run.number("total_params") - run.params) / 2  # untied


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """One family fitted in both conventions."""

    family: str
    fits: tuple[FitResult, FitResult]
    apart: float
    """Root mean square difference of ln L over the fitted rows."""
    beyond: float
    """Difference of ln L at ten times the largest size, its most tokens and the middle teacher."""
    half: float
    """Half width of the prediction interval there, in ln L, without the uncertainty of parameters."""

    @property
    def is_same(self) -> bool:
        """Whether the two predict the same: on the rows within their noise, beyond within the interval."""
        noise = max(fit.noise for fit in self.fits)
        return self.apart <= noise and abs(self.beyond) <= self.half

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"family": self.family, "non_embedding": self.fits[0].params, "total": self.fits[1].params,
                "rms_ln_loss": self.apart, "beyond_ln_loss": self.beyond, "half_width": self.half,
                "noise": [fit.noise for fit in self.fits]}  # fmt: skip


def check_conventions(runs: StudyRuns) -> Control:
    """The laws fitted on non-embedding and on total parameters predict the same, in the range and ten times beyond."""
    table = _table(runs.main)
    if not np.isfinite(table["total_params"]).all():
        return CONVENTIONS.control("not done", "the table has no total parameters (total_params)")
    compared, why = [], []
    for family in FAMILIES:
        try:
            fits = tuple(_fit(table, family, name) for name in ("params", "total_params"))
        except DistillawError as error:
            why.append(f"{family}: {error}")
            continue
        unusable = [fit for fit in fits if not fit.is_usable]
        if unusable:
            why.append(f"{family}: {unusable[0].status.name}")
        else:
            compared.append(_compare(family, (fits[0], fits[1]), table))
    if not compared:
        return CONVENTIONS.control(
            "not done", f"no law could be fitted; {why[0]}" if why else "no law could be fitted"
        )
    numbers = [one.to_json() for one in compared]
    status = worst("passed" if one.is_same else "failed" for one in compared)
    return CONVENTIONS.control(
        status, "; ".join(_words(one) for one in compared), fits=numbers, not_fitted=why
    )


def _words(one: _Compared) -> str:
    alphas = [fit.params["alpha"] for fit in one.fits]
    return (
        f"{one.family}: alpha {alphas[0]:.2f} non-embedding, {alphas[1]:.2f} total; predictions "
        f"{100 * one.apart:.2f} % apart on the runs (noise {100 * one.fits[0].noise:.2f} %), "
        f"{100 * one.beyond:+.1f} % at {BEYOND:g} times the largest size"
    )


def _table(main: Sequence[Run]) -> dict[str, np.ndarray]:
    numbers = ("params", "total_params", "tokens", "loss", "teacher_loss")
    table = {name: np.array([run.number(name) for run in main]) for name in numbers}
    return table | {
        "group": np.array([str(run.row.get("group") or run.run_id) for run in main], dtype=object)
    }


def _fit(table: Mapping[str, np.ndarray], family: str, params: str) -> FitResult:
    """The estimate alone: neither bootstrap nor checks are needed to compare two predictions."""
    convention = "non-embedding" if params == "params" else "total"
    return fit(table, family=family, columns={"params": params}, params_convention=convention, bootstrap=0, check=False,
               calibrate=False)  # fmt: skip


def _compare(family: str, fits: tuple[FitResult, FitResult], table: Mapping[str, np.ndarray]) -> _Compared:
    apart = fits[1].resid - fits[0].resid  # of the same rows
    there = [fit.predict(**_beyond(fit, table, total=name == "total_params"))
             for fit, name in zip(fits, ("params", "total_params"), strict=True)]  # fmt: skip
    means = [float(np.log(one.mean)) for one in there]
    half = max(float(np.log(one.upper / one.lower)) / 2 for one in there)
    return _Compared(family=family, fits=fits, apart=float(np.sqrt(np.mean(apart**2))), beyond=means[1] - means[0],
                     half=half)  # fmt: skip


def _beyond(fit: FitResult, table: Mapping[str, np.ndarray], *, total: bool) -> dict[str, float]:
    """Coordinates at ten times the largest size, on the most tokens, from the middle teacher."""
    largest = int(np.argmax(table["params"]))
    size = BEYOND * float(table["params"][largest])
    if total:  # width, and with it the embeddings, grows with the cube root of size
        size += BEYOND ** (1 / 3) * float((table["total_params"] - table["params"])[largest])
    tokens = float(table["tokens"].max())
    assert fit.curve is not None
    if not fit.curve.is_student:
        return {"params": size, "tokens": tokens}
    found = {
        "student_params": size,
        "student_tokens": tokens,
        "teacher_loss": float(np.nanmedian(table["teacher_loss"])),
    }
    if (
        fit.curve.behind is None
    ):  # fitted on measured losses of students alone: the best of them stands for its own
        found["supervised_loss"] = float(table["loss"][np.isnan(table["teacher_loss"])].min())
    return found
