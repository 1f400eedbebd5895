"""`distillaw.plan`: one question, every source of evidence side by side, one verdict; docs/design.md has the way there.

distillaw plan --student 1B --compute 1e21 --teacher llama-3.1-8b
"""

import inspect
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from distillaw.errors import CacheError, ConfigError
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import kept_laws
from distillaw.laws.published import PublishedLaw
from distillaw.laws.skill import told_skill
from distillaw.planning import wording
from distillaw.planning.crossover import law_crossovers
from distillaw.planning.decision import EqualCompute, Supposed, better_start, call, choose, regret, witnesses
from distillaw.planning.evidence import Evidence
from distillaw.planning.judging import Judged, Sources, consult, judge, options_of
from distillaw.planning.law_evidence import BY_RATIO
from distillaw.planning.phrases import say
from distillaw.planning.question import Count, PlanQuestion, device_of, situation_of
from distillaw.planning.sensitivity import switching_values
from distillaw.planning.situation import Situation, training_tokens
from distillaw.planning.teacher_curve import teacher_range
from distillaw.planning.text_scale import TextScale
from distillaw.planning.verdict import Verdict
from distillaw.planning.voices import find_voices, start_law_of
from distillaw.runs.record import StudyRecord


def plan(student_params: Count | None = None, **asked: Any) -> Verdict:
    """Distil or pretrain one student, from which teacher, and how sure.

    Args:
        student_params: N_S, non-embedding parameters; a number or text such as `300M`. None leaves the size free.
        asked: the other fields of `planning.question.PlanQuestion`: one budget of `student_tokens`, `compute`,
            `device_hours` and `money`; `teachers`, `study`, `law`, `scenario`, ...

    Returns:
        Verdict; `str()` of it is the text that the command prints.

    Raises:
        ConfigError: a question that cannot be answered (says which value, which rule, what to change).
        VocabularyError: teachers of several tokenizers with losses per token.
        CacheError: the study folder cannot be read, or a run of the student asked about is damaged.
        TypeError: a field that a question does not have.

    Example:
        >>> verdict = plan("1B", student_tokens="20B", teachers=[Teacher(name="8B", params=8e9, tokens=2e11)])
        >>> verdict.verdict in ("distil", "pretrain", "too-close")
        True
    """
    question = PlanQuestion(student_params=student_params, **asked)
    record = question.record
    return answer(question, situation_of(question, record), record)


def _signature() -> inspect.Signature:
    """The fields of a question as parameters of `plan`, which is what notebooks complete."""
    kinds, types = {"student_params": inspect.Parameter.POSITIONAL_OR_KEYWORD}, get_type_hints(PlanQuestion)
    found = [
        p.replace(kind=kinds.get(p.name, p.kind), annotation=types[p.name])
        for p in inspect.signature(PlanQuestion).parameters.values()
    ]
    return inspect.Signature(found, return_annotation=Verdict)


plan.__signature__ = _signature()  # type: ignore[attr-defined]


def answer(question: PlanQuestion, situation: Situation, record: StudyRecord | None) -> Verdict:
    """The verdict on a question in numbers, with all its teachers; `record` is its study, read."""
    if record is not None and situation.student_params is not None:
        _refuse_damage(record, situation.student_params, situation.student_tokens)
    law = question.law
    laws = [law] if isinstance(law, str | Path | FitResult | PublishedLaw) else list(law or ())
    given = [(law, start_law_of(law)) for law in laws]
    asked = [law for law, of_starts in given if of_starts is None]
    for _, of_starts in given:
        situation = situation if of_starts is None else replace(situation, start_law=of_starts)
    voices = find_voices(record, asked, published_too=question.published, without=question.unlearnt)
    if situation.baselines and all(v.ensemble is None or v.kind == "fitted" for v in voices):
        raise ConfigError(say("baseline idle"))
    sources = Sources(
        record=record,
        voices=voices,
        level=question.level,
        seed=question.seed,
        asked=tuple(v.source for v in voices[: len(asked)]),
    )
    device, skill = device_of(question), told_skill(question.metric, question.score_at)
    verdict = replace(decide(situation, sources, with_flips=question.with_flips), device=device, skill=skill)
    warnings = [*verdict.warnings, *(verdict.points.warnings if verdict.points else ())]
    assumptions = [*verdict.assumptions]
    if record is not None:  # what of the study could not be read, and what could be read but not verified
        warnings = [*record.problems, *kept_laws(record).problems, *warnings]
        if record.unverified:
            assumptions.append(
                f"{record.unverified} of the study's runs were written without checksums (before there were any, or by "
                "hand): they are taken as they are, but for a loss that is not that of its held-out documents."
            )
    return replace(verdict, warnings=tuple(dict.fromkeys(warnings)), assumptions=tuple(assumptions))


def _refuse_damage(record: StudyRecord, params: float, tokens: float | None) -> None:
    """Refuse to answer without a run of the very design point that is asked about.

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


def decide(asked: Situation, sources: Sources, *, with_flips: bool = True) -> Verdict:
    """The verdict on a checked situation."""
    level = sources.level
    judged = judge(asked, sources, with_supposed=True)
    situation, evidence, headline = judged.situation, judged.evidence, judged.headline
    equal = _equal_compute(judged, sources)
    by_tokens, by_compute = law_crossovers(situation, sources.voices, witnesses(evidence), headline.best, level=level)
    runs = next((e for e in evidence if e.crossover is not None), None)
    if runs is None or runs.best.teacher != headline.best.teacher:  # a band belongs to one teacher
        headline = replace(headline, crossover=by_tokens)
    flips = []
    if with_flips and headline.is_decisive:
        trains = headline.best.kind == "train-teacher"
        flips = switching_values(asked, sources, judged.call.verdict, trains_teacher=trains)
    supposed = _supposed(judged, level)
    judged = replace(judged, headline=headline)
    start = better_start(headline, judged.call, level)
    words = wording.explain(judged, equal, flips=flips, sources=sources, supposed=supposed, start=start)
    lead = sources.lead(situation)
    scale = next((TextScale.of(e).ratio for e in evidence if e.source == lead.source), 1.0)
    is_law = headline.kind != "measured" and headline.is_informative
    is_by_ratio = any(e.status == BY_RATIO for e in evidence if e.source == lead.source)  # of measured teachers only
    return Verdict(
        verdict=judged.call.verdict,
        probability=judged.call.probability,
        margin=judged.call.margin,
        strategies=headline.ranked,
        gain=headline.gain(level),
        crossover=headline.crossover,
        crossover_compute=by_compute,
        flips=tuple(flips),
        inside_range=headline.inside_range,
        regret_if_wrong=regret(headline, judged.call, level),
        evidence=tuple(evidence),
        headline=headline,
        call=judged.call,
        equal_compute=equal,
        better_start=start,
        with_a_teacher=supposed,
        asked=asked,
        situation=situation,
        level=level,
        **{field.name: getattr(words, field.name) for field in fields(words)},
        sources=sources,
        teachers=teacher_range(situation, lead, headline.best, scale=scale) if is_law and not is_by_ratio else None,
    )


def _supposed(judged: Judged, level: float) -> Supposed | None:
    """What a teacher would be worth that is not at hand."""
    if judged.supposed is None or not judged.supposed.headline.is_decisive:
        return None
    headline = judged.supposed.headline
    return Supposed(row=headline.best, call=judged.supposed.call, gain=headline.gain(level))


def _equal_compute(judged: Judged, sources: Sources) -> EqualCompute | None:
    """The chosen distillation against pretraining on its whole bill; None where that was asked."""
    situation, best = judged.situation, judged.headline.best
    total = best.compute["total"]
    if judged.asked.compute is not None or total is None or best.teacher is None:
        return None
    if situation.compute is not None:
        assert judged.headline.pretrain is not None
        tokens = judged.headline.pretrain.student_tokens
        source = judged.headline if judged.headline.is_decisive else None
        return _at_equal_compute(situation.compute, tokens, source, sources.level)
    question = replace(
        situation,
        student_tokens=None,
        compute=total,
        student_params=best.student_params,
        teachers=situation.teachers if situation.start == "pruned" else (best.teacher,),
        may_train_teacher=False,
    )
    tokens = training_tokens(question, best.student_params)
    if not question.baselines:  # those tell the scale at the tokens asked about; else it is one of one text
        sources = replace(sources, scales={e.source: TextScale.of(e) for e in judged.evidence})
    evidence = consult(question, sources, options_of(question, sources, is_sketch=True))
    source = choose(evidence, level=sources.level) if witnesses(evidence) else None
    equal = _at_equal_compute(total, tokens, source, sources.level)
    if source is None or source.pretrain is None or source.pretrain.basis in ("law", "measured"):
        return equal
    return replace(equal, basis=f"{equal.basis}, {source.pretrain.basis}")


def _at_equal_compute(compute: float, tokens: float, source: Evidence | None, level: float) -> EqualCompute:
    """The comparison by one source, or by nobody."""
    return EqualCompute(
        compute=compute,
        pretrain_tokens=tokens,
        basis=say("unreached") if source is None else source.source,
        call=None if source is None else call(source),
        gain=None if source is None else source.gain(level),
    )
