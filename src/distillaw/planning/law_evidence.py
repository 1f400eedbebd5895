"""What one law, or an ensemble of them, says of all options: losses, and gains with the model's discrepancy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from distillaw.laws.base import COORDINATES, Array
from distillaw.laws.capacity import CapacityGapLine
from distillaw.planning import draws
from distillaw.planning.bills import bill, effective_tokens
from distillaw.planning.evidence import FAR_OUTSIDE, OUT_OF_RANGE, Evidence, Interval, Strategy, with_gains
from distillaw.planning.gains import GainBelief, GainPosterior
from distillaw.planning.options import Option, OptionLoss, option_loss
from distillaw.planning.situation import Situation
from distillaw.planning.text_scale import TextScale, text_scale
from distillaw.planning.voices import EFOLD_WEIGHT, RIVAL_SHARE, TWO_TEXTS_SD, Voice, efolds_outside
from distillaw.quantities import format_count, times

OTHER_TEXT = "OTHER_TEXT"
_APART = (
    "the teachers' losses and this law's are of two texts: give each teacher's size and tokens with its loss "
    "(--teacher-tokens, --scout-tokens), or measure the student's own loss"
)
COMMON = 0.8
"""Share of a law's discrepancy (as variance) that all distilled students have in common: what it gets wrong about one
teacher it gets wrong about the next. Judged, not measured."""


def law_evidence(
    situation: Situation,
    voice: Voice,
    options: Sequence[Option],
    *,
    level: float,
    own_loss: float | None = None,
    scale: TextScale | None = None,
) -> Evidence:
    """A voice's evidence on all options, the first of which is pretraining.

    Args:
        situation: the question.
        voice: the law.
        options: what could be done.
        level: of the intervals.
        own_loss: the student's loss without a teacher on the user's text, where something better than this law knows
            it. A published law is then asked at the user's ratio of teacher to student loss, since its own text is
            easier or harder, and its losses are scaled to the user's.
        scale: of the user's losses to the law's, where it is known already.
    """
    if voice.line is not None:
        return _line_evidence(situation, voice, voice.line)
    if voice.ensemble is None or len(options) < 2:
        status, note = (
            (voice.status, voice.note) if voice.ensemble is None else ("NO_TEACHER", "no teacher to judge")
        )
        return Evidence(
            source=voice.source, kind=voice.kind, status=status, note=note, warnings=voice.warnings
        )
    if scale is None:
        own = None if own_loss is None else (options[0], own_loss)
        scale = text_scale(voice, situation, own)
    predicted = [option_loss(voice.ensemble, situation, scale.on_law_text(o)) for o in options]
    outside = _outside(situation, voice, options, predicted)
    is_far = max(outside.values(), default=0.0) > voice.discrepancy.reach
    is_apart = not is_far and scale.is_implausible(options, predicted)
    lines = _complaints(situation, voice, options, predicted, scale.ratio)
    common = scale.ratio * _discrepancy(situation, voice, options, predicted, outside, scale)
    predicted = [scale.on_user_text(p) for p in predicted]
    sample = _draw(predicted, common, options)
    posterior = GainPosterior(draws=sample.gains, estimate=sample.centres.mean(0), se=sample.gains.std(0))
    rows = [
        _row(situation, o, p, sample.losses[:, j], level)
        for j, (o, p) in enumerate(zip(options, predicted, strict=True))
    ]
    others = with_gains(rows[1:], sample.gains, level)
    return Evidence(
        source=voice.source,
        kind=voice.kind,
        pretrain=rows[0],
        alternatives=others,
        status=OTHER_TEXT if is_apart else _status(voice, outside, is_far),
        note=_APART if is_apart else _note(voice, outside, is_far),
        is_decisive=voice.may_decide and not is_far and not is_apart,
        inside_range=not outside,
        posterior=posterior,
        beliefs=tuple(
            GainBelief.of_law(sample.centres[:, j], float(np.hypot(common, predicted[j + 1].sd)))
            for j in range(len(others))
        ),
        warnings=(*voice.warnings, *lines),
        details={
            "efolds_outside": outside,
            FAR_OUTSIDE: is_far,
            "doubt": common,
            **scale.details,
            "laws": _by_member(voice, options, predicted),
        },
    )


def _discrepancy(
    situation: Situation,
    voice: Voice,
    options: Sequence[Option],
    predicted: Sequence[OptionLoss],
    outside: dict[str, float],
    scale: TextScale,
) -> float:
    """Standard deviation of a gain that the ensemble does not show, nats/token of the law's text."""
    share = voice.discrepancy.at(outside)
    if scale.is_guess:
        share = math.hypot(share, TWO_TEXTS_SD)
    apart = text = 0.0
    best = _best_distilled(options, predicted)
    if scale.sd and best:
        ends = [_distilled(voice, situation, options[best], scale.moved(z)) for z in (-1.0, 1.0)]
        text = abs(ends[0] - ends[1]) / 2
    if voice.rival is not None and best:
        rivals = [float(option_loss(voice.rival, situation, options[j]).loss.mean()) for j in (0, best)]
        own = [float(predicted[j].loss.mean()) for j in (0, best)]
        apart = RIVAL_SHARE * abs((own[0] - own[1]) - (rivals[0] - rivals[1]))
    return math.hypot(share * float(predicted[0].loss.mean()), apart, text)


def _distilled(voice: Voice, situation: Situation, option: Option, scale: TextScale) -> float:
    """Mean loss of a distilled student, nats/token of the law's text."""
    assert voice.ensemble is not None
    return float(option_loss(voice.ensemble, situation, scale.on_law_text(option)).loss.mean())


def _best_distilled(options: Sequence[Option], predicted: Sequence[OptionLoss]) -> int:
    """Index of the best distillation that laws describe; 0, pretraining, where there is none."""
    distilled = [j for j, o in enumerate(options) if o.teacher is not None and not o.is_speculative]
    return min(distilled, key=lambda j: float(predicted[j].loss.mean()), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Draws paired by draw, columns as the options after the first."""

    centres: Array
    """(m, K), gains by member without the discrepancy."""
    gains: Array
    """(R, K)."""
    losses: Array
    """(R, 1 + K), pretraining first."""


def _draw(predicted: Sequence[OptionLoss], common: float, options: Sequence[Option]) -> _Sample:
    """Members evenly, plus the discrepancy: in part of all distilled students, in part each option's own."""
    losses = np.stack([p.loss for p in predicted], axis=1)  # (m, 1 + K)
    centres = losses[:, :1] - losses[:, 1:]
    pick, tails = draws.members(len(losses)), draws.tails()
    gains = np.empty((draws.POINTS, len(options) - 1))
    for j, option in enumerate(options[1:]):
        mixed = draws.normals(draws.OPTIONS + 2 * j)
        if option.teacher is not None:
            mixed = np.sqrt(COMMON) * draws.normals(draws.SHARED) + np.sqrt(1 - COMMON) * mixed
        own = predicted[j + 1].sd * draws.normals(draws.OPTIONS + 2 * j + 1)
        gains[:, j] = centres[pick, j] + tails * (common * mixed + own)
    first = losses[pick, 0] + common * tails * draws.normals(draws.PRETRAIN)
    return _Sample(centres=centres, gains=gains, losses=np.column_stack([first, first[:, None] - gains]))


def _row(
    situation: Situation, option: Option, predicted: OptionLoss, losses: Array, level: float
) -> Strategy:
    teacher_loss = None if predicted.teacher_loss is None else float(predicted.teacher_loss.mean())
    size, tokens = option.student_params, option.student_tokens
    of_option = {field.name: getattr(option, field.name) for field in fields(Option)}
    return Strategy(
        **of_option,
        teacher_loss=teacher_loss,
        basis="law",
        compute=bill(situation, size, tokens, option.teacher, distilled_share=option.distilled_share),
        loss=Interval.of(losses, level),
    )


def _outside(
    situation: Situation, voice: Voice, options: Sequence[Option], predicted: Sequence[OptionLoss]
) -> dict[str, float]:
    """E-folds outside the range by coordinate: of the pretrained student and of the best distilled one."""
    best = _best_distilled(options, predicted)
    both = [_coords(situation, options[j], predicted[j]) for j in (0, best)]
    return efolds_outside(voice.range, {name: both[0][name] + both[1][name] for name in both[0]})


def _coords(situation: Situation, option: Option, predicted: OptionLoss) -> dict[str, list[float]]:
    D = float(effective_tokens(situation, option.student_tokens))
    losses = [] if predicted.teacher_loss is None else [float(predicted.teacher_loss.mean())]
    return {
        "student_params": [option.student_params],
        "student_tokens": [D],
        "teacher_loss": losses,
        "tokens_per_param": [option.student_tokens / option.student_params],
    }


def _complaints(
    situation: Situation,
    voice: Voice,
    options: Sequence[Option],
    predicted: Sequence[OptionLoss],
    ratio: float,
) -> list[str]:
    """One line per coordinate outside the range, over all options that a law describes.

    A teacher's loss is that on the law's text; `ratio` gives the one on the user's, which is said beside it.
    """
    merged: dict[str, list[float]] = {}
    for option, p in zip(options, predicted, strict=True):
        if not option.is_speculative:
            for name, values in _coords(situation, option, p).items():
                merged.setdefault(name, []).extend(values)
    lines = voice.range.complaints({k: np.array(v) for k, v in merged.items() if v})
    distilled, losses = f"{COORDINATES['teacher_loss']} ", merged.get("teacher_loss", [])
    if ratio == 1 or not losses:
        return lines
    yours = {" is below ": min(losses) * ratio, " is above ": max(losses) * ratio}
    return [
        next((f"{line} ({loss:.4g} on your text)" for way, loss in yours.items() if way in line), line)
        if line.startswith(distilled)
        else line
        for line in lines
    ]


def _status(voice: Voice, outside: dict[str, float], is_far: bool) -> str:
    if voice.is_refused or is_far:
        return "REFUSED" if voice.is_refused else OUT_OF_RANGE
    if voice.kind == "fitted":
        return voice.status
    return "IN_RANGE" if not outside else "NEAR_RANGE"


def _note(voice: Voice, outside: dict[str, float], is_far: bool) -> str:
    if voice.is_refused:
        return voice.note
    where = _outside_words(outside) if outside else "inside the fitted range"
    where += ": whatever it says is a guess" if is_far else ""
    return f"{voice.note}, {where}" if voice.note else where


def _outside_words(outside: dict[str, float]) -> str:
    """What is how far outside, worst first."""
    far = []
    for name in sorted(outside, key=lambda name: -outside[name]):
        factor = math.exp(outside[name] / EFOLD_WEIGHT.get(name, 1.0))
        far.append(f"{COORDINATES[name]} {times(factor)} times")
    return f"outside the fitted range ({', '.join(far)})"


def _by_member(
    voice: Voice, options: Sequence[Option], predicted: Sequence[OptionLoss]
) -> dict[str, dict[str, float]]:
    """Losses of pretraining and of the best distillation under each law that has a name."""
    best = _best_distilled(options, predicted)
    both = zip(voice.members, predicted[0].loss, predicted[best].loss, strict=False)
    return {name: {"pretrain": float(a), "distil": float(b)} for name, a, b in both}


def _line_evidence(situation: Situation, voice: Voice, line: CapacityGapLine) -> Evidence:
    """A line speaks of teacher sizes only: what it would choose, for people to compare."""
    N = situation.student_params
    if N is None or line.smallest_student > N:
        note = (
            "says nothing of a student of free size"
            if N is None
            else f"means nothing below {format_count(line.smallest_student)}"
        )
    else:
        best = format_count(float(line.best_teacher(student_params=N)))
        arm = "" if voice.kind == "fitted" else ", for students pruned from their teacher"
        note = f"would choose a {best} teacher{arm}; it says nothing of losses"
    return Evidence(source=voice.source, kind=voice.kind, status="TEACHER_SIZE", note=note, warnings=())
