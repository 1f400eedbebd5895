"""`distillaw.plan`: one question, every source of evidence side by side, one verdict.

    distillaw plan --student 1B --compute 1e21 --teacher llama-3.1-8b

    situation.py   the question, checked            voices.py        every law that may speak
    judging.py     the way to the call              law_evidence.py  what each law says of it
    options.py     what could be done               consensus.py     what all of them say together
    paired.py      what the user's runs say         flips.py         what would change it
    decision.py    distil, pretrain, too close

Nothing here trains or fits.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distillaw.accounting.scenarios import CostShares
from distillaw.errors import CacheError, ConfigError
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import kept_laws
from distillaw.laws.published import PublishedLaw
from distillaw.planning.bills import training_tokens
from distillaw.planning.budget import ServingLimit, compute_for
from distillaw.planning.consult import Sources, consult, options_of
from distillaw.planning.decision import EqualCompute, Supposed, Verdict, call, choose, regret, witnesses
from distillaw.planning.evidence import Evidence
from distillaw.planning.judging import Judged, judge
from distillaw.planning.law_crossover import law_crossovers
from distillaw.planning.situation import OTHER_TEXT, Situation, Teacher
from distillaw.planning.text_scale import TextScale
from distillaw.planning.voices import LawLike, find_voices
from distillaw.quantities import parse_count
from distillaw.runs.record import StudyRecord, read_study


def plan(
    student_params: float | str | None = None,
    *,
    student_tokens: float | str | None = None,
    compute: float | str | None = None,
    device_hours: float | None = None,
    money: float | None = None,
    device: str = "h100-sxm",
    mfu: float | None = None,
    price_per_hour: float | None = None,
    max_params: float | str | ServingLimit | None = None,
    study: str | Path | StudyRecord | None = None,
    teachers: Sequence[Teacher | str] = (),
    law: LawLike | Sequence[LawLike] | None = None,
    published: bool | Sequence[str] = True,
    scenario: str = "inference",
    shares: tuple[float, float] | None = None,
    logits: str = "online",
    students_served: int = 1,
    may_train_teacher: bool = True,
    unique_tokens: float | str | None = None,
    inference_tokens: float | str | None = None,
    vocab: int | None = None,
    context: int | None = None,
    level: float = 0.9,
    seed: int = 0,
    with_flips: bool = True,
) -> Verdict:
    """Distil or pretrain one student, from which teacher, and how sure.

    Args:
        student_params: N_S, non-embedding parameters; a number or text such as `300M`. None leaves the size free.
        student_tokens: D_S, the same tokens for every strategy; one budget of this and the next three.
        compute: FLOP, the same bill for every strategy.
        device_hours: hours of one `device`, turned into FLOP at its utilisation.
        money: US dollars, turned into device-hours at its price.
        device: hardware preset of the two above.
        mfu: utilisation assumed, by default the preset's.
        price_per_hour: US dollars per device-hour, by default the preset's.
        max_params: largest student that can be served (`planning.budget.largest_served` works one out from memory
            or latency). With a fixed student, pretraining a larger one up to this is an option under `compute`.
        study: a study folder (or one already read); its runs and fitted laws are the first evidence.
        teachers: candidates, or names of real models (`distillaw teachers`). Empty takes the study's own; without a
            study the best one to train, on the FLOP that the student costs alone.
        law: laws to consult first: a name, a file of `distillaw fit --out`, a FitResult, or several.
        published: whether published laws and surrogates are consulted unasked, or the names of those that are.
        scenario: who pays for the teacher: best-case, inference, pretraining or pretraining-inference.
        shares: (delta_Lgt, delta_Pre), each in [0, 1], instead of the scenario's.
        logits: `online`, or `stored` once for all students served.
        students_served: students that share the bill for training a teacher.
        may_train_teacher: whether training the best teacher for the budget is an option (under `compute`).
        unique_tokens: distinct training tokens at hand; more are repeats, worth less.
        inference_tokens: tokens the student will serve in its life; their FLOP are in every bill.
        vocab: vocabulary, for counting FLOP; by default the study's, else 32768.
        context: training context, for counting FLOP; by default the study's, else 4096.
        level: of all intervals.
        seed: of the draws behind what paired runs say; laws have fixed ones.
        with_flips: whether to search what would change the answer.

    Returns:
        Verdict; `str()` of it is the text that the command prints.

    Raises:
        ConfigError: a question that cannot be answered (says which value, which rule, what to change).
        VocabularyError: teachers of several tokenizers with losses per token.
        CacheError: the study folder cannot be read, or a run of the student asked about is damaged.

    Example:
        >>> verdict = plan("1B", student_tokens="20B", teachers=[Teacher(name="8B", params=8e9, tokens=2e11)])
        >>> verdict.verdict in ("distil", "pretrain", "too-close")
        True
    """
    if not 0.5 <= level < 1:
        raise ConfigError(f"level = {level}: intervals cover between 0.5 and 1, e.g. 0.9")
    record = read_study(Path(study)) if isinstance(study, str | Path) else study
    params = None if student_params is None else parse_count(student_params, name="student")
    tokens = None if student_tokens is None else parse_count(student_tokens, name="tokens")
    flop, budget_text = compute_of(compute, device_hours, money, device, mfu, price_per_hour)
    limit, why = _limit(max_params)
    candidates = tuple(named_teacher(t) if isinstance(t, str) else t for t in teachers)
    if record is not None and params is not None:
        _refuse_damage(record, params, tokens)
    situation = Situation(
        student_params=params, student_tokens=tokens, compute=flop, budget_text=budget_text,
        max_params=limit, limit_text=why, teachers=candidates,
        may_train_teacher=may_train_teacher, scenario=scenario, shares=None if shares is None else CostShares(*shares),
        students_served=students_served, logits=logits, unique_tokens=_count(unique_tokens, "unique-tokens"),
        inference_tokens=_count(inference_tokens, "inference-tokens") or 0.0, **_sizes(record, vocab, context),
    )  # fmt: skip
    asked = _laws(law)
    voices = find_voices(record, asked, published_too=published)
    sources = Sources(record=record, voices=voices, level=level, seed=seed,
                      asked=tuple(v.source for v in voices[: len(asked)]))  # fmt: skip
    verdict = decide(situation, sources, with_flips=with_flips)
    return verdict if record is None else _with_gaps(verdict, record)


def _refuse_damage(record: StudyRecord, params: float, tokens: float | None) -> None:
    """Refuse to answer without a run of the very cell that is asked about.

    Raises:
        CacheError: such a run is damaged; its file is named.
    """
    lost = [run for run in record.damaged if run.may_be_of(params, tokens)]
    if lost:
        more = f" ({len(lost) - 1} more runs of this student likewise)" if len(lost) > 1 else ""
        raise CacheError(
            "a run of the student asked about is damaged, so there is no verdict: "
            f"{lost[0].run_id}{more}: {lost[0].why}"
        )


def _with_gaps(verdict: Verdict, record: StudyRecord) -> Verdict:
    """The verdict with what of the study could not be read, and what could be read but not verified."""
    taken = ()
    if record.unverified:
        taken = (
            f"{record.unverified} of the study's runs were written without checksums (before there were any, or by "
            "hand): they are taken as they are, but for a loss that is not that of its held-out documents.",
        )
    warnings = (*record.problems, *kept_laws(record).problems, *verdict.warnings)
    assumptions = (*verdict.assumptions, *taken)
    return replace(verdict, warnings=tuple(dict.fromkeys(warnings)), assumptions=assumptions)


def decide(asked: Situation, sources: Sources, *, with_flips: bool = True) -> Verdict:
    """The verdict on a checked situation."""
    from distillaw.planning import wording
    from distillaw.planning.flips import find_flips
    from distillaw.planning.teacher_range import teacher_range

    level = sources.level
    judged = judge(asked, sources, with_supposed=True)
    situation, evidence, headline, answer = judged.situation, judged.evidence, judged.headline, judged.call
    equal = _equal_compute(judged, sources)
    by_tokens, by_compute = law_crossovers(
        situation, sources.voices, witnesses(evidence), headline.best, level=level
    )
    runs = next((e for e in evidence if e.crossover is not None), None)
    if runs is None or runs.best.teacher != headline.best.teacher:  # a band belongs to one teacher
        headline = replace(headline, crossover=by_tokens)
    assert headline.pretrain is not None
    expected = _expected_loss(
        headline
    )  # estimates that no law describes never decide, so they never lead either
    rows = sorted(
        [headline.pretrain, *headline.alternatives], key=lambda row: (row.is_speculative, expected(row))
    )
    flips = []
    if with_flips and headline.is_decisive:
        trains = headline.best.kind == "train-teacher"
        flips = find_flips(asked, sources, answer.verdict, trains_teacher=trains)
    supposed = _supposed(judged, level)
    words = wording.explain(
        situation, evidence, headline, answer, equal, flips=flips, sources=sources, supposed=supposed
    )
    lead = sources.lead(situation)
    scale = next((TextScale.of(e).ratio for e in evidence if e.source == lead.source), 1.0)
    is_law = headline.kind != "measured" and headline.is_informative
    return Verdict(
        verdict=answer.verdict, probability=answer.probability, margin=answer.margin, strategies=tuple(rows),
        gain=headline.gain(level), crossover=headline.crossover,
        crossover_compute=by_compute, flips_if=words.flips_if, flips=tuple(flips),
        assumptions=words.assumptions, inside_range=headline.inside_range, warnings=words.warnings,
        regret_if_wrong=regret(headline, answer, level), reasons=words.reasons, evidence=tuple(evidence),
        headline=headline, call=answer, equal_compute=equal, with_a_teacher=supposed, asked=asked,
        situation=situation, level=level,
        sentence=words.sentence, next_runs=words.next_runs, next_command=words.next_command, sources=sources,
        teachers=teacher_range(situation, lead, headline.best, scale=scale) if is_law else None,
    )  # fmt: skip


def _laws(law: LawLike | Sequence[LawLike] | None) -> list[LawLike]:
    """One law, several or none, as a list."""
    if law is None:
        return []
    if isinstance(law, str | Path | FitResult | PublishedLaw):
        return [law]
    return list(law)


def compute_of(
    compute: float | str | None, device_hours: float | None, money: float | None, device: str, mfu: float | None,
    price_per_hour: float | None,
) -> tuple[float | None, str]:  # fmt: skip
    """FLOP and how the user said it; None where tokens are the budget."""
    if device_hours is None and money is None:
        return _count(compute, "compute"), ""
    if compute is not None:
        raise ConfigError("give one budget: compute, device-hours or money")
    return compute_for(
        device_hours=device_hours, money=money, device=device, mfu=mfu, price_per_hour=price_per_hour
    )


def _limit(value: float | str | ServingLimit | None) -> tuple[float | None, str]:
    """The largest student, and where that comes from."""
    if isinstance(value, ServingLimit):
        return value.params, value.text
    return _count(value, "max-student"), "as given"


def _count(value: float | str | None, name: str) -> float | None:
    return None if value is None else parse_count(value, name=name)


def named_teacher(name: str, loss: float | None = None) -> Teacher:
    """A real model as a teacher.

    Args:
        name: as `distillaw teachers` lists it.
        loss: on the user's text, nats/token; None: laws estimate it.

    Raises:
        ConfigError: an unknown name, or no loss for a model whose training tokens are not published.
    """
    from distillaw.accounting.families import model

    found = model(name)
    if found.tokens is None and loss is None:
        raise ConfigError(
            f"{found.name}: its training tokens are not published, so no law can estimate its loss; measure it on your "
            "text (distillaw scout) and give --teacher-loss"
        )
    error = OTHER_TEXT * (2 if found.distilled else 1)
    return Teacher(name=found.name, params=float(found.params), tokens=found.tokens, tokenizer=found.tokenizer,
                   loss=loss, estimate_error=error)  # fmt: skip


def _sizes(record: StudyRecord | None, vocab: int | None, context: int | None) -> dict:
    """Vocabulary, context and known prices: what was asked, else the study's, else the papers'."""
    if record is None or not record.runs:
        return {
            "vocab": vocab if vocab is not None else 32768,
            "context": context if context is not None else 4096,
        }
    from distillaw.planning.paired import study_prices

    row = record.runs[0]
    known = {key: int(n) for key in ("vocab_size", "context") if (n := row.number(key)) == n}
    same = (vocab, context) == (None, None)
    return {"vocab": vocab if vocab is not None else known.get("vocab_size", 32768),
            "context": context if context is not None else known.get("context", 4096),
            "prices": study_prices(record) if same else {}}  # fmt: skip


def _expected_loss(headline: Evidence):
    """Sort key: the paired estimate where there is one, since losses alone hide what pairs tell apart."""
    assert headline.pretrain is not None
    base = headline.pretrain.loss.mean
    return lambda row: base - (row.gain.mean if row.gain is not None else 0.0)


def _supposed(judged: Judged, level: float) -> Supposed | None:
    """What a teacher would be worth that is not at hand."""
    if judged.supposed is None or not judged.supposed.headline.is_decisive:
        return None
    headline = judged.supposed.headline
    return Supposed(row=headline.best, call=judged.supposed.call, gain=headline.gain(level))


_UNREACHED = "no source reaches that far: train the student without a teacher on these tokens"


def _equal_compute(judged: Judged, sources: Sources) -> EqualCompute | None:
    """The chosen distillation against pretraining on its whole bill; None where that was asked."""
    situation, headline = judged.situation, judged.headline
    best = headline.best
    total = best.compute["total"]
    if judged.asked.compute is not None or total is None or best.teacher is None:
        return None
    if situation.compute is not None:
        assert headline.pretrain is not None
        is_known = headline.is_decisive
        return EqualCompute(
            compute=situation.compute, pretrain_tokens=headline.pretrain.student_tokens,
            basis=headline.source if is_known else _UNREACHED, call=judged.call if is_known else None,
            gain=headline.gain(sources.level) if is_known else None,
        )  # fmt: skip
    question = replace(situation, student_tokens=None, compute=total, student_params=best.student_params,
                       teachers=(best.teacher,), may_train_teacher=False)  # fmt: skip
    tokens = training_tokens(question, best.student_params)
    sources = replace(sources, scales={e.source: TextScale.of(e) for e in judged.evidence})  # of one text
    evidence = consult(question, sources, options_of(question, sources, is_sketch=True))
    if not witnesses(evidence):
        return EqualCompute(compute=total, pretrain_tokens=tokens, basis=_UNREACHED, call=None, gain=None)
    source = choose(evidence, level=sources.level)
    assert source.pretrain is not None
    how = "" if source.pretrain.basis in ("law", "measured") else f", {source.pretrain.basis}"
    return EqualCompute(
        compute=total, pretrain_tokens=tokens, basis=source.source + how, call=call(source),
        gain=source.gain(sources.level),
    )  # fmt: skip
