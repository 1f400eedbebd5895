"""The capacity gap: the best teacher for one student under every law known, how flat that is, and who disagrees.

A distillation law gives the best teacher through its loss, for students from random weights; the line of capacity
gap gives its size, for students pruned from the very teacher they learn from (docs/gap.md). Each opinion says
which of the two it is about, whether it lies in the range of its runs, and what following it costs if another law is
right. Why a stronger teacher can hurt: `planning/explain.py`. No cost of a teacher is counted here.

Turned round, the law says how large a student to cut out of a teacher (`size_of_cut`). The published constant holds for
students cut out of the teacher they learn from, and so must a fitted one: a law of fresh students, or of students cut
out of one reference, says nothing of a cut.

    distillaw gap --student 1B --tokens 20B --explain
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from distillaw.errors import ConfigError, UnitError
from distillaw.fitting.query import (
    NO_REPLICATES,
    SHORT_TRAINING,
    UNSEEN_DATA,
    best_teacher_interval,
    budget_of,
    load_law,
)
from distillaw.fitting.result import FitResult
from distillaw.laws.base import Array, Box, log_positive
from distillaw.laws.capacity import CapacityGapLine
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import PublishedLaw, laws_available, published
from distillaw.planning.learnt import FEWEST_PER_PARAM
from distillaw.planning.phrases import say
from distillaw.planning.situation import check_plausible, check_trained
from distillaw.planning.teacher_curve import FLAT, TeacherCurve, TeacherLossCurve, teacher_curve, teacher_loss_curve
from distillaw.planning.voices import (
    SURROGATES,
    LawLike,
    Voice,
    asked_for,
    efolds_outside,
    find_voices,
    published_voice,
)
from distillaw.quantities import format_count
from distillaw.runs.config import check_choice
from distillaw.runs.spec import ARMS

USABLE = ("IN_RANGE", "NEAR_RANGE", "FAR_RANGE")
STARTS = {"fresh": "random", "pruned": "pruned-same", "fixed": "fixed-init"}
"""By arm, what an opinion calls the students it holds for."""
_UNSAID = "as in the runs fitted"
WHOSE_SIZES = "whether its sizes count embeddings is not published; they are taken as non-embedding ones"
"""Of a published line, whose teachers and students are read as everybody else's."""
_NEAR = math.log(3)
"""E-folds outside its runs up to which a law recommends a teacher beside others. Where none is so near, laws of losses
are followed as far as a plan follows them (`voices.Discrepancy`), lines of sizes no further."""
_LEVEL = 0.9
"""Of intervals, as everywhere unless something else is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapQuestion:
    """One student, and how the teachers that it may have were trained."""

    student_params: float
    """N_S, non-embedding."""
    student_tokens: float
    teacher_tokens: float | None = None
    """D_T, the same for every size; or the next."""
    teacher_tokens_per_param: float | None = None
    teacher_loss: float | None = None
    """A teacher at hand, to be placed on the curve; nats/token."""
    teacher_name: str | None = None
    """Of the teacher at hand, where it has one."""
    teacher_at_hand: tuple[float, float] | None = None
    """Its size and tokens, from which each law estimates a loss that is not given."""
    arm: str | None = None
    """How the student starts (fresh, pruned, fixed); laws of other starts are then heard but do not lead. None: any."""
    margin: float = FLAT
    """Share of the loss within which teachers count as equally good."""

    def __post_init__(self) -> None:
        """Refuse what no student or teacher can be."""
        if self.arm is not None:
            check_choice("arm", self.arm, ARMS)
        units = {"student_params": "parameters", "student_tokens": "tokens", "teacher_tokens": "tokens"}
        for what, unit in (units | {"teacher_loss": "nats/token"}).items():
            check_plausible(what, getattr(self, what), unit)
        check_trained(self.student_params, self.student_tokens)
        log_positive("student_params", self.student_params)
        log_positive("student_tokens", self.student_tokens)
        if (self.teacher_tokens is None) == (self.teacher_tokens_per_param is None):
            raise ConfigError("give either the teachers' tokens or their tokens per parameter, not both and not none")
        check_trained(self.student_params, self.tokens_of(self.student_params), who="teacher")

    @property
    def schedule(self) -> dict[str, float | None]:
        """How teachers are trained, as `teacher_curve` takes it."""
        return {"teacher_tokens": self.teacher_tokens, "teacher_tokens_per_param": self.teacher_tokens_per_param}

    def tokens_of(self, size: float) -> float:
        """D_T of a teacher of this size."""
        if self.teacher_tokens is not None:
            return self.teacher_tokens
        assert self.teacher_tokens_per_param is not None
        return self.teacher_tokens_per_param * size


@dataclass(frozen=True, slots=True, kw_only=True)
class GapOpinion:
    """What one law says is the best teacher; fields are called as in the answer of `distillaw gap --json`."""

    law: str
    kind: str
    """fitted, surrogate, published or line."""
    start: str
    """The student it holds for: random, pruned-same, fixed-init, or as in the runs that were fitted."""
    status: str
    """IN_RANGE, NEAR_RANGE (a factor 3), FAR_RANGE (as far as a plan goes), OUT_OF_RANGE, REFUSED, NOT_APPLICABLE."""
    best_teacher_params: float | None = None
    best_teacher_interval: tuple[float, float] | None = None
    """90 % of a fit's replicates, or the span of several laws; None for a single set."""
    outside: float = 0.0
    """E-folds outside the runs behind the law, in the worst coordinate, the best teacher included."""
    curve: TeacherCurve | None = None
    """Over teacher sizes; a line knows no loss."""
    by_loss: TeacherLossCurve | None = None
    teacher_at_hand_loss: float | None = None
    """Nats/token: as given, or the mean of what the law makes of its size and tokens."""
    teacher_at_hand_cost: float | None = None
    """Nats above the best with the teacher at hand."""
    data_share: float | None = None
    """Of the data term in the student's sum, the smallest of the members."""
    per_cent_elsewhere: Mapping[str, float] = field(default_factory=dict)
    """Of loss that this teacher costs under each other law that knows losses."""
    per_cent_if_wrong: float | None = None
    """The largest of them among the laws that may be planned with here."""
    notes: tuple[str, ...] = ()

    @property
    def student_loss(self) -> float | None:
        """With the best teacher, nats/token."""
        return None if self.curve is None else self.curve.best.student_loss

    @property
    def is_usable(self) -> bool:
        """Whether the number may be recommended."""
        return self.status in USABLE and self.best_teacher_params is not None

    def to_json(self, student_params: float) -> dict[str, object]:
        """Numbers and flags; the curve only as its flat range and costs."""
        curve, size = self.curve, self.best_teacher_params
        best = None if curve is None else curve.best
        plain = [field.name for field in fields(self) if field.name not in ("curve", "by_loss", "outside")]
        return {name: getattr(self, name) for name in (*plain, "student_loss")} | {
            "inside_range": self.outside == 0,
            "efolds_outside": self.outside if math.isfinite(self.outside) else None,
            "ratio": None if size is None else size / student_params,
            "best_teacher_loss": None if curve is None else curve.best_teacher_loss,
            "gain": None if curve is None else curve.gain,
            "at_edge": bool(best and best.at_edge),
            "flat": asdict(best.flat) if best else None,
            "within_margin": asdict(best.within_margin) if best else None,
            "costs": [cost.to_json() for cost in curve.costs] if curve else [],
            "by_loss": None if self.by_loss is None else self.by_loss.to_json(),
        }


def _start_of(fit: FitResult) -> str:
    """The start of the students that were fitted; files that do not say are of fresh ones, as far as is known."""
    arm = fit.provenance.get("arm")
    return _UNSAID if arm is None else STARTS.get(str(arm), str(arm))


def speak(q: GapQuestion, voice: Voice) -> GapOpinion:
    """A law that knows losses."""
    assert voice.ensemble is not None
    at = {"student_params": q.student_params, "student_tokens": q.student_tokens}
    curve = teacher_curve(voice.ensemble, **at, **q.schedule, margin=q.margin)
    by_loss = teacher_loss_curve(voice.ensemble, **at, margin=q.margin)
    outside, complaints = _range(q, voice, curve)
    per_param = q.student_tokens / q.student_params
    is_beyond = bool(voice.is_beyond(outside, per_param))
    if voice.is_short(per_param):
        complaints.append(say("too short", per_param=per_param, least=FEWEST_PER_PARAM))
    share = _data_share(voice.ensemble, q)
    given, cost = _at_hand(q, voice.ensemble), None
    if given is not None:
        n, d = (np.full((1, 1), math.log(value)) for value in at.values())
        student = float(np.exp(voice.ensemble.log_distilled(n, d, np.log(given))).mean())
        given, cost = float(given.mean()), student - by_loss.best.student_loss
    return GapOpinion(
        law=voice.source,
        kind=voice.kind,
        start=STARTS["fresh"] if voice.fit is None else _start_of(voice.fit),
        status="REFUSED" if voice.is_refused else _status(outside, is_beyond=is_beyond),
        outside=outside,
        best_teacher_params=curve.best.at,
        best_teacher_interval=_span(curve.best.at_by_member, voice.kind),
        curve=curve,
        by_loss=by_loss,
        teacher_at_hand_loss=given,
        teacher_at_hand_cost=cost,
        data_share=share,
        notes=(*voice.warnings[:1], *complaints, *_cautions(q, voice, curve, share)),
    )


def _at_hand(q: GapQuestion, ensemble: LawEnsemble) -> Array | None:
    """Loss of the teacher at hand, nats/token, shape (members or 1, 1); None without one."""
    if q.teacher_loss is not None:
        return np.array([[q.teacher_loss]])
    if q.teacher_at_hand is None:
        return None
    params, tokens = (np.array([[math.log(value)]]) for value in q.teacher_at_hand)
    return np.exp(ensemble.log_supervised(params, tokens))


def _range(q: GapQuestion, voice: Voice, curve: TeacherCurve) -> tuple[float, list[str]]:
    """E-folds outside the runs behind a law in the worst coordinate, its best teacher included; and in words."""
    student = {
        "student_params": q.student_params,
        "student_tokens": q.student_tokens,
        "teacher_loss": curve.best_teacher_loss,
        "tokens_per_param": q.student_tokens / q.student_params,
    }
    teacher = {"params": curve.best.at, "tokens": curve.best_teacher_tokens}
    plain = published(voice.members[0]).supervised if voice.members else None
    parts = [("", voice.range, student), ("best teacher: ", plain.range if plain else Box(), teacher)]
    own = voice.outside({name: (value,) for name, value in student.items()})
    outside = max(*own.values(), _outside(parts[1][1], teacher), 0.0)
    return outside, [prefix + line for prefix, box, coords in parts for line in box.complaints(coords)]


def _data_share(ensemble: LawEnsemble, q: GapQuestion) -> float:
    """Share of the data term in the student's sum, the smallest of the members; 0 without one."""
    c = ensemble.student
    size = c["log_A"] - c["alpha"] * math.log(q.student_params)
    data = c["log_B"] - c["beta"] * math.log(q.student_tokens)
    return float(np.exp(data - np.logaddexp(size, data)).min())


def _cautions(q: GapQuestion, voice: Voice, curve: TeacherCurve, share: float) -> list[str]:
    found = []
    if curve.best.at_edge:
        found.append("the student still improves at the end of the teachers searched: the best lies beyond")
    if curve.gain <= 0:
        found.append(f"even the best teacher is no better than none ({curve.gain:+.4f} nats/token)")
    ratio = q.student_tokens / q.student_params
    if ratio < SHORT_TRAINING * (1 - 1e-9) and voice.kind != "fitted":
        found.append(f"{ratio:.3g} student tokens per parameter, below {SHORT_TRAINING:.0f}: the least certain region")
    if share == 0:
        found.append("this form has no data term: the student's tokens enter through its own supervised loss alone")
    elif share < UNSEEN_DATA:
        found.append(f"the data term is {100 * share:.2g} % of the student's sum: its tokens hardly inform the answer")
    return found


def speak_of_sizes(q: GapQuestion, voice: Voice) -> GapOpinion:
    """A line of capacity gap: a size and nothing of losses; a fitted one is of its own budget alone."""
    line, fit = voice.line, voice.fit
    assert isinstance(line, CapacityGapLine)
    start = STARTS["pruned"] if fit is None else _start_of(fit)
    base = GapOpinion(
        law=voice.source, kind="line", start=start, status="NOT_APPLICABLE", notes=tuple(voice.warnings[:1])
    )
    if why := line.complaint(q.student_params):
        return replace(base, notes=(f"a student of {format_count(q.student_params)}: {why}", *base.notes))
    interval, unsaid = None, (WHOSE_SIZES,)
    if fit is not None:
        unsaid = () if (interval := best_teacher_interval(fit, q.student_params, _LEVEL)) else (NO_REPLICATES,)
    at = {"student_params": q.student_params, "student_tokens": q.student_tokens}
    derived = {"tokens_per_param": q.student_tokens / q.student_params}
    outside = _outside(line.range, at | derived) if line.range.bounds else math.inf
    return replace(
        base,
        status=_status(outside, is_beyond=outside > _NEAR),
        outside=outside,
        best_teacher_params=float(line.best_teacher(student_params=q.student_params)),
        best_teacher_interval=interval,
        notes=(*base.notes, *line.range.complaints(at), *unsaid),
    )


def _status(outside: float, *, is_beyond: bool) -> str:
    if is_beyond:
        return "OUT_OF_RANGE"
    if outside <= _NEAR:
        return "NEAR_RANGE" if outside else "IN_RANGE"
    return "FAR_RANGE"


def _outside(box: Box, coords: Mapping[str, float]) -> float:
    """E-folds outside a box in the worst coordinate."""
    return max(efolds_outside(box, {k: (v,) for k, v in coords.items()}).values(), default=0.0)


def _span(at: Array, kind: str) -> tuple[float, float] | None:
    if len(at) == 1:
        return None
    tail = 50 * (1 - _LEVEL) if kind == "fitted" else 0.0
    low, high = np.percentile(at, [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True)
class GapAnswer:
    """Every opinion, the one that leads, and their disagreement."""

    question: GapQuestion
    opinions: tuple[GapOpinion, ...]
    voices: tuple[Voice, ...]
    lead: GapOpinion | None
    """The first usable opinion about losses: the user's fits, else the laws named, else the surrogates; of students
    that start pruned or fixed the first usable one about such."""
    disagreement: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The answer of `distillaw gap --json`."""
        q = self.question
        asked = ("student_params", "student_tokens", "arm", "teacher_loss", "margin")
        return {name: getattr(q, name) for name in asked} | {
            **q.schedule,
            "teacher": q.teacher_name,
            "recommended": None if self.lead is None else self.lead.law,
            "opinions": [o.to_json(q.student_params) for o in self.opinions],
            "disagreement": list(self.disagreement),
        }


def capacity_gap(question: GapQuestion, *, laws: Sequence[LawLike] = ()) -> GapAnswer:
    """The best teacher for a student under each law.

    Args:
        question: the student and its possible teachers.
        laws: published laws or fitted ones (distillation families, capacity-gap), as names, files or objects; they
            come before the surrogates, Table 6 verbatim and the published lines, which are always heard.

    Raises:
        ConfigError: an impossible question, a law without a word on teachers, or a teacher at hand below the leading
            law's irreducible loss.
        UnitError: a fit that counts other parameters.
    """
    named = [_named(law) for law in laws]
    asked = {voice.source for voice in named}
    together, *others = find_voices(None, (), published_too=True)
    always = [together, *(published_voice(name, [published(name)]) for name in SURROGATES), *others]
    heard = named + [voice for voice in always if voice.source not in asked]
    voices = tuple(voice for voice in heard if voice.ensemble is not None)
    opinions = [speak(question, v) if v.line is None else speak_of_sizes(question, v) for v in heard]
    if any(o.is_usable and o.curve is not None and o.status != "FAR_RANGE" for o in opinions):
        opinions = [replace(o, status="OUT_OF_RANGE") if o.status == "FAR_RANGE" else o for o in opinions]
    opinions = tuple(_set_against(question, o, voices, opinions) for o in opinions)
    lead = next((o for o in opinions if o.is_usable and _may_lead(o, question.arm)), None)
    if (given := question.teacher_loss) is not None:
        voice = next((v for v in voices if lead and v.source == lead.law), voices[0])
        assert voice.ensemble is not None
        floor = float(np.median(np.exp(voice.ensemble.plain["log_E"])))
        if given <= floor:
            raise ConfigError(
                f"teacher_loss: got {given:.4g}, at or below {floor:.4g}, the irreducible loss of {voice.source}: no "
                "teacher gets there. Give nats per token on the student's text and tokenizer, or a law fitted on them"
            )
    return GapAnswer(
        question=question,
        opinions=opinions,
        voices=voices,
        lead=lead,
        disagreement=tuple(_disagreement(opinions, lead)),
    )


def _may_lead(opinion: GapOpinion, arm: str | None) -> bool:
    """Opinions about losses lead; where the start is said, those of that start, about losses or not."""
    if arm is None:
        return opinion.curve is not None
    return opinion.start in (STARTS[arm], _UNSAID if arm == "fresh" else None)


def _named(law: LawLike) -> Voice:
    """A law that was asked for, which must have something to say."""
    voice = asked_for(law)
    if voice.ensemble is None and voice.line is None:
        error = UnitError if voice.status == "OTHER_CONVENTION" else ConfigError
        raise error(f"{voice.source}: {voice.status}: {voice.note}")
    return voice


def _set_against(
    q: GapQuestion, opinion: GapOpinion, voices: Sequence[Voice], opinions: Sequence[GapOpinion]
) -> GapOpinion:
    """The opinion with what its teacher costs, in per cent above each other voice's own best."""
    if opinion.best_teacher_params is None:
        return opinion
    others = {o.law: o for o in opinions if o.student_loss is not None and o.law != opinion.law}
    size, costs = opinion.best_teacher_params, {}
    teacher_and_student = (size, q.tokens_of(size), q.student_params, q.student_tokens)
    x, tokens, n, d = (np.full((1, 1), math.log(value)) for value in teacher_and_student)
    for voice in voices:
        if voice.source in others and (ensemble := voice.ensemble) is not None:
            loss = float(np.exp(ensemble.log_distilled(n, d, ensemble.log_supervised(x, tokens))).mean())
            costs[voice.source] = 100 * (loss / (others[voice.source].student_loss or loss) - 1)
    worst = max((cost for law, cost in costs.items() if others[law].is_usable), default=None)
    return replace(opinion, per_cent_elsewhere=costs, per_cent_if_wrong=worst)


def _disagreement(opinions: Sequence[GapOpinion], lead: GapOpinion | None) -> list[str]:
    """How far the laws are apart, in size and in what it costs."""
    usable = [o for o in opinions if o.is_usable and o.curve is not None]
    # surrogates that speak as one have an interval, and each also speaks by itself
    single = {o.law: o for o in usable if o.kind != "surrogate" or o.best_teacher_interval is None}
    sizes = {law: o.best_teacher_params or 0.0 for law, o in single.items()}
    found = []
    if len(sizes) > 1:
        low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        worst = max(o.per_cent_if_wrong or 0.0 for o in single.values())
        found.append(
            f"The laws of losses put the best teacher between {format_count(sizes[low])} ({low}) and "
            f"{format_count(sizes[high])} ({high}), a factor {sizes[high] / sizes[low]:.2g}. Following one of them "
            f"when another is right costs at most {worst:.2g} % of the loss."
        )
    for o in opinions:
        if o.kind == "line" and o.best_teacher_params is not None and lead is not None and lead.curve is not None:
            whose = _START.get(o.start, f"that start {o.start}")
            found.append(
                f"{o.law} says {format_count(o.best_teacher_params)}, for students {whose}. Under {lead.law} "
                f"that teacher costs {o.per_cent_elsewhere[lead.law]:.2g} % of the loss."
            )
    return found


_START = {
    "random": "from random weights",
    "fixed-init": "cut out of one reference",
    "pruned-same": "pruned from the teacher they learn from",
    "as in the runs fitted": "that start as in the runs fitted",
}


PUBLISHED = "zhang2023-constant-ratio"
"""Zhang et al. 2023, arXiv 2311.07052: the teacher over 2.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSize:
    """The student of which a teacher is the best one."""

    law: str
    teacher_params: float
    params: float
    """Non-embedding parameters of the student."""
    interval: tuple[float, float | None] | None
    """90 %; the upper end is None where the law does not bound it; None for a published law, and for a fit without
    replicates."""
    inside_range: bool
    """Whether the student, and its tokens where they are known, lie among those the law was fitted on."""
    note: str
    """The law in words, with what it leaves open."""

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self)


def size_of_cut(
    teacher_params: float,
    law: str | Path | FitResult | PublishedLaw = PUBLISHED,
    *,
    student_tokens: float | None = None,
) -> CutSize:
    """The student to cut out of a teacher of this size.

    Args:
        teacher_params: non-embedding parameters.
        law: a capacity-gap law of students cut out of their teachers: a published name, or a fit or its file.
        student_tokens: what the student will read, to hold against the budget of a fit; None where it is not known.

    Raises:
        ConfigError: another law, one of another arm, or one that makes the student no smaller than its teacher.
        UnitError: a law that counts other parameters.
    """
    found = load_law(str(law)) if isinstance(law, str | Path) else law
    name = str(law) if isinstance(law, str | Path) else f"this {type(law).__name__}"
    line = found.capacity_gap if isinstance(found, PublishedLaw) else found.law
    if not isinstance(line, CapacityGapLine):
        known = [each for each in laws_available() if published(each).capacity_gap is not None]
        why = "not a law of capacity gap"
        if isinstance(found, FitResult) and found.family == "capacity-gap":
            why = f"{found.status.name}: {found.remedy.rstrip('.')}"
        raise ConfigError(
            f"{name}: {why}. Give {' or '.join(known)}, or the file of "
            "`distillaw fit RUNS --law capacity-gap --arm pruned --out FILE`"
        )
    if isinstance(found, FitResult):
        _check_fit(found, name)
    params = float(line.best_student(teacher_params=teacher_params))
    if params >= teacher_params:
        raise ConfigError(
            f"{name}: a teacher of {format_count(teacher_params)} would be the best one of a student of "
            f"{format_count(params)}, which cannot be cut out of it; give the size (--student or --keep)"
        )
    student = {"student_params": params} | ({} if student_tokens is None else {"student_tokens": student_tokens})
    inside = bool(line.range.inside(student))
    interval, rule, whose = None, f"teacher = {line.slope:.4g} x student", ""
    if isinstance(found, FitResult):
        interval, whose = _interval(found, line, teacher_params, params), f" on {budget_of(found)}"
        rule += f" {line.intercept:+.3g}M: {format_count(params)}"
        if interval is None:
            rule += f" ({NO_REPLICATES})"
        else:
            high = "more than the law bounds" if interval[1] is None else format_count(interval[1])
            rule += f" ({format_count(interval[0])} to {high}, 90 %)"
    else:
        rule += f" (arXiv 2311.07052; no interval is published; {WHOSE_SIZES})"
    where = "" if inside else "; outside the students it was fitted on: " + "; ".join(line.range.complaints(student))
    note = f"{rule}, for students cut out of their teacher{whose}, says {name}{where}"
    return CutSize(
        law=name, teacher_params=teacher_params, params=params, interval=interval, inside_range=inside, note=note
    )


def _check_fit(fit: FitResult, name: str) -> None:
    if fit.params_convention != "non-embedding":
        raise UnitError(f"{name} counts {fit.params_convention} parameters, a cut non-embedding ones; fit it on those")
    if (arm := fit.provenance.get("arm")) != "pruned":
        raise ConfigError(
            f"{name} was fitted on {arm or 'unnamed'} starts, and a cut is a pruned one; "
            "distillaw fit RUNS --law capacity-gap --arm pruned --out FILE"
        )


def _interval(
    fit: FitResult, line: CapacityGapLine, teacher: float, params: float
) -> tuple[float, float | None] | None:
    """Replicates turned round, and the scatter of optima about the line as a scatter of students.

    Beyond the students that were fitted the widest of line and power (`FittedCurve.line_and_power`).
    """
    assert fit.curve is not None
    if not len(fit.curve.replicates):
        return None
    tail = [0.5 - _LEVEL / 2, 0.5 + _LEVEL / 2]
    forms = fit.curve.students_of(np.log(teacher), fit.fitted_range.as_dict()["student_params"])
    ends = np.exp([np.quantile(each, tail, method="nearest") for each in forms])
    own = NormalDist().inv_cdf(0.5 + _LEVEL / 2) * fit.noise * teacher / (line.slope * params)
    low = params * np.exp(-np.hypot(np.log(params / min(ends[:, 0].min(), params)), own))
    high = params * np.exp(np.hypot(np.log(max(ends[:, 1].max(), params) / params), own))
    return float(low), float(high) if np.isfinite(high) and high < teacher else None
