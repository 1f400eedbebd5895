"""`distillaw.plan`: one student, one question, every source of evidence side by side.

    distillaw plan --student 0.1M --tokens 0.5M --study out/quickstart

Order of trust: paired runs at the target, then laws fitted on the user's own runs and only inside their range,
then published laws. Nothing here trains or fits.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError
from distillaw.planning.decision import EqualCompute, Verdict, call, choose, regret
from distillaw.planning.evidence import Evidence, Interval
from distillaw.planning.record import StudyRecord, read_study
from distillaw.planning.situation import Situation, Teacher
from distillaw.quantities import parse_count


def plan(
    student_params: float | str,
    *,
    student_tokens: float | str | None = None,
    compute: float | str | None = None,
    study: str | Path | StudyRecord | None = None,
    teachers: Sequence[Teacher] = (),
    law: str | None = None,
    scenario: str = "inference",
    students_served: int = 1,
    vocab: int | None = None,
    context: int | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> Verdict:
    """Distil or pretrain one student, from which teacher, and how sure.

    Args:
        student_params: N_S, non-embedding parameters; a number or text such as `300M`.
        student_tokens: D_S, the same tokens for every strategy. Either this or `compute`.
        compute: FLOP, the same bill for every strategy (teacher logits counted as the scenario says).
        study: a study folder (or one already read); its runs and fitted laws are the first evidence.
        teachers: candidates. Empty takes the study's own, or a ladder of compute-optimal ones that would have
            to be trained.
        law: a published law to decide by; by default the three surrogates together stand for them all.
        scenario: who pays for the teacher: best-case, inference, pretraining or
            pretraining-inference.
        students_served: students that share the bill for training a teacher.
        vocab: vocabulary, for counting FLOP; by default the study's, else 32768.
        context: training context, for counting FLOP; by default the study's, else 4096.
        level: of all intervals.
        seed: of the draws.

    Returns:
        Verdict; `str()` of it is the text that the command prints.

    Raises:
        ConfigError: a question that cannot be answered (says which value, which rule, what to change).
        CacheError: the study folder cannot be read.

    Example:
        >>> verdict = plan("1B", student_tokens="20B", teachers=[Teacher(name="8B", params=8e9, tokens=2e11)])
        >>> verdict.verdict in ("distil", "pretrain", "too-close")
        True
    """
    if not 0.5 <= level < 1:
        raise ConfigError(f"level = {level}: intervals cover between 0.5 and 1, e.g. 0.9")
    record = read_study(Path(study)) if isinstance(study, str | Path) else study
    params = parse_count(student_params, name="student")
    candidates = tuple(teachers) or _candidates(record, params)
    exact, label = _exact_size(record, params)
    situation = Situation(
        student_params=exact, label=label,
        student_tokens=None if student_tokens is None else parse_count(student_tokens, name="tokens"),
        compute=None if compute is None else parse_count(compute, name="compute"),
        teachers=candidates, scenario=scenario, students_served=students_served, **_sizes(record, vocab, context),
    )  # fmt: skip
    return decide(situation, record, law=law, level=level, seed=seed)


def decide(
    situation: Situation, record: StudyRecord | None, *, law: str | None, level: float, seed: int
) -> Verdict:
    """The verdict on a checked situation."""
    from distillaw.planning import wording

    _check_teachers(situation, record)
    evidence = consult(situation, record, law=law, level=level, seed=seed)
    headline = choose(evidence)
    answer = call(headline)
    equal = _equal_compute(situation, record, headline, law=law, level=level, seed=seed)
    assert headline.pretrain is not None
    rows = sorted([headline.pretrain, *headline.distil], key=_expected_loss(headline))
    lost = regret(headline, answer.verdict, level)
    words = wording.explain(situation, evidence, headline, answer, equal, record=record, level=level, law=law)
    return Verdict(
        verdict=answer.verdict, probability=answer.probability, margin=answer.margin, strategies=tuple(rows),
        gain=Interval.of(headline.gain_draws, level), crossover=headline.crossover, flips_if=words.flips_if,
        assumptions=words.assumptions, inside_range=headline.inside_range, warnings=words.warnings,
        regret_if_wrong=lost, reasons=words.reasons, evidence=tuple(evidence), headline=headline, call=answer,
        equal_compute=equal, situation=situation, level=level, sentence=words.sentence,
        next_runs=words.next_runs, next_command=words.next_command,
    )  # fmt: skip


def _check_teachers(situation: Situation, record: StudyRecord | None) -> None:
    """Refuse teacher losses that no model on this text can have; a study's own text may be easier than any law's.

    Raises:
        ConfigError: a loss above that of guessing, or below the irreducible loss of the laws that must judge it.
    """
    from distillaw.laws.published import published

    floor = published("busbridge2025").supervised.E  # type: ignore[union-attr]
    for teacher in situation.teachers:
        if teacher.loss is not None and teacher.loss > math.log(situation.vocab):
            raise ConfigError(
                f"teacher loss {teacher.loss:g} nats/token is worse than guessing among {situation.vocab} tokens "
                f"({math.log(situation.vocab):.3f}); give the loss in nats/token, or --vocab"
            )
        if record is None and teacher.loss is not None and teacher.loss <= floor:
            raise ConfigError(
                f"teacher loss {teacher.loss:g} is below the irreducible loss {floor:g} nats/token of every law here. "
                "Is it in bits per byte, or on other text? Give nats/token, or plan on your own study (--study)"
            )


def consult(
    situation: Situation, record: StudyRecord | None, *, law: str | None, level: float, seed: int
) -> list[Evidence]:
    """Every source in order of trust, silent ones included."""
    from distillaw.planning.published import published_evidence

    rng = np.random.default_rng(seed)
    found: list[Evidence] = []
    if record is not None:
        from distillaw.planning.fitted import fitted_evidence
        from distillaw.planning.paired import paired_evidence

        found.append(paired_evidence(situation, record, situation.teachers, level=level, rng=rng))
        found.append(fitted_evidence(situation, record, situation.teachers, level=level))
    published = published_evidence(situation, situation.teachers, level=level, rng=rng, law=law)
    if not any(e.speaks for e in [*found, *published]):
        raise ConfigError(
            f"compute {situation.compute:g} FLOP pays for no teacher considered: {published[0].note}. Raise it, name "
            "a teacher that exists, or choose --scenario best-case"
        )
    return [*published[:1], *found, *published[1:]] if law is not None else [*found, *published]


def _exact_size(record: StudyRecord | None, params: float) -> tuple[float, str]:
    """The exact count of the study's student that is meant (sizes come in steps), and what people call it."""
    from distillaw.planning.record import is_near

    near = [run for run in record.students if is_near(run.params, params)] if record is not None else []
    if not near:
        return params, ""
    run = min(near, key=lambda run: abs(math.log(run.params / params)))
    return float(run.params), run.label


def _candidates(record: StudyRecord | None, params: float) -> tuple[Teacher, ...]:
    if record is not None:
        from distillaw.planning.paired import study_teachers

        if found := study_teachers(record, params):
            return found
    from distillaw.planning.published import teacher_ladder

    return teacher_ladder(params)


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


def _equal_compute(
    situation: Situation,
    record: StudyRecord | None,
    headline: Evidence,
    *,
    law: str | None,
    level: float,
    seed: int,
) -> EqualCompute | None:
    """The chosen distillation against pretraining on its whole bill; None if that is the question already."""
    best = headline.best
    total = best.compute["total"]
    if situation.compute is not None or total is None or best.teacher is None:
        return None
    tokens = total / situation.training_flop_per_token
    question = replace(situation, student_tokens=None, compute=total, teachers=(best.teacher,))
    decisive = [
        e for e in consult(question, record, law=law, level=level, seed=seed) if e.speaks and e.is_decisive
    ]
    if not decisive:
        basis = "no source reaches that far: train the student without a teacher on these tokens"
        return EqualCompute(compute=total, pretrain_tokens=tokens, basis=basis, call=None, gain=None)
    source = decisive[0]
    assert source.pretrain is not None
    how = "" if source.pretrain.basis in ("law", "measured") else f", {source.pretrain.basis}"
    return EqualCompute(
        compute=total, pretrain_tokens=tokens, basis=source.source + how, call=call(source),
        gain=Interval.of(source.gain_draws, level),
    )  # fmt: skip
