"""Every law that may speak, in one shape: an ensemble of laws, where it holds, and how far it may be off.

A fitted law is the ensemble of its bootstrap replicates, each with the supervised law behind it. The surrogates S1-S3
are one ensemble: not published, each as good as the others. A printed law is an ensemble of one. What no replicate
shows, that the form itself is wrong or was made for other text, is of a fitted law the `Discrepancy`: the standard
deviation of a gain as a share of the loss, growing with the distance from the runs that were fitted (docs/verdict.md
says how it was measured); of a published one it is what outcomes taught (learnt.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import ConfigError
from distillaw.fitting.query import load_law
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import kept_laws
from distillaw.laws.base import EDGE, Array, Box
from distillaw.laws.capacity import CapacityGapLine
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.equation import STUDENT, SUPERVISED, student_coefficients, supervised_coefficients
from distillaw.laws.published import PublishedLaw, laws_available, published
from distillaw.laws.starts import CUTS, StartLaw
from distillaw.planning.learnt import FEWEST_PER_PARAM, Learnt, learnt
from distillaw.runs.record import StudyRecord

LawLike: TypeAlias = str | Path | FitResult | PublishedLaw

SURROGATES = ("surrogate-s1", "surrogate-s2", "surrogate-s3")
STUDY = "laws fitted on this study"
_SURROGATE_SOURCE = "surrogates S1-S3 (not published)"
DECISIVE = ("CONVERGED", "AT_BOUND", "SEED_NOISE_UNKNOWN", "WEAKLY_IDENTIFIED")
"""Fits that may carry a verdict. Parameters that the runs do not separate may still predict gains: over simulated
studies such fits erred no more than others, and their replicates say how much (docs/verdict.md)."""
MOST_MEMBERS = 200
"""Replicates kept: they are there for their spread, and 200 show it to a few per cent."""
FAMILIES = ("distillation-kappa", "distillation-auto", "distillation", "distillation-reduced")
"""Fitted families of a study, the first that is usable speaks."""


EFOLD_WEIGHT = {"teacher_loss": 10.0, "compute": 0.5}
"""Losses move by tenths where sizes move by decades: an e-fold of loss outside a range counts tenfold; one of compute,
which is size times tokens, half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """Standard deviation of a predicted gain, as a share of the loss, that an ensemble does not show.

        sd = hypot(at_home, per_efold e_N, per_efold e_D, per_loss e_T)

    e_N, e_D: e-folds outside the fitted range in student size and in tokens; e_T: ten times those in the teacher's
    loss, since losses move by tenths where sizes move by decades.
    """

    at_home: float
    per_efold: float = 0.0
    per_loss: float = 0.0
    reach: float
    """E-folds outside beyond which the law may not decide."""
    by_compute: bool = False
    """Whether 6 N D is looked at too: runs of small students on many tokens span neither."""

    def at(self, outside: Mapping[str, float]) -> float:
        """The standard deviation at e-folds outside by coordinate."""
        sizes = (outside.get("student_params", 0.0), outside.get("student_tokens", 0.0))
        return math.hypot(
            self.at_home, *(self.per_efold * e for e in sizes), self.per_loss * outside.get("teacher_loss", 0.0)
        )


PUBLISHED_REACH = math.log(1000)
"""E-folds outside: students a thousand times smaller had what `learnt.py` says of the gains (docs/retrodiction.md). Ten
times outside, as for none of them, where a teacher was measured on a text of which nothing else is known."""
TWO_TEXTS_SD = 0.03
"""At home as well, where a teacher's loss was measured on the user's text and the student's own is not known: the ratio
of the two is then that of two texts."""
FITTED_DISCREPANCY = Discrepancy(at_home=0.003, per_efold=0.004, per_loss=0.004, reach=math.log(100))
"""With the replicates and hold-outs 90 % intervals hold 97 % of 240 gains of fresh simulated studies, 93 % at home and
98 % thirty times beyond (benchmarks/results/planner.json, `laws`)."""
AT_BOUND_REACH = math.log(3)
"""E-folds outside beyond which a fit with a parameter at a bound does not decide. Assumed: the bound, not the runs,
says how such a law goes on. Fits were seen to hold on truths outside every form up to ten times the runs' compute,
which is three in size and in tokens (docs/verdict.md); one at 29 times the compute decided wrongly (docs/wager.md)."""
WEAK_DISCREPANCY = Discrepancy(at_home=0.003, per_efold=0.007, per_loss=0.004, reach=AT_BOUND_REACH, by_compute=True)
"""Of fits with a parameter at a bound: judged, after a few questions where the one above was too narrow; no result file
keeps them."""
REDUCED_DISCREPANCY = Discrepancy(at_home=0.008, per_efold=0.006, per_loss=0.01, reach=math.log(30))
"""Of the reduced form, which leaves out the data term and misjudges strong teachers."""


RIVAL_SHARE = 0.3
"""Of the difference between two forms fitted to the same runs, counted as discrepancy: where they part the better one
errs more. Judged; no result file keeps what it was seen on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """One source of law: what it is and how far it can be believed."""

    source: str
    kind: str
    """`fitted`, `surrogate` or `published`."""
    status: str
    note: str
    ensemble: LawEnsemble | None
    """None: it has nothing to say about losses; `status` and `note` say why."""
    range: Box = field(default_factory=Box)
    """In student_params, student_tokens, teacher_loss, tokens_per_param."""
    discrepancy: Discrepancy = Discrepancy(at_home=0.0, reach=PUBLISHED_REACH)
    learnt: Learnt | None = None
    """What outcomes taught of the gains of a published law; None of the user's own."""
    may_decide: bool = False
    is_refused: bool = False
    members: Sequence[str] = ()
    """Names, where members are laws that people know."""
    warnings: Sequence[str] = ()
    line: CapacityGapLine | None = None
    """A capacity-gap line instead of an ensemble."""
    study: StudyRecord | None = None
    """Whose runs were fitted; what their rates may have cost is doubted too."""
    rival: LawEnsemble | None = None
    """Another form fitted to the same runs; where the two part, neither is sure."""
    fit: FitResult | None = None
    """What it was made of, where that is a fit."""

    def outside(self, coords: Mapping[str, ArrayLike]) -> dict[str, float]:
        """`efolds_outside` of its range; sizes and tokens in pairs, where compute counts."""
        return efolds_outside(self.range, self._looked_at(coords))

    def _looked_at(self, coords: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
        if not self.discrepancy.by_compute:
            return coords
        params, tokens = (np.asarray(coords[name]) for name in ("student_params", "student_tokens"))
        return {**coords, "compute": 6 * params * tokens}

    def beyond(
        self, student_params: ArrayLike, student_tokens: ArrayLike, teacher_loss: ArrayLike
    ) -> NDArray[np.bool_]:
        """`is_beyond` of every student, as the three broadcast."""
        per_param = np.asarray(student_tokens, dtype=np.float64) / np.asarray(student_params)
        coords = self._looked_at(
            {
                "student_params": student_params,
                "student_tokens": student_tokens,
                "teacher_loss": teacher_loss,
                "tokens_per_param": per_param,
            }
        )
        farthest = reduce(np.maximum, _efolds(self.range, coords).values(), np.zeros(1))
        return self.is_beyond(farthest, per_param)

    def is_short(self, tokens_per_param: ArrayLike) -> NDArray[np.bool_]:
        """Whether students are trained for less than anything that outcomes taught of published laws."""
        return (np.asarray(tokens_per_param) < FEWEST_PER_PARAM) & (self.learnt is not None)

    def is_beyond(
        self, efolds: ArrayLike, tokens_per_param: ArrayLike, *, reach: float = math.inf
    ) -> NDArray[np.bool_]:
        """Whether questions lie where the law decides nothing: the rule of range of all that asks a law.

        Args:
            efolds: outside the range, in the worst coordinate.
            tokens_per_param: of the student, same shape.
            reach: e-folds, where less is allowed than the discrepancy's.
        """
        return self.is_short(tokens_per_param) | (np.asarray(efolds) > min(reach, self.discrepancy.reach))


def find_voices(
    record: StudyRecord | None, laws: Sequence[LawLike], *, published_too: bool | Sequence[str], without: str = ""
) -> list[Voice]:
    """All voices in order of trust: laws asked for, laws of the study, surrogates, printed laws, lines.

    Args:
        record: the user's study, whose fitted laws speak.
        laws: further laws to consult first.
        published_too: whether published laws and surrogates are consulted unasked; or the names of those that are.
        without: source of outcomes that nothing is to be learnt from.
    """
    found = [asked_for(law) for law in laws]
    if record is not None:
        found.append(_study_voice(record))
    unasked = [name for name in laws_available() if not published(name).record.by_name_only]
    names = unasked if published_too is True else list(published_too or ())
    asked = {voice.source for voice in found}
    unnamed = {name: published(name) for name in names}
    surrogates = [law for name, law in unnamed.items() if name in SURROGATES]
    printed = [law for name, law in unnamed.items() if law.distillation is not None and name not in SURROGATES]
    lines = [law for law in unnamed.values() if law.capacity_gap is not None]
    together = [published_voice(_SURROGATE_SOURCE, surrogates)] if surrogates else []
    together += [published_voice(law.name, [law]) for law in (*printed, *lines)]
    found += [voice for voice in together if voice.source not in asked]
    known = learnt(without)
    if record is not None or any(v.kind == "fitted" and v.ensemble is not None for v in found):
        known = known.of_runs
    return [v if v.learnt is None else replace(v, learnt=known) for v in found]


def start_law_of(law: LawLike) -> StartLaw | None:
    """The law of starts that a fit of the family `pruned` is; None for any other law.

    Raises:
        ConfigError: such a fit that may not be used, or one of other parameters than a plan counts.
    """
    if isinstance(law, PublishedLaw) or law in laws_available():
        return None
    fit = law if isinstance(law, FitResult) else load_law(str(law))
    if not isinstance(fit, FitResult) or fit.family != "pruned":
        return None
    found = fit.law
    if not isinstance(found, StartLaw) or fit.curve is None or fit.params_convention != "non-embedding":
        raise ConfigError(f"law: the law of starts may not be used ({fit.status.name}: {fit.remedy})")
    members = fit.curve.coefficients(replicates=len(fit.curve.replicates) > 0)
    share, taught, power = (members[name] for name in ("share", "taught", "power"))
    return replace(found, spread=CUTS.spread, share=share, taught=taught, power=power)


def asked_for(law: LawLike) -> Voice:
    """A law by its name, its file or itself.

    Raises:
        ConfigError: one without a word on teachers.
    """
    if isinstance(law, str | Path):
        name, law = str(law), load_law(str(law))
    else:
        name = law.name if isinstance(law, PublishedLaw) else f"fitted {law.family} law"
    if isinstance(law, FitResult):
        return fitted_voice(law, name)
    if law.distillation is None and law.capacity_gap is None:
        known = [n for n in laws_available() if published(n).distillation is not None]
        raise ConfigError(f"law {name!r} has no distillation part; laws that do: {', '.join(known)}")
    return published_voice(law.name, [law])


def _study_voice(record: StudyRecord) -> Voice:
    """The best usable distillation fit of the study with the next one as its rival, or why there is none."""
    silent = [_silent(STUDY, "NOT_FITTED", "no law was fitted")]
    kept = kept_laws(record)
    silent += [_silent(STUDY, "NOT_FITTED", kept.errors[f]) for f in FAMILIES if f in kept.errors]
    plain = kept.fits.get("supervised")
    voices = [fitted_voice(kept.fits[f], STUDY, plain=plain) for f in FAMILIES if f in kept.fits]
    usable = [voice for voice in voices if voice.ensemble is not None]
    if not usable:
        return [*silent, *voices][-1]
    return replace(usable[0], study=record, rival=usable[1].ensemble if len(usable) > 1 else None)


def fitted_voice(fit: FitResult, source: str, *, plain: FitResult | None = None) -> Voice:
    """A fit as a voice; without an ensemble where it cannot answer, with the reason.

    `plain` is the study's supervised fit, which explains why there is none behind this one.
    """
    if not fit.is_usable or fit.curve is None:
        return _silent(source, fit.status.name, fit.remedy or fit.status.value)
    if fit.params_convention != "non-embedding":
        why = f"the law counts {fit.params_convention} parameters, a plan non-embedding ones"
        return _silent(source, "OTHER_CONVENTION", why)
    if isinstance(fit.law, CapacityGapLine):
        return replace(_silent(source, fit.status.name, ""), line=fit.law, fit=fit)
    if not fit.curve.is_student:
        return _silent(source, "NO_DISTILLATION_LAW", f"a {fit.family} fit says nothing of teachers")
    if fit.curve.behind is None:
        why = plain.remedy if plain is not None else "fit one from more runs without a teacher"
        return _silent(source, "NO_SUPERVISED_LAW", f"no law for training alone, so no gain: {why}")
    # What bends away from the law is in its hold-outs, which widen what it says of gains; without it published laws of
    # the same form would answer alone, with intervals that know nothing of it (docs/verdict.md).
    bent = fit.status.name == "MISFIT" and not fit.details.get("misfit", {}).get("of_table", True)
    warnings = [] if fit.status.name == "CONVERGED" else [f"{source}: {fit.status.name}: {fit.remedy}"]
    if failed := fit.failed_controls:
        warnings.append(f"{source}: fitted while controls failed: {', '.join(failed)}")
    return Voice(
        source=source,
        kind="fitted",
        status=fit.status.name,
        range=fit.fitted_range,
        discrepancy=_discrepancy_of(fit),
        note=f"{fit.nobs} rows in {fit.ngroups} independent runs",
        ensemble=_replicates(fit),
        may_decide=bent or fit.status.name in DECISIVE,
        warnings=tuple(warnings),
        fit=fit,
    )


def _discrepancy_of(fit: FitResult) -> Discrepancy:
    """By form and status, or what the fit's own hold-outs say where that is more.

    Of simulated truths outside every form 90 % intervals of gains hold 96 % at 4 and 92 % at 10 times the runs' compute
    (benchmarks/results/planner_outside.json); by the constants alone they held 78 and 74 % (docs/verdict.md).
    """
    assert fit.curve is not None
    is_at_bound = fit.status.name == "AT_BOUND"
    if fit.curve.form in ("reduced", "reduced-q"):
        found = REDUCED_DISCREPANCY
        return replace(found, reach=AT_BOUND_REACH, by_compute=True) if is_at_bound else found
    found = WEAK_DISCREPANCY if is_at_bound else FITTED_DISCREPANCY
    _, params, tokens, *_ = fit.calibration.slopes
    per_efold = float(max(params, tokens)) / math.log(10)
    return replace(
        found,
        at_home=max(found.at_home, fit.calibration.at_edge),
        per_efold=max(found.per_efold, per_efold),
        per_loss=max(found.per_loss, per_efold),
    )


def _replicates(fit: FitResult) -> LawEnsemble:
    """The bootstrap replicates as laws, thinned evenly; the estimate alone where there are none."""
    assert fit.curve is not None and fit.curve.behind is not None
    has_replicates = len(fit.curve.replicates) > 0
    student = student_coefficients(fit.curve.coefficients(replicates=has_replicates))
    behind = fit.curve.behind
    plain = supervised_coefficients(behind.coefficients(replicates=has_replicates and len(behind.replicates) > 0))
    size = len(student["c0"])
    whole = LawEnsemble(
        plain={k: np.broadcast_to(plain[k], (size,)) for k in SUPERVISED},
        student={k: np.broadcast_to(student[k], (size,)) for k in STUDENT},
    )
    if size <= MOST_MEMBERS:
        return whole
    return whole.take(np.linspace(0, size - 1, MOST_MEMBERS).astype(int))


def published_voice(source: str, laws: Sequence[PublishedLaw]) -> Voice:
    """One or several published laws as a voice."""
    first = laws[0]
    warnings = tuple(f"{law.name}: {law.warnings[0]}" for law in laws if law.warnings)[: 1 if len(laws) > 1 else None]
    kind = "published" if first.record.published else "surrogate"
    if first.capacity_gap is not None:
        silent = _silent(source, "TEACHER_SIZE", "")
        return replace(silent, kind=kind, line=first.capacity_gap, warnings=warnings)
    assert first.distillation is not None
    is_refused = any(law.record.refuse_plan for law in laws)
    note = "shown for comparison only: its printed coefficients contradict its own paper's planning figures"
    return Voice(
        source=source,
        kind=kind,
        status="REFUSED" if is_refused else "PUBLISHED",
        note=note if is_refused else "",
        ensemble=LawEnsemble.of([(law.supervised, law.distillation) for law in laws if law.supervised is not None]),
        range=first.distillation.range,
        learnt=learnt(),
        may_decide=not is_refused,
        is_refused=is_refused,
        members=tuple(law.name for law in laws),
        warnings=warnings,
    )


def _silent(source: str, status: str, note: str) -> Voice:
    return Voice(source=source, kind="fitted", status=status, note=note, ensemble=None)


def efolds_outside(box: Box, coords: Mapping[str, ArrayLike]) -> dict[str, float]:
    """How many e-folds the farthest of some points lies outside a box, by coordinate; inside is left out.

    Each weighted by `EFOLD_WEIGHT`.
    """
    farthest = {name: float(away.max(initial=0.0)) for name, away in _efolds(box, coords).items()}
    return {name: away for name, away in farthest.items() if away > 0}


def _efolds(box: Box, coords: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """The same of every point, 0 inside, by coordinate."""
    found = {}
    for name, low, high in box.bounds:
        if name in coords:
            value = np.log(np.asarray(coords[name], dtype=np.float64))
            away = np.maximum(math.log(low) - value, value - math.log(high))
            found[name] = EFOLD_WEIGHT.get(name, 1.0) * np.where(away > EDGE, away, 0.0)
    return found
