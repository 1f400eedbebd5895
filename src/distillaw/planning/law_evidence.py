"""What one law, or an ensemble of them, says of all options: losses, and gains with the model's discrepancy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

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
from distillaw.planning.voices import EFOLD_WEIGHT, RIVAL_SHARE, TWO_TEXTS_SD, Voice, efolds_outside
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
    scale = scale or text_scale(voice, situation, options[0], own_loss)
    return _AskedLaw(situation=situation, voice=voice, options=options, scale=scale, transfer=transfer).evidence(level)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where pretraining and one distillation lie."""

    outside: Mapping[str, float]
    """E-folds outside the range by coordinate, of the farther of the two."""
    beyond: float
    """How far below its range the law is asked by L_T / L_S beside the user's own baseline (`transfer`); else 0."""

    @property
    def farthest(self) -> float:
        """E-folds in the worst coordinate."""
        return max(self.outside.values(), default=0.0)


@dataclass(frozen=True, kw_only=True)
class _AskedLaw:
    """One law that is asked about all options."""

    situation: Situation
    voice: Voice
    options: Sequence[Option]
    scale: TextScale
    transfer: Transfer

    def evidence(self, level: float) -> Evidence:
        """Its answer."""
        situation, voice, options, scale = self.situation, self.voice, self.options, self.scale
        place = self._place(self.best)
        is_short = self.is_far and bool(voice.is_short(self.per_param))
        is_apart = not self.is_far and scale.is_implausible(options, self.whole)
        is_vague = place.beyond > 0 and scale.sd > self.transfer.left_sd
        recipe = situation.recipe.problem if voice.learnt is not None else ""
        uncovered = start_problem(situation) or recipe
        predicted = [scale.on_user_text(self._far_begun(j, self._counted(j))) for j in range(len(options))]
        own = [scale.ratio * self.discrepancies[self._like(j)] for j in range(len(options))]
        common = [math.hypot(sd, self.rates.sd) for sd in own]
        centres, gains, losses = _draw(
            predicted,
            options,
            common=common,
            alone=scale.sd * float(predicted[0].loss.mean()) if scale.by_baseline else common[0],
            together=COMMON if voice.learnt is None else voice.learnt.common,
        )
        rows = [
            _row(situation, o, p, losses[:, j], level) for j, (o, p) in enumerate(zip(options, predicted, strict=True))
        ]
        note = say("texts apart") if is_apart else self._note()
        if is_short:
            note = f"{note}; {say('too short', per_param=self.per_param, least=FEWEST_PER_PARAM)}"
        if is_vague:
            note = say("vague baseline", where=note, sd=100 * scale.sd, most=100 * self.transfer.left_sd)
        twin, alone = self.twins[self.best], self.whole[0].loss
        return Evidence(
            source=voice.source,
            kind=voice.kind,
            pretrain=rows[0],
            alternatives=with_gains(rows[1:], gains, level),
            status=NO_RECIPE_LAW
            if uncovered and uncovered == recipe
            else NO_START_LAW
            if uncovered
            else OTHER_TEXT
            if is_apart
            else BY_RATIO
            if place.beyond
            else self._status(),
            note=say(uncovered) if uncovered else note,
            is_decisive=voice.may_decide and not (self.is_far or is_apart or is_vague or uncovered),
            inside_range=not place.outside,
            posterior=GainPosterior(draws=gains, estimate=centres.mean(0), se=gains.std(0)),
            beliefs=tuple(
                GainBelief.of_law(centres[:, j], math.hypot(own[j + 1], p.sd), rates=self.rates.sd)
                for j, p in enumerate(predicted[1:])
            ),
            warnings=(*voice.warnings, *self._complaints()),
            details={
                "efolds_outside": place.outside,
                FAR_OUTSIDE: self.is_far,
                SHORT: is_short and not uncovered and place.farthest <= min(self.reach, voice.discrepancy.reach),
                UNSAID: len(self.readings) > 1 and bool(twin.mean() < self.whole[self.best].loss.mean()),
                **({COST: float(1 - (twin / alone).mean())} if situation.compute else {}),
                "doubt": common[self.best],
                **({BEYOND: place.beyond} if scale.by_baseline else {}),
                KEPT: self._kept(self.best),
                **scale.details,
                "laws": {
                    name: {"pretrain": float(scale.ratio * a), "distil": float(scale.ratio * b)}
                    for name, a, b in zip(voice.members, alone, self.whole[self.best].loss, strict=False)
                },
            },
        )

    # --- what the law says by itself -------------------------------------------------------------------------

    def _of(self, option: Option, situation: Situation | None = None, scale: TextScale | None = None) -> OptionLoss:
        """An option's loss on the law's text; of another question or another scale, where one is given."""
        assert self.voice.ensemble is not None
        on_law_text = (scale or self.scale).on_law_text(option)
        return option_loss(self.voice.ensemble, situation or self.situation, on_law_text)

    @cached_property
    def whole(self) -> list[OptionLoss]:
        """By option, before anything is left out, nats/token of the law's text."""
        return [self._of(option) for option in self.options]

    @cached_property
    def taught(self) -> list[int]:
        """Indices of the distillations that laws describe; 0, pretraining, where there is none."""
        return [j for j, o in enumerate(self.options) if o.teacher is not None and not o.is_speculative] or [0]

    @cached_property
    def best(self) -> int:
        """Index of the best of them, as gains are counted."""
        return min(self.taught, key=lambda j: float(self._counted(j).loss.mean()))

    def _like(self, j: int) -> int:
        """Which of them says what is counted of an option and how far it is off: itself, else that from its teacher.

        Never another teacher's: what else could be done is no evidence of a strategy.
        """
        if j in self.taught:
            return j
        teacher = self.options[j].teacher or self.options[j].cut_of
        return next((k for k in self.taught if teacher is not None and self.options[k].teacher == teacher), self.best)

    @cached_property
    def twins(self) -> list[Array]:
        """By option the losses (m,) of its student without its teacher: where tokens are equal, those of pretraining.

        What a teacher does is the difference to it; what its passes cost in tokens no weight of its term saves.
        """
        alone = self.options[0]
        found = []
        for option in self.options:
            sizes = {"student_params": option.student_params, "student_tokens": option.student_tokens}
            twin = replace(alone, **sizes)
            same = twin == alone or option.teacher is None or self.voice.learnt is None or option.is_speculative
            found.append(self.whole[0].loss if same else self._of(twin).loss)
        return found

    def _ratio(self, j: int) -> float | None:
        """L_T / L_S of an option, means over the members."""
        teacher = self.whole[j].teacher_loss
        return None if teacher is None else float(teacher.mean() / self.whole[0].loss.mean())

    def _is_strong(self, j: int) -> bool:
        """Whether the teacher's loss is below the student's."""
        ratio = self._ratio(j)
        return ratio is not None and ratio < 1

    # --- where the question lies -----------------------------------------------------------------------------

    def _coords(self, j: int, situation: Situation | None = None) -> dict[str, list[float]]:
        option, teacher_loss = self.options[j], self.whole[j].teacher_loss
        taught = option.teacher is not None
        tokens = float(student_tokens_worth(situation or self.situation, option.student_tokens, taught=taught))
        return {
            "student_params": [option.student_params],
            "student_tokens": [tokens],
            "teacher_loss": [] if teacher_loss is None else [float(teacher_loss.mean())],
            "tokens_per_param": [option.student_tokens / option.student_params],
        }

    @cached_property
    def places(self) -> dict[int, _Place]:
        """By distillation that laws describe."""
        found, alone = {}, self._coords(0)
        for j in self.taught:
            taught = self._coords(j)
            outside = self.voice.outside({name: alone[name] + taught[name] for name in alone})
            found[j] = _Place(outside=outside, beyond=self._beyond(j, outside))
        return found

    def _place(self, j: int) -> _Place:
        """Of an option."""
        return self.places[self._like(j)]

    def _beyond(self, j: int, outside: Mapping[str, float]) -> float:
        """`_Place.beyond`: only where such students were seen.

        A teacher that was not measured has the ratio that the law makes of it, doubted as far as its loss is: to know
        less must not make surer.
        """
        ratio = self._ratio(j)
        if not self.scale.by_baseline or self.voice.is_refused or outside.keys() <= {"teacher_loss"} or not ratio:
            return 0.0
        seen = all(self.transfer.admits(self.voice.range, self._coords(k), ratio) for k in (0, j))
        return min(max(outside.values()) / FAR, 1.0) if seen else 0.0

    @property
    def reach(self) -> float:
        """E-folds outside up to which it may decide, where that is less than usual."""
        return FAR if self.scale.is_guess or self.scale.by_baseline else math.inf

    @property
    def per_param(self) -> float:
        """Tokens per parameter, the fewer of pretraining's and the best distillation's."""
        both = (self.options[0], self.options[self.best])
        return min(o.student_tokens / o.student_params for o in both)

    @property
    def is_far(self) -> bool:
        """Whether it decides nothing here."""
        place = self._place(self.best)
        return not place.beyond and bool(self.voice.is_beyond(place.farthest, self.per_param, reach=self.reach))

    def _complaints(self) -> list[str]:
        """One line per coordinate outside the range, over all options that a law describes.

        A teacher's loss is that on the law's text; the one on the user's is said beside it.
        """
        merged: dict[str, list[float]] = {}
        for j, option in enumerate(self.options):
            if not option.is_speculative:
                for name, values in self._coords(j).items():
                    merged.setdefault(name, []).extend(values)
        lines = self.voice.range.complaints({k: np.array(v) for k, v in merged.items() if v})
        distilled, losses, ratio = f"{COORDINATES['teacher_loss']} ", merged.get("teacher_loss", []), self.scale.ratio
        if ratio == 1 or not losses:
            return lines
        yours = {" is below ": min(losses) * ratio, " is above ": max(losses) * ratio}
        return [
            next((say("on your text", line=line, loss=loss) for way, loss in yours.items() if way in line), line)
            if line.startswith(distilled)
            else line
            for line in lines
        ]

    def _status(self) -> str:
        if self.voice.is_refused or self.is_far:
            return "REFUSED" if self.voice.is_refused else OUT_OF_RANGE
        if self.voice.kind == "fitted":
            return self.voice.status
        return "NEAR_RANGE" if self._place(self.best).outside else "IN_RANGE"

    def _note(self) -> str:
        if self.voice.is_refused:
            return self.voice.note
        where, outside = say("inside"), self._place(self.best).outside
        if outside:  # what is how far outside, worst first
            worst = sorted(outside, key=lambda name: -outside[name])
            factors = {name: math.exp(outside[name] / EFOLD_WEIGHT.get(name, 1.0)) for name in worst}
            far = (say("far", coordinate=COORDINATES[name], factor=factor) for name, factor in factors.items())
            where = say("outside", far=", ".join(far))
        where = say("guess", where=where) if self.is_far else where
        rates = self.rates
        if rates.checked is not None:
            where += say("runs' rates", alone=rates.alone, taught=rates.taught, checked=budget_text(rates.checked))
        return f"{self.voice.note}, {where}" if self.voice.note else where

    # --- what is counted of a gain: all, by a law of the user's own ------------------------------------------

    @cached_property
    def begun(self) -> float:
        """Share of a gain or a loss between students of one cut."""
        learnt = self.voice.learnt
        return 1.0 if learnt is None or self.situation.start != "pruned" else learnt.begun

    def _kept(self, j: int) -> float:
        """Share of an option's positive gain: as `transfer` says where the law is asked by ratio, else as outcomes."""
        learnt, recipe = self.voice.learnt, self.situation.recipe
        if learnt is None:
            return 1.0
        place = self._place(j)
        share = self.transfer.mean(place.beyond) if place.beyond else learnt.share(place.outside)
        return share * self.begun * recipe.gained(learnt, self.situation.vocab)

    @cached_property
    def readings(self) -> tuple[float, ...]:
        """Shares of a loss by the teacher's term that the weight leaves; several where nobody said it."""
        learnt = self.voice.learnt
        return (1.0,) if learnt is None else self.situation.recipe.readings(learnt, self.situation.start)

    def _kept_of(self, gain: Array, j: int) -> Array:
        """Of gains of an option as shares of the loss, shape (m,), by every reading of the recipe, (readings m,)."""
        learnt, harm, place = self.voice.learnt, self.begun, self._place(j)
        equal_tokens = self.situation.comparison == "equal-tokens"
        if learnt is not None and self._is_strong(j) and not place.beyond and equal_tokens:
            harm = self.begun * (1 - learnt.beyond(place.outside))
        lost, whole = np.repeat(self.readings, len(gain)) * harm, np.tile(gain, len(self.readings))
        return np.where(whole > 0, self._kept(j), lost) * whole

    def _added(self, j: int) -> float:
        """Gain, as a share of the loss, beside the law's: by repeated text, equal compute, the best of several runs."""
        learnt, recipe = self.voice.learnt, self.situation.recipe
        assert learnt is not None
        found = recipe.picked + learnt.repeated * repeated(self.situation, self.options[j].student_tokens)
        if self.situation.comparison == "equal-compute" and not self._place(j).beyond:
            found += recipe.weight * learnt.compute
        return found

    def _counted(self, j: int) -> OptionLoss:
        """An option with what is counted of its gain by every reading of the recipe, losses (readings m,).

        Beside random starts the gain of a cut is mostly its head start's, and is left as it is.
        """
        option, said, twin, alone, times = (
            self.options[j],
            self.whole[j],
            self.twins[j],
            self.whole[0],
            len(self.readings),
        )
        if option.teacher is None or self.voice.learnt is None or (option.cut_of is not None and option.is_speculative):
            return replace(said, loss=np.tile(said.loss, times))
        taught = self._kept_of((twin - said.loss) / alone.loss, j)
        gain = taught + np.tile(1 - twin / alone.loss, times) + self._added(j)
        return replace(said, loss=np.tile(alone.loss, times) * (1 - gain), sd=abs(self._kept(j)) * said.sd)

    def _far_begun(self, j: int, predicted: OptionLoss) -> OptionLoss:
        """A cut beside random starts, whose head start may lead beyond the law's range: with the doubt of that."""
        option = self.options[j]
        if option.cut_of is None or not option.is_speculative:
            return predicted
        coords = self._coords(j, begins_from(self.situation, option.cut_of, option.student_params))
        doubt = self.voice.discrepancy.at(efolds_outside(self.voice.range, coords)) * float(predicted.loss.mean())
        return replace(predicted, sd=math.hypot(predicted.sd, doubt))

    # --- how far it may be off -------------------------------------------------------------------------------

    @cached_property
    def discrepancies(self) -> dict[int, float]:
        """`_discrepancy` by distillation that laws describe."""
        return {j: self._discrepancy(j) for j in self.taught}

    def _discrepancy(self, j: int) -> float:
        """Standard deviation of a gain that the ensemble does not show, nats/token of the law's text."""
        taught = self.options[j]
        alone, same = float(self.whole[0].loss.mean()), float(self.twins[j].mean())
        gain = alone - float(self.whole[j].loss.mean())
        share = self._counted_sd(j, (same - alone + gain) / alone)
        if self.scale.is_guess:
            share = math.hypot(share, TWO_TEXTS_SD * self.situation.recipe.weight)
        apart = text = begun = 0.0
        if self.scale.sd and j:
            moved = (float(self._of(taught, scale=self.scale.moved(z)).loss.mean()) for z in (-1.0, 1.0))
            ends = np.array([same - loss for loss in moved]) / alone
            counted = self._kept_of(ends, j).reshape(-1, 2)
            text = alone * abs(float(np.diff(counted.mean(0))[0])) / 2
        if self.voice.rival is not None and j:
            rivals = [float(option_loss(self.voice.rival, self.situation, self.options[k]).loss.mean()) for k in (0, j)]
            apart = RIVAL_SHARE * abs(gain - (rivals[0] - rivals[1]))
        if self.situation.start == "pruned" and j:  # students of one cut, whose head start nobody knows exactly
            gains = []
            for shift in (-1.0, 1.0):
                asked = replace(self.situation, start_shift=shift)
                gains.append(float(self._of(self.options[0], asked).loss.mean() - self._of(taught, asked).loss.mean()))
            begun = abs(gains[0] - gains[1]) / 2
        return math.hypot(share * alone, apart, text, begun)

    def _counted_sd(self, j: int, gain: float) -> float:
        """Standard deviation of what is counted of a gain, both as shares of the loss."""
        learnt, recipe, place = self.voice.learnt, self.situation.recipe, self._place(j)
        if learnt is None:
            return self.voice.discrepancy.at(place.outside)
        gain = max(gain, 0.0)
        if place.beyond:
            home = learnt.at_home + place.beyond * (self.transfer.left_sd - learnt.at_home)
            sd = math.hypot(home, self.transfer.sd(place.beyond) * gain)
        else:
            sd = math.hypot(learnt.at_home, learnt.per_gain * learnt.beyond(place.outside) * gain)
        sd = recipe.weight * math.hypot(sd, recipe.truncated_sd(learnt, self.situation.vocab))
        sd = math.hypot(sd, recipe.held_sd * self._kept(j) * gain)
        return math.hypot(SEEDS, sd, learnt.repeats_sd(repeated(self.situation, self.options[j].student_tokens)))

    @cached_property
    def rates(self) -> RateDoubt:
        """What the runs behind a study's law may have lost to their rates, at the options that are compared."""
        best = self.options[self.best]
        if self.voice.study is None or best.teacher is None:
            return RateDoubt()
        both = (self.options[0], best)
        alone, taught = (rate_doubt(self.voice.study, o.student_params, o.student_tokens) for o in both)
        found = [d.checked for d in (alone, taught) if d.checked is not None]
        return RateDoubt(alone.alone, taught.taught, min(found, default=None))


def repeated(situation: Situation, tokens: float) -> float:
    """How far text is read too often for laws of fresh tokens to know what a teacher does there, from 0 to 1."""
    if situation.unique_tokens is None:
        return 0.0
    fresh, often = map(math.log, REPEATS)
    return min(max((math.log(tokens / situation.unique_tokens) - fresh) / (often - fresh), 0.0), 1.0)


def _draw(
    predicted: Sequence[OptionLoss],
    options: Sequence[Option],
    *,
    common: Sequence[float],
    alone: float,
    together: float,
) -> tuple[Array, Array, Array]:
    """Members evenly, plus the discrepancy: in part of all distilled students, in part each option's own.

    Args:
        predicted: by option, pretraining first.
        options: the same.
        common: by option the standard deviation of a gain that the members do not show, nats/token.
        alone: the same of the loss of pretraining.
        together: share of `common` (as variance) that all distilled students have in common.

    Returns:
        Gains by member without the discrepancy, (m, K), and draws paired by draw: gains (R, K) and losses (R, 1 + K),
        nats/token, columns as the options, of gains as those after the first.
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
        gains[:, j] = centres[pick, j] + tails * (common[j + 1] * mixed + own)
    first = losses[pick, 0] + alone * tails * draws.normals(draws.PRETRAIN)
    return centres, gains, np.column_stack([first, first[:, None] - gains])


def _row(situation: Situation, option: Option, predicted: OptionLoss, losses: Array, level: float) -> Strategy:
    size, tokens = option.student_params, option.student_tokens
    return Strategy(
        **{field.name: getattr(option, field.name) for field in fields(Option)},
        teacher_loss=None if predicted.teacher_loss is None else float(predicted.teacher_loss.mean()),
        basis="law",
        compute=bill(situation, size, tokens, option.teacher, distilled_share=option.distilled_share),
        loss=Interval.of(losses, level),
    )


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
