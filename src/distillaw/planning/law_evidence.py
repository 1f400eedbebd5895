"""What one law, or an ensemble of them, says of all options: losses, and gains with the model's discrepancy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from distillaw.laws.base import COORDINATES, Array
from distillaw.laws.capacity import CapacityGapLine
from distillaw.planning import draws
from distillaw.planning.arms import RateDoubt, rate_doubt
from distillaw.planning.bills import bill, student_tokens_worth
from distillaw.planning.evidence import (
    FAR_OUTSIDE,
    OUT_OF_RANGE,
    SHORT,
    UNSAID,
    Evidence,
    Interval,
    Strategy,
    with_gains,
)
from distillaw.planning.gains import GainBelief, GainPosterior
from distillaw.planning.learnt import FAR, FEWEST_PER_PARAM, REPEATS, SEEDS, SEEN_BELOW, Transfer
from distillaw.planning.options import Option, OptionLoss, option_loss
from distillaw.planning.phrases import say
from distillaw.planning.situation import Situation, begins_from, start_problem
from distillaw.planning.text_scale import TextScale, text_scale
from distillaw.planning.voices import (
    EFOLD_WEIGHT,
    RIVAL_SHARE,
    TWO_TEXTS_SD,
    Voice,
    efolds_outside,
)
from distillaw.runs.record import budget_text

NO_START_LAW = "NO_START_LAW"
"""Status of a law where none says what the start that was asked for is worth."""
NO_RECIPE_LAW = "NO_RECIPE_LAW"
"""Status of a law where neither it nor outcomes say what the recipe that was asked for does."""
OTHER_TEXT = "OTHER_TEXT"
BY_RATIO = "BY_RATIO"
"""Status of a law that is asked below its range at the user's own ratio of losses (learnt.py)."""
BEYOND = "beyond"
"""Key of `Evidence.details`: how far, from 0 (in range) to 1."""
COST = "cost"
"""Key of `Evidence.details`: what the best distillation's student has over pretraining's without a teacher at equal
compute, as a share of the loss: below 0, for its tokens are fewer."""
KEPT = "kept"
"""Key of `Evidence.details`: the share of a positive gain that is counted; 1 of a law in range and of its recipe."""
COMMON = 0.8
"""Share of a fitted law's discrepancy (as variance) that all distilled students have in common: what it gets wrong of
one teacher it gets wrong of the next. Judged, not measured."""


def law_evidence(
    situation: Situation,
    voice: Voice,
    options: Sequence[Option],
    *,
    level: float,
    own_loss: float | None = None,
    scale: TextScale | None = None,
    transfer: Transfer = SEEN_BELOW,
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
        transfer: what is known of gains below the range.
    """
    if voice.line is not None:
        return _line_evidence(situation, voice, voice.line)
    if voice.ensemble is None or len(options) < 2:
        status, note = (voice.status, voice.note) if voice.ensemble is None else ("NO_TEACHER", say("no teacher"))
        return Evidence(source=voice.source, kind=voice.kind, status=status, note=note, warnings=voice.warnings)
    if scale is None:
        scale = text_scale(voice, situation, options[0], own_loss)
    predicted = [option_loss(voice.ensemble, situation, scale.on_law_text(o)) for o in options]
    outside = _outside(situation, voice, options, predicted)
    beyond = 0.0
    if scale.by_baseline and _is_by_ratio(situation, voice, options, predicted, outside, transfer):
        beyond = min(max(outside.values()) / FAR, 1.0)
    reach = FAR if scale.is_guess or scale.by_baseline else math.inf
    per_param = _per_param(options, predicted)
    farthest = max(outside.values(), default=0.0)
    is_far = not beyond and bool(voice.is_beyond(farthest, per_param, reach=reach))
    is_short = is_far and bool(voice.is_short(per_param))
    is_apart = not is_far and scale.is_implausible(options, predicted)
    kept = _Kept(situation=situation, voice=voice, transfer=transfer, beyond=beyond, outside=outside)
    whole = predicted
    twins = [_twin(situation, voice, options, j, whole, scale) for j in range(len(options))]
    predicted = [_counted(o, p, t, whole[0], kept) for o, p, t in zip(options, whole, twins, strict=True)]
    rates = _rate_doubt(voice, options, whole)
    is_vague = beyond > 0 and scale.sd > transfer.left_sd
    lines = _complaints(situation, voice, options, predicted, scale.ratio)
    best = _best_distilled(options, whole)
    own = scale.ratio * _discrepancy(situation, voice, options, whole, twins[best], scale, kept)
    common = math.hypot(own, rates.sd)
    predicted = [_far_begun(situation, voice, o, p) for o, p in zip(options, predicted, strict=True)]
    recipe = situation.recipe.problem if voice.learnt is not None else ""
    uncovered = start_problem(situation) or recipe
    predicted = [scale.on_user_text(p) for p in predicted]
    alone = scale.sd * float(predicted[0].loss.mean()) if scale.by_baseline else common
    together = COMMON if voice.learnt is None else voice.learnt.common
    sample = _draw(predicted, options, common=common, alone=alone, together=together)
    posterior = GainPosterior(draws=sample.gains, estimate=sample.centres.mean(0), se=sample.gains.std(0))
    rows = [
        _row(situation, o, p, sample.losses[:, j], level)
        for j, (o, p) in enumerate(zip(options, predicted, strict=True))
    ]
    others = with_gains(rows[1:], sample.gains, level)
    note = say("texts apart") if is_apart else _note(voice, outside, is_far, rates)
    if is_short:
        note = f"{note}; {say('too short', per_param=per_param, least=FEWEST_PER_PARAM)}"
    if is_vague:
        note = say("vague baseline", where=note, sd=100 * scale.sd, most=100 * transfer.left_sd)
    return Evidence(
        source=voice.source,
        kind=voice.kind,
        pretrain=rows[0],
        alternatives=others,
        status=NO_RECIPE_LAW
        if uncovered and uncovered == recipe
        else NO_START_LAW
        if uncovered
        else OTHER_TEXT
        if is_apart
        else BY_RATIO
        if beyond
        else _status(voice, outside, is_far),
        note=say(uncovered) if uncovered else note,
        is_decisive=voice.may_decide and not (is_far or is_apart or is_vague or uncovered),
        inside_range=not outside,
        posterior=posterior,
        beliefs=tuple(
            GainBelief.of_law(sample.centres[:, j], math.hypot(own, predicted[j + 1].sd), rates=rates.sd)
            for j in range(len(others))
        ),
        warnings=(*voice.warnings, *lines),
        details={
            "efolds_outside": outside,
            FAR_OUTSIDE: is_far,
            SHORT: is_short and not uncovered and farthest <= min(reach, voice.discrepancy.reach),
            UNSAID: len(kept.readings) > 1 and bool(twins[best].mean() < whole[best].loss.mean()),
            **({COST: float(1 - (twins[best] / whole[0].loss).mean())} if situation.compute else {}),
            "doubt": common,
            **({BEYOND: beyond} if scale.by_baseline else {}),
            KEPT: kept.share,
            **scale.details,
            "laws": _by_member(voice, options, [scale.on_user_text(p) for p in whole]),
        },
    )


def _is_by_ratio(
    situation: Situation,
    voice: Voice,
    options: Sequence[Option],
    predicted: Sequence[OptionLoss],
    outside: dict[str, float],
    transfer: Transfer,
) -> bool:
    """Whether a law answers below its range by L_T / L_S beside the user's own baseline: their like were seen.

    A teacher that was not measured has the ratio that the law makes of it, doubted as far as its loss is: to know less
    must not make surer.
    """
    best = _best_distilled(options, predicted)
    teacher = options[best].teacher
    if voice.is_refused or teacher is None or outside.keys() <= {"teacher_loss"}:
        return False
    ratio = _teacher_ratio(predicted[best], predicted[0])
    coords = [_coords(situation, options[j], predicted[j]) for j in (0, best)]
    return all(transfer.admits(voice.range, at, ratio) for at in coords)


def _teacher_ratio(taught: OptionLoss, alone: OptionLoss) -> float:
    """L_T / L_S, means over the members."""
    assert taught.teacher_loss is not None
    return float(taught.teacher_loss.mean() / alone.loss.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What is counted of the gains that a voice makes of a question: all, by a law of the user's own."""

    situation: Situation
    voice: Voice
    transfer: Transfer
    beyond: float
    """Of `transfer`, where a law is asked by ratio; else 0, and outcomes say (learnt.py)."""
    outside: Mapping[str, float]

    @property
    def share(self) -> float:
        """Of a positive gain."""
        learnt = self.voice.learnt
        if learnt is None:
            return 1.0
        share = self.transfer.mean(self.beyond) if self.beyond else learnt.share(self.outside)
        return share * self._begun * self.situation.recipe.gained(learnt, self.situation.vocab)

    @property
    def _begun(self) -> float:
        learnt = self.voice.learnt
        return 1.0 if learnt is None or self.situation.start != "pruned" else learnt.begun

    def of(self, gain: Array, *, is_strong: bool) -> Array:
        """Of gains as shares of the loss, shape (m,), by every reading of the recipe, (readings m,).

        Args:
            gain: what the law makes of them.
            is_strong: whether the teacher's loss is below the student's.
        """
        lost = np.repeat(self.readings, len(gain)) * self._harm(is_strong)
        whole = np.tile(gain, len(self.readings))
        return np.where(whole > 0, self.share, lost) * whole

    @property
    def readings(self) -> tuple[float, ...]:
        """Shares of a loss by the teacher's term that the weight leaves; several where nobody said it."""
        learnt = self.voice.learnt
        return (1.0,) if learnt is None else self.situation.recipe.readings(learnt, self.situation.start)

    def _harm(self, is_strong: bool) -> float:
        """Share of a loss that is counted at weight 1."""
        learnt, found = self.voice.learnt, self._begun
        if learnt is None or not is_strong or self.beyond or self.situation.comparison != "equal-tokens":
            return found
        return found * (1 - learnt.beyond(self.outside))

    def added(self, option: Option) -> float:
        """Gain, as a share of the loss, beside the law's: by repeated text, equal compute, the best of several runs."""
        learnt, recipe = self.voice.learnt, self.situation.recipe
        if learnt is None:
            return 0.0
        found = recipe.picked + learnt.repeated * is_repeated(self.situation, option.student_tokens)
        if self.situation.comparison == "equal-compute" and not self.beyond:
            found += recipe.weight * learnt.compute
        return found

    def sd(self, option: Option, gain: float) -> float:
        """Standard deviation of what is counted of a gain, both as shares of the loss."""
        learnt, recipe = self.voice.learnt, self.situation.recipe
        if learnt is None:
            return self.voice.discrepancy.at(self.outside)
        gain = max(gain, 0.0)
        if self.beyond:
            home = learnt.at_home + self.beyond * (self.transfer.left_sd - learnt.at_home)
            sd = math.hypot(home, self.transfer.sd(self.beyond) * gain)
        else:
            sd = math.hypot(learnt.at_home, learnt.per_gain * learnt.beyond(self.outside) * gain)
        sd = recipe.weight * math.hypot(sd, recipe.truncated_sd(learnt, self.situation.vocab))
        sd = math.hypot(sd, recipe.held_sd * self.share * gain)
        repeated = learnt.repeated_sd * is_repeated(self.situation, option.student_tokens)
        return math.hypot(SEEDS, sd, repeated)


def _is_strong(taught: OptionLoss, alone: OptionLoss) -> bool:
    return taught.teacher_loss is not None and _teacher_ratio(taught, alone) < 1


def _per_param(options: Sequence[Option], predicted: Sequence[OptionLoss]) -> float:
    """Tokens per parameter, the fewer of pretraining's and the best distillation's."""
    both = (options[0], options[_best_distilled(options, predicted)])
    return min(o.student_tokens / o.student_params for o in both)


def is_repeated(situation: Situation, tokens: float) -> bool:
    """Whether text is read so often that laws of fresh tokens do not know what a teacher does there."""
    return situation.unique_tokens is not None and tokens > REPEATS * situation.unique_tokens


def _counted(option: Option, predicted: OptionLoss, twin: Array, alone: OptionLoss, kept: _Kept) -> OptionLoss:
    """An option with what is counted of its gain by every reading of the recipe, losses (readings m,).

    Beside random starts the gain of a cut is mostly its head start's, and is left as it is.
    """
    learnt, times = kept.voice.learnt, len(kept.readings)
    if option.teacher is None or learnt is None or (option.cut_of is not None and option.is_speculative):
        return replace(predicted, loss=np.tile(predicted.loss, times))
    taught = kept.of((twin - predicted.loss) / alone.loss, is_strong=_is_strong(predicted, alone))
    gain = taught + np.tile(1 - twin / alone.loss, times) + kept.added(option)
    loss = np.tile(alone.loss, times) * (1 - gain)
    return replace(predicted, loss=loss, sd=abs(kept.share) * predicted.sd)


def _discrepancy(
    situation: Situation,
    voice: Voice,
    options: Sequence[Option],
    predicted: Sequence[OptionLoss],
    twin: Array,
    scale: TextScale,
    kept: _Kept,
) -> float:
    """Standard deviation of a gain that the ensemble does not show, nats/token of the law's text.

    `predicted` is what the law says by itself, before anything is left out; `twin` that of the best distillation's
    student without a teacher.
    """
    best = _best_distilled(options, predicted)
    alone, same = float(predicted[0].loss.mean()), float(twin.mean())
    gain = alone - float(predicted[best].loss.mean())
    share = kept.sd(options[best], (same - alone + gain) / alone)
    if scale.is_guess:
        share = math.hypot(share, TWO_TEXTS_SD * situation.recipe.weight)
    apart = text = 0.0
    if scale.sd and best:
        ends = [same - _distilled(voice, situation, options[best], scale.moved(z)) for z in (-1.0, 1.0)]
        strong = _is_strong(predicted[best], predicted[0])
        counted = kept.of(np.array(ends) / alone, is_strong=strong).reshape(-1, 2)
        text = alone * abs(float(np.diff(counted.mean(0))[0])) / 2
    if voice.rival is not None and best:
        rivals = [float(option_loss(voice.rival, situation, options[j]).loss.mean()) for j in (0, best)]
        apart = RIVAL_SHARE * abs(gain - (rivals[0] - rivals[1]))
    begun = _start_doubt(situation, voice, options, best, scale)
    return math.hypot(share * alone, apart, text, begun)


def _rate_doubt(voice: Voice, options: Sequence[Option], predicted: Sequence[OptionLoss]) -> RateDoubt:
    """What the runs behind a study's law may have lost to their rates, at the options that are compared."""
    best = options[_best_distilled(options, predicted)]
    if voice.study is None or best.teacher is None:
        return RateDoubt()
    alone, taught = (rate_doubt(voice.study, o.student_params, o.student_tokens) for o in (options[0], best))
    found = [d.checked for d in (alone, taught) if d.checked is not None]
    return RateDoubt(alone.alone, taught.taught, min(found, default=None))


def _start_doubt(situation: Situation, voice: Voice, options: Sequence[Option], best: int, scale: TextScale) -> float:
    """Standard deviation of a gain between students of one cut, whose head start nobody knows exactly."""
    if situation.start != "pruned" or not best:
        return 0.0
    assert voice.ensemble is not None
    gains = []
    for shift in (-1.0, 1.0):
        asked = replace(situation, start_shift=shift)
        alone, taught = (
            option_loss(voice.ensemble, asked, scale.on_law_text(options[j])).loss.mean() for j in (0, best)
        )
        gains.append(float(alone - taught))
    return abs(gains[0] - gains[1]) / 2


def _far_begun(situation: Situation, voice: Voice, option: Option, predicted: OptionLoss) -> OptionLoss:
    """A cut beside random starts, whose head start may lead beyond the law's range: with the doubt of that."""
    if option.cut_of is None or not option.is_speculative:
        return predicted
    coords = _coords(begins_from(situation, option.cut_of, option.student_params), option, predicted)
    doubt = voice.discrepancy.at(efolds_outside(voice.range, coords)) * float(predicted.loss.mean())
    return replace(predicted, sd=math.hypot(predicted.sd, doubt))


def _distilled(voice: Voice, situation: Situation, option: Option, scale: TextScale) -> float:
    """Mean loss of a distilled student, nats/token of the law's text."""
    assert voice.ensemble is not None
    return float(option_loss(voice.ensemble, situation, scale.on_law_text(option)).loss.mean())


def _best_distilled(options: Sequence[Option], predicted: Sequence[OptionLoss]) -> int:
    """Index of the best distillation that laws describe; 0, pretraining, where there is none."""
    distilled = [j for j, o in enumerate(options) if o.teacher is not None and not o.is_speculative]
    return min(distilled, key=lambda j: float(predicted[j].loss.mean()), default=0)


def _twin(
    situation: Situation,
    voice: Voice,
    options: Sequence[Option],
    j: int,
    predicted: Sequence[OptionLoss],
    scale: TextScale,
) -> Array:
    """Losses (m,) of the student of an option without its teacher: where tokens are equal, those of pretraining.

    What a teacher does is the difference to it; what its passes cost in tokens no weight of its term saves.
    """
    option, alone = options[j], options[0]
    same = (option.student_params, option.student_tokens) == (alone.student_params, alone.student_tokens)
    if same or option.teacher is None or voice.learnt is None or option.is_speculative:
        return predicted[0].loss
    assert voice.ensemble is not None
    twin = replace(alone, student_params=option.student_params, student_tokens=option.student_tokens)
    return option_loss(voice.ensemble, situation, scale.on_law_text(twin)).loss


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Draws paired by draw, columns as the options after the first."""

    centres: Array
    """(m, K), gains by member without the discrepancy."""
    gains: Array
    """(R, K)."""
    losses: Array
    """(R, 1 + K), pretraining first."""


def _draw(
    predicted: Sequence[OptionLoss],
    options: Sequence[Option],
    *,
    common: float,
    alone: float,
    together: float,
) -> _Sample:
    """Members evenly, plus the discrepancy: in part of all distilled students, in part each option's own.

    Args:
        predicted: by option, pretraining first.
        options: the same.
        common: standard deviation of a gain that the members do not show, nats/token.
        alone: the same of the loss of pretraining.
        together: share of `common` (as variance) that all distilled students have in common.
    """
    losses = np.stack([p.loss for p in predicted], axis=1)  # (m, 1 + K)
    centres = losses[:, :1] - losses[:, 1:]
    pick, tails = draws.members(len(losses)), draws.tails()
    gains = np.empty((draws.POINTS, len(options) - 1))
    for j, option in enumerate(options[1:]):
        mixed = draws.normals(draws.OPTIONS + 2 * j)
        if option.teacher is not None:
            mixed = np.sqrt(together) * draws.normals(draws.SHARED) + np.sqrt(1 - together) * mixed
        own = predicted[j + 1].sd * draws.normals(draws.OPTIONS + 2 * j + 1)
        gains[:, j] = centres[pick, j] + tails * (common * mixed + own)
    first = losses[pick, 0] + alone * tails * draws.normals(draws.PRETRAIN)
    return _Sample(centres=centres, gains=gains, losses=np.column_stack([first, first[:, None] - gains]))


def _row(situation: Situation, option: Option, predicted: OptionLoss, losses: Array, level: float) -> Strategy:
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
    return voice.outside({name: both[0][name] + both[1][name] for name in both[0]})


def _coords(situation: Situation, option: Option, predicted: OptionLoss) -> dict[str, list[float]]:
    D = float(student_tokens_worth(situation, option.student_tokens, taught=option.teacher is not None))
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
        next((say("on your text", line=line, loss=loss) for way, loss in yours.items() if way in line), line)
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


def _note(voice: Voice, outside: dict[str, float], is_far: bool, rates: RateDoubt) -> str:
    if voice.is_refused:
        return voice.note
    where = _outside_words(outside) if outside else say("inside")
    where = say("guess", where=where) if is_far else where
    if rates.checked is not None:
        where += say("runs' rates", alone=rates.alone, taught=rates.taught, checked=budget_text(rates.checked))
    return f"{voice.note}, {where}" if voice.note else where


def _outside_words(outside: dict[str, float]) -> str:
    """What is how far outside, worst first."""
    far = []
    for name in sorted(outside, key=lambda name: -outside[name]):
        factor = math.exp(outside[name] / EFOLD_WEIGHT.get(name, 1.0))
        far.append(say("far", coordinate=COORDINATES[name], factor=factor))
    return say("outside", far=", ".join(far))


def _by_member(voice: Voice, options: Sequence[Option], predicted: Sequence[OptionLoss]) -> dict[str, dict[str, float]]:
    """Losses of pretraining and of the best distillation under each law that has a name."""
    best = _best_distilled(options, predicted)
    both = zip(voice.members, predicted[0].loss, predicted[best].loss, strict=False)
    return {name: {"pretrain": float(a), "distil": float(b)} for name, a, b in both}


def _line_evidence(situation: Situation, voice: Voice, line: CapacityGapLine) -> Evidence:
    """A line speaks of teacher sizes only: what it would choose, for people to compare."""
    N = situation.student_params
    if N is None:
        note = say("line free size")
    elif line.students[0] > N:
        note = say("line too small", smallest=line.students[0])
    elif why := line.complaint(N):
        note = why
    else:
        arm = "" if voice.kind == "fitted" else say("line pruned")
        note = say("line chooses", best=float(line.best_teacher(student_params=N)), arm=arm)
    return Evidence(source=voice.source, kind=voice.kind, status="TEACHER_SIZE", note=note, warnings=())
