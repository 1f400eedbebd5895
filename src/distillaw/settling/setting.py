"""From a checked file to a question with numbers: sizes, text, teachers and their losses. Nothing is trained."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from distillaw.data.documents import Exposure, exposure, refuse_exposed
from distillaw.data.prepare import copy_data, prepare_data
from distillaw.errors import ConfigError
from distillaw.planning.decision import MARGIN
from distillaw.quantities import format_count, format_flop, parse_count
from distillaw.runs.files import read_json
from distillaw.runs.store import StudyFolder
from distillaw.settling.design import GROWTH, RUNGS, nearest_stage
from distillaw.settling.pilots import Pilots, Tuned, teacher_costs, teacher_losses
from distillaw.settling.question import Candidate, PilotQuestion, Size
from distillaw.settling.spec import LEAST_PARAMS, SettleSpec, budget_flops, halves, student_size, whole
from distillaw.sweep.checks import check_study
from distillaw.sweep.cost import study_vocab
from distillaw.sweep.scheduler import Display
from distillaw.sweep.spec import StudentsSpec, StudySpec, TuningSpec
from distillaw.sweep.study import check_facts, write_study

LARGEST_RATIO = 128
"""Smallest pilot: `LEAST_PARAMS`, or the target over this, whichever is larger."""
LEAST_BATCHES = 20
"""Steps below which a pilot says nothing; nor does one that is mostly warm-up."""
SEARCH_SHARE = 0.4
"""Of the budget, that the search for rates may take: without it the largest pilots would have half an e-fold more of
parameters times tokens, while a rate that does not suit one arm alone costs it tenths of a nat (docs/rates.md)."""
SEARCH_HALVES = 8
"""How often its runs are halved to fit."""
SAME_LOSS = 2e-3
"""A run scored here within this of its own record was scored on this text then."""
SEARCH_RATIO = 20
"""Tokens per parameter beyond which a longer search for the rate itself finds nothing new."""
LAST_SHARE = GROWTH ** (RUNGS - 1) / sum(GROWTH**i for i in range(RUNGS))
"""Of what is left, that the last rung takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """The search for the rate of both arms, at the smallest size; decided once, whatever the budget becomes."""

    tokens: int = 0
    """Of the runs that rates are searched with; 0: there is no search."""
    horizon: int = 0
    """Of those that rates of long runs are searched with; 0: they are not, and all budgets have one rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a settlement starts from."""

    spec: SettleSpec
    pilots: Pilots
    """With the search switched off; `with_search` switches it on."""
    question: PilotQuestion
    """Before the search: nothing is spent, and batches are the file's."""
    store_hash: str
    """Of the text."""
    exposures: tuple[Exposure, ...] = ()
    """What every candidate has read of the text."""

    def with_search(self, search: SearchPlan) -> Pilots:
        """The pilots with a search."""
        spec = self.pilots.spec
        if search.horizon:
            spec = replace(spec, students=replace(spec.students, tokens=(search.horizon,)))
        tuning = TuningSpec(
            enabled=search.tokens > 0,
            tokens=search.tokens or self.question.least_tokens,
            batch=False,
            horizon="smallest" if search.horizon else "none",
        )
        return replace(self.pilots, spec=replace(spec, tuning=tuning))

    def tuned_question(self, tuned: Tuned) -> PilotQuestion:
        """The question once rates and batch are known."""
        batch = tuned.batch_tokens
        least = least_tokens(self.spec, batch)
        return replace(self.question, batch_tokens=batch, least_tokens=least, spent=tuned.flops, rates=tuned.rates)


def open_setting(spec: SettleSpec, study: StudyFolder, display: Display, command: str) -> Setting:
    """Check everything, prepare the text, score the teachers.

    Raises:
        DistillawError: whatever cannot be settled; nothing has been trained.
    """
    engine = _study(spec)
    check_study(engine)
    vocab = study_vocab(engine)
    target = student_size(engine, spec.target.params, vocab)
    sizes = _ladder(spec, engine, target, vocab)
    forward = teacher_costs(engine)
    budget = _budget(spec, target, list(forward.values()), display)
    # the longest pilot there can be reads what the target does, or what all of the budget buys at the smallest size
    longest = min(spec.target.tokens, max(budget / sizes[0].flops, least_tokens(spec, spec.batch_tokens)))
    engine = replace(engine, students=StudentsSpec(params=(sizes[0].label,), tokens=(round(longest),)))
    check_study(engine)
    if spec.like:
        copy_data(StudyFolder(Path(spec.like)).data, study.data, say=display.note)
    store = prepare_data(spec.data, study.data, say=display.note)
    facts = check_facts(engine, store, display)
    exposures = tuple(exposure(t.label, t.source, store) for t in engine.teachers)
    for found in exposures:
        refuse_exposed(found)
    losses = teacher_losses(engine, store, facts, study)
    write_study(engine, study, store, command)
    candidates = tuple(_candidate(t.label, losses[t.label], t.source, forward[t.source]) for t in engine.teachers)
    question = PilotQuestion(
        target=target,
        tokens=spec.target.tokens,
        candidates=candidates,
        budget=budget,
        margin=spec.settle.margin or MARGIN * min(losses.values()),
        sizes=sizes,
        least_tokens=least_tokens(spec, spec.batch_tokens),
        batch_tokens=spec.batch_tokens,
        level=spec.settle.level,
        cooldown=spec.training.cooldown,
    )
    pilots = Pilots(spec=engine, facts=facts, study=study, forward=forward)
    return Setting(spec=spec, pilots=pilots, question=question, store_hash=store.data_hash, exposures=exposures)


def _candidate(name: str, loss: float, source: str, flops: float) -> Candidate:
    """A teacher; one that was trained alone on this very text says by its loss where pretraining leads."""
    file = Path(source) / "result.json"
    known = read_json(file) if file.is_file() else {}
    then, params, tokens = (known.get(key) for key in ("loss", "params", "tokens"))
    is_relative = (
        isinstance(then, float) and math.isclose(then, loss, rel_tol=SAME_LOSS) and not known.get("teacher_run")
    )
    if not (is_relative and isinstance(params, int) and isinstance(tokens, int)):
        return Candidate(name=name, loss=loss, flops=flops)
    return Candidate(name=name, loss=loss, flops=flops, params=float(params), tokens=float(tokens))


def _study(spec: SettleSpec) -> StudySpec:
    """The study that pilots are runs of; its students are filled in once the sizes are known."""
    target = spec.target
    return StudySpec(
        name=spec.name,
        students=StudentsSpec(params=(target.params,), tokens=(target.tokens,)),
        teachers=spec.teachers,
        data=spec.data,
        training=spec.training,
        target=target,
        tuning=TuningSpec(enabled=False),
        batch_tokens=spec.batch_tokens,
        peak_lr=spec.peak_lr,
        seed=spec.seed,
    )


def _ladder(spec: SettleSpec, engine: StudySpec, target: Size, vocab: int) -> tuple[Size, ...]:
    """The target and its halves down to the smallest pilot, ascending; shapes that coincide once."""
    nominal = parse_count(target.label)
    least = max(LEAST_PARAMS, nominal / LARGEST_RATIO)
    if spec.settle.least_params:
        least = parse_count(spec.settle.least_params, name="[settle] least_params")
    if nominal < least:
        raise ConfigError(
            f"the target of {target.label} parameters is smaller than the smallest pilot, {format_count(least)}: train "
            "it with every teacher (distillaw study run), or set least_params in [settle]"
        )
    found = {target.params: target}
    for size in halves(engine, target, vocab, least):
        if size.params < target.params:
            found.setdefault(size.params, size)
    return tuple(found[params] for params in sorted(found))


def _budget(spec: SettleSpec, target: Size, forward: list[float], display: Display) -> float:
    """The budget in FLOP; one that would train the target with everything is refused."""
    tokens = spec.target.tokens
    once = target.flops * tokens
    every = (1 + len(forward)) * once + sum(forward) * tokens
    budget = budget_flops(spec.settle.budget, once)
    if budget >= every:
        raise ConfigError(
            f"a budget of {format_flop(budget)} ({budget / once:.0%} of the target's training): training the target "
            f"itself with every teacher and with none costs {format_flop(every)} and leaves no doubt. Do that "
            f"(distillaw study run), or give less than {every / once:.0%}"
        )
    if budget >= once:
        display.note(
            f"the budget, {format_flop(budget)}, is more than training the target once ({format_flop(once)}); with "
            f"every teacher and with none it costs {format_flop(every)}"
        )
    return budget


def least_tokens(spec: SettleSpec, batch: int) -> int:
    """Tokens below which a pilot says nothing: few steps, or mostly warm-up; whole batches."""
    return whole(max(LEAST_BATCHES * batch, 2 * spec.training.warmup_tokens), batch)


def affordable_searches(setting: Setting) -> list[SearchPlan]:
    """Searches that a budget may pay, the best first.

    One that reaches as far as the longest pilot is expected to, then shorter ones, then rates alone, then none.
    """
    question, batch = setting.question, setting.question.batch_tokens
    longest = min(max(SEARCH_RATIO * question.sizes[0].params, question.least_tokens), question.tokens)
    near = [round(longest * 0.5**k / batch) * batch for k in range(SEARCH_HALVES)]
    near = [tokens for tokens in near if tokens >= question.least_tokens]
    left = (1 - SEARCH_SHARE) * question.budget
    names = tuple(c.name for c in question.candidates)
    last = nearest_stage(question, names, left * LAST_SHARE, 1)
    wished = [round(last.tokens[-1] * 0.5**k / batch) * batch for k in range(SEARCH_HALVES)] if last else []
    both = [SearchPlan(tokens=tokens, horizon=far) for far in wished for tokens in near if far >= 2 * tokens]
    plans = [*both, *(SearchPlan(tokens=tokens) for tokens in near)]
    allowed = SEARCH_SHARE * question.budget
    return [*(plan for plan in plans if search_flops(setting, plan) <= allowed), SearchPlan()]


def search_flops(setting: Setting, search: SearchPlan) -> float:
    """What a search usually costs."""
    return setting.with_search(search).usual_search().flops if search.tokens else 0.0
