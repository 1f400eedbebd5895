"""What could be done with the budget: every strategy that the situation allows, and its loss under every law.

    pretrain                 the student on the whole budget
    pretrain-larger          a larger student, up to what can be served
    distil                   from each teacher that exists or is proposed at a given size
    train-teacher            train the best teacher for this student and budget, then distil
    distil-then-pretrain     the best existing teacher for the first part of the tokens
    prune-and-distil         a student cut out of an existing teacher, distilled from it
    prune-and-pretrain       the same cut, trained on without a teacher

What is free (a student's size, a teacher's size and tokens, the share that is distilled) is chosen to minimise the loss
expected under one ensemble of laws; every other source then judges the same options. Cuts are judged by the same laws,
a head start of tokens further on (`planning/situation.py`). Asked about them, the verdict is between those two; else
they are shown beside a verdict on random starts. One strategy is an estimate that never carries a verdict:

    distil-then-pretrain  after the distilled part the student stands where pretraining would have brought it after
                          D_eq tokens, L(N, D_eq) = L_S, and goes on from there. Nobody has measured this hand-over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.accounting.scenarios import CostShares
from distillaw.errors import ConfigError
from distillaw.laws.base import Array
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.search import lowest_on_grids
from distillaw.planning.bills import effective_tokens, shares_of, student_tokens_worth, tokens_bought, tokens_for
from distillaw.planning.optimum import OptimalPlan, optimal_distillation
from distillaw.planning.phrases import say
from distillaw.planning.situation import (
    SMALLEST_RATIO,
    SMALLEST_STUDENT,
    Situation,
    Teacher,
    begins_from,
    cut_problem,
    cut_source,
    forward_curve,
    forward_flop,
)

LARGER = 1.05
"""A larger student that is less than this much larger is the same student."""
USUAL_RATIO = 20.0
"""Tokens per parameter that public fits find compute-optimal (Hoffmann et al. 2022, arXiv:2203.15556), within a factor
of three or four."""
SIZE_PRIOR = 0.001
"""Weight of that prior where a law fitted on a small study chooses the size and nothing is served: some such fits want
0.1 to 4 tokens per parameter where the truth wants 10 to 70. Chosen on 102 simulated questions; ten times as much did
hardly better than 20 tokens per parameter (benchmarks/results/free_size.json, docs/verdict.md)."""
_TEACHERS = (0.1, 1e4)
"""Teacher sizes searched, in units of the student's."""
_ZOOMS, _SKETCH_ZOOMS = 5, 2
"""Grids within grids that free sizes are searched on: to 1e-5 of a size, and to 3 % where a sketch will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One thing that could be done."""

    kind: str
    student_params: float
    student_tokens: float
    teacher: Teacher | None = None
    distilled_share: float = 1.0
    """Share of the tokens that come with the teacher's targets."""
    cut_of: Teacher | None = None
    """What the student is cut out of; None begins from random weights."""
    is_speculative: bool = False
    """True where it may not carry the verdict: an estimate, or another start than the one asked about."""

    @property
    def name(self) -> str:
        """What people call it."""
        teacher = "" if self.teacher is None else self.teacher.called
        name = "" if self.teacher is None else self.teacher.name
        source = "" if self.cut_of is None else self.cut_of.called
        kind = self.kind
        if kind == "prune-and-distil" and self.cut_of != self.teacher:
            kind = "prune-and-distil-from"
        taught, params = 100 * self.distilled_share, self.student_params
        return say(f"option {kind}", teacher=teacher, name=name, source=source, taught=taught, params=params)


def find_options(
    situation: Situation, ensemble: LawEnsemble, *, is_sketch: bool = False, size_prior: float = 0.0
) -> list[Option]:
    """All options, pretraining first; only that where no teacher can be paid for.

    Args:
        situation: what there is.
        ensemble: chooses what is free, by its mean loss.
        is_sketch: free sizes to 3 % only, and nothing that may not decide, fast.
        size_prior: weight that pulls a free size towards `USUAL_RATIO` tokens per parameter.
    """
    zooms = _SKETCH_ZOOMS if is_sketch else _ZOOMS
    choice = _Choice(situation=situation, ensemble=ensemble, size_prior=size_prior, zooms=zooms)
    source = cut_source(situation) if situation.start == "pruned" else None
    if source is not None:
        taught = (_sized(choice, t, kind="distil") for t in _in_order(situation.teachers))
        return [_cut(o, source) for o in (_pretrain(choice), *taught) if o is not None]
    found = [_pretrain(choice)]
    found += _larger(choice, found[0])
    distilled = [o for t in _in_order(situation.teachers) if (o := _sized(choice, t, kind="distil")) is not None]
    found += distilled
    found += _train_teacher(choice)
    existing = [o for o in distilled if o.teacher is not None and o.teacher.exists]
    if existing and not is_sketch:
        best = min(existing, key=lambda o: float(option_loss(ensemble, situation, o).loss.mean()))
        found += _distil_then_pretrain(situation, ensemble, best)
        found += _cuts(situation, found[0], existing)
    return found


def _in_order(teachers: Sequence[Teacher]) -> list[Teacher]:
    """By size, tokens and loss: draws go by place, and no answer hangs on the order in which teachers were named."""
    return sorted(teachers, key=lambda t: (t.params or 0.0, t.tokens or 0.0, t.loss or 0.0))


def _cut(option: Option, source: Teacher) -> Option:
    """The same strategy from a cut."""
    kind = "prune-and-pretrain" if option.teacher is None else "prune-and-distil"
    return replace(option, kind=kind, cut_of=source)


def _cuts(situation: Situation, alone: Option, existing: Sequence[Option]) -> list[Option]:
    """Cuts of the teachers at hand, shown beside random starts."""
    size = alone.student_params
    reached = [
        o for o in existing if o.teacher and not cut_problem(o.teacher, size, situation) and o.student_params == size
    ]
    found = [_cut(o, o.teacher) for o in reached if o.teacher]
    source = cut_source(replace(situation, student_params=size, teachers=[o.cut_of for o in found if o.cut_of]))
    found += [] if source is None else [_cut(alone, source)]
    return [replace(o, is_speculative=True) for o in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """By what the free sizes are chosen."""

    situation: Situation
    ensemble: LawEnsemble
    size_prior: float
    zooms: int

    def losses(self, sizes: Array, teacher: Teacher | None) -> Array:
        """Expected losses of students of these sizes on the whole bill; inf where it does not pay for training."""
        situation, ensemble = self.situation, self.ensemble
        tokens = tokens_bought(situation, sizes, teacher)
        pays = tokens > SMALLEST_RATIO * sizes
        d = np.log(effective_tokens(situation, np.where(pays, tokens, 1.0)))[None]
        n = np.log(sizes)[None]
        if teacher is None:
            by_law = ensemble.log_supervised(n, d)
        else:
            by_law = ensemble.log_distilled(n, d, teacher_losses(ensemble, situation, teacher)[:, None])
        return np.where(pays, np.exp(by_law).mean(0) * self.pull(sizes, np.where(pays, tokens, 1.0)), np.inf)

    def pull(self, params: Array, tokens: Array) -> Array:
        """1 + w ln(D / 20 N)^2, towards the usual ratio of tokens to parameters."""
        return 1 + self.size_prior * np.log(tokens / (USUAL_RATIO * params)) ** 2


def _pretrain(choice: _Choice) -> Option:
    option = _sized(choice, None, kind="pretrain")
    if option is None:
        situation = choice.situation
        served = situation.inference_tokens
        serving = say("after serving", tokens=served) if served else ""
        compute = situation.compute or 0.0
        raise ConfigError(say("trains none", compute=compute, serving=serving, least=SMALLEST_RATIO))
    return option


def _larger(choice: _Choice, own: Option) -> list[Option]:
    """A larger student on the same bill, where one can be served and the budget is FLOP."""
    situation = choice.situation
    if situation.student_params is None or situation.compute is None or situation.max_params is None:
        return []
    free = replace(choice, situation=replace(situation, student_params=None, teachers=()))
    option = _sized(free, None, kind="pretrain-larger", least=LARGER * own.student_params)
    return [] if option is None else [option]


def _sized(choice: _Choice, teacher: Teacher | None, *, kind: str, least: float = SMALLEST_STUDENT) -> Option | None:
    """The option at the student's size, or at the best size where that is free; None where nothing is affordable."""
    situation = choice.situation

    def at(size: float) -> Option | None:
        tokens = tokens_for(situation, size, teacher)
        if tokens is None:
            return None
        return Option(kind=kind, teacher=teacher, student_params=size, student_tokens=tokens)

    if situation.student_params is not None:
        return at(situation.student_params)
    if situation.student_tokens is not None:  # more parameters on the same tokens are always better
        assert situation.max_params is not None
        return at(situation.max_params)

    def losses(log_sizes: Array) -> Array:
        return choice.losses(np.exp(log_sizes), teacher)

    high = situation.max_params if situation.max_params is not None else _largest_affordable(situation)
    if not least < high:
        return None
    return at(float(np.exp(lowest_on_grids(losses, np.log(least), np.log(high), zooms=choice.zooms))))


def _largest_affordable(situation: Situation) -> float:
    """The size that the budget trains on SMALLEST_RATIO tokens per parameter: 6 N^2 ratio = C."""
    assert situation.compute is not None
    return max((situation.compute / (6 * SMALLEST_RATIO)) ** 0.5, 2 * SMALLEST_STUDENT)


def _train_teacher(choice: _Choice) -> list[Option]:
    """The best teacher that could be trained for this bill, and the student that it leaves money for."""
    situation = choice.situation
    if situation.compute is None or not situation.may_train_teacher:
        return []
    shares = shares_of(situation, Teacher(name="", params=1.0, tokens=1.0, exists=False))
    size = situation.student_params
    if size is None:
        high = situation.max_params if situation.max_params is not None else _largest_affordable(situation)

        def losses(log_sizes: Array) -> Array:
            found = _distilled_by_best(choice, np.exp(log_sizes), shares)
            return np.nan_to_num(found.student_loss * choice.pull(np.exp(log_sizes), found.student_tokens), nan=np.inf)

        size = float(np.exp(lowest_on_grids(losses, np.log(SMALLEST_STUDENT), np.log(high), zooms=choice.zooms)))
    best = _distilled_by_best(choice, np.array([size]), shares)
    if not np.isfinite(best.student_loss[0]) or best.student_tokens_at_bound[0] < 0:
        return []  # nothing is paid for, or the laws give all to the teacher and leave the student untrained
    params, tokens = float(best.teacher_params[0]), float(best.teacher_tokens[0])
    name = say("trained teacher", params=params, tokens=tokens)
    teacher = Teacher(name=name, params=params, tokens=tokens, exists=False)
    left = float(best.student_tokens[0])
    return [Option(kind="train-teacher", teacher=teacher, student_params=size, student_tokens=left)]


def _distilled_by_best(choice: _Choice, sizes: Array, shares: CostShares) -> OptimalPlan:
    """The best teacher to train for students of these sizes; nan where the budget is too small."""
    situation = choice.situation

    def repeated(d: Array) -> Array:
        return np.log(effective_tokens(situation, np.exp(d)))

    assert situation.compute is not None
    left = situation.compute - forward_curve(situation, sizes) * situation.inference_tokens
    smallest, largest = float(sizes.min()), float(sizes.max())
    return optimal_distillation(
        choice.ensemble,
        student_params=sizes,
        compute=np.maximum(left, 1.0),
        shares=shares,
        forward=lambda N: forward_curve(situation, N),
        effective_tokens=None if situation.unique_tokens is None else repeated,
        teacher_params_bounds=(_TEACHERS[0] * smallest, _TEACHERS[1] * largest),
        teacher_tokens_bounds=(smallest, _TEACHERS[1] ** 2 * largest),
        min_student_tokens=SMALLEST_RATIO * smallest,
    )


def _distil_then_pretrain(situation: Situation, ensemble: LawEnsemble, pure: Option) -> list[Option]:
    """The best share to be taught, on the same bill; nothing where an end of the range is best."""

    def losses(shares: Array) -> Array:
        after, _ = handed_over(ensemble, situation, pure, _tokens_at_shares(situation, pure, shares), shares)
        return after.mean(0)

    share = lowest_on_grids(losses, 0.02, 0.98, zooms=_ZOOMS)
    if not 0.03 < share < 0.97:
        return []
    tokens = float(_tokens_at_shares(situation, pure, np.array([share]))[0])
    return [
        replace(pure, kind="distil-then-pretrain", student_tokens=tokens, distilled_share=share, is_speculative=True)
    ]


def _tokens_at_shares(situation: Situation, pure: Option, distilled: Array) -> Array:
    """Tokens in all when only a share of them needs the teacher, on the bill of `pure`."""
    if situation.student_tokens is not None:
        return np.full(len(distilled), situation.student_tokens)
    if pure.teacher is None or pure.teacher.params is None:  # of unknown size: allowed where its logits are free
        return np.full(len(distilled), pure.student_tokens)
    own = TRAINING_FACTOR * forward_flop(situation, pure.student_params)
    logits = shares_of(situation, pure.teacher).delta_lgt * forward_flop(situation, pure.teacher.params)
    return pure.student_tokens * (own + logits) / (own + distilled * logits)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionLoss:
    """What an ensemble makes of one option."""

    loss: Array
    """(m,), nats/token."""
    teacher_loss: Array | None = None
    """(m,), as used."""
    sd: float = 0.0
    """Standard deviation, nats/token, of what is uncertain about this option alone."""


def option_loss(ensemble: LawEnsemble, situation: Situation, option: "Option") -> OptionLoss:
    """Loss by member, with the teacher's loss that was used and the option's own standard deviation."""
    if option.cut_of is not None and situation.start != "pruned":
        return _cut_loss(ensemble, situation, option)
    n = np.log(np.full(1, option.student_params))
    d = np.log(np.atleast_1d(student_tokens_worth(situation, option.student_tokens, taught=option.teacher is not None)))
    if option.teacher is None:
        return OptionLoss(loss=np.exp(ensemble.log_supervised(n, d)))
    t = teacher_losses(ensemble, situation, option.teacher)
    known = option.teacher.loss is not None
    spread = option.teacher.loss_se if known else option.teacher.law_error * float(np.exp(t).mean())
    if option.kind == "distil-then-pretrain":
        tokens, share = np.array([option.student_tokens]), np.array([option.distilled_share])
        after, pure = handed_over(ensemble, situation, option, tokens, share)
        claim = float(np.abs(after - pure).mean())
        return OptionLoss(loss=after[:, 0], teacher_loss=np.exp(t), sd=claim)
    low, middle, high = (np.exp(ensemble.log_distilled(n, d, np.log(np.exp(t) + s))) for s in (-spread, 0.0, spread))
    return OptionLoss(loss=middle, teacher_loss=np.exp(t), sd=float(np.abs(high - low).mean()) / 2)


def _cut_loss(ensemble: LawEnsemble, situation: Situation, option: Option) -> OptionLoss:
    """Of a cut beside random starts: the doubt of its head start is its own."""
    assert option.cut_of is not None
    asked = begins_from(situation, option.cut_of, option.student_params)
    less, middle, more = (
        option_loss(ensemble, replace(asked, start_shift=shift), option) for shift in (-1.0, 0.0, 1.0)
    )
    return replace(middle, sd=float(np.hypot(middle.sd, np.mean(less.loss - more.loss) / 2)))


def teacher_losses(ensemble: LawEnsemble, situation: Situation, teacher: Teacher) -> Array:
    """Ln L_T by member, shape (m,): as given, or as each law estimates it from size and tokens."""
    if teacher.loss is not None:
        return np.log(np.full(ensemble.size, teacher.loss))
    assert teacher.params is not None and teacher.tokens is not None, "a Teacher has one or the other"
    tokens = teacher.tokens if teacher.exists else float(effective_tokens(situation, teacher.tokens))
    return ensemble.log_supervised(np.log(np.full(1, teacher.params)), np.log(np.full(1, tokens)))


def handed_over(
    ensemble: LawEnsemble, situation: Situation, option: "Option", tokens: Array, distilled: Array
) -> tuple[Array, Array]:
    """Losses (m, k) after distilling on a share of the tokens and going on alone, and of the better pure strategy.

    `tokens` (k,) are those in all, `distilled` (k,) the share that comes with the teacher's targets.
    """
    assert option.teacher is not None
    n = np.full((1, 1), np.log(option.student_params))
    t = teacher_losses(ensemble, situation, option.teacher)[:, None]
    whole = effective_tokens(situation, tokens)
    first = ensemble.log_distilled(n, np.log(effective_tokens(situation, distilled * tokens))[None], t)
    stands = ensemble.log_tokens_for(n, first)
    onwards = ensemble.log_supervised(n, np.logaddexp(stands, np.log(whole * (1 - distilled))[None]))
    after = np.where(np.isfinite(stands), onwards, first)
    d = np.log(whole)[None]
    pure = np.minimum(ensemble.log_distilled(n, d, t), ensemble.log_supervised(n, d))
    return np.exp(after), np.exp(pure)
