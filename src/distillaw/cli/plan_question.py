"""From what was typed to a call of `distillaw.plan`: teachers read or measured, limits worked out."""

from dataclasses import replace
from typing import TYPE_CHECKING

from distillaw.cli.output import Output
from distillaw.cli.plan_options import (
    BudgetOptions,
    CandidateOptions,
    LawOptions,
    ScoutOptions,
    ServingOptions,
)
from distillaw.errors import ConfigError
from distillaw.quantities import format_count, parse_count

_DEVICE = "h100-sxm"

if TYPE_CHECKING:
    from distillaw.planning.budget import ServingLimit
    from distillaw.planning.decision import Verdict
    from distillaw.planning.situation import Teacher
    from distillaw.runs.record import StudyRecord


def ask(
    student: str | None, budget: BudgetOptions, serving: ServingOptions, candidates: CandidateOptions,
    scouting: ScoutOptions, laws: LawOptions, *, vocab: int | None, context: int | None,
    output: Output = Output(),
) -> "Verdict":  # fmt: skip
    """The verdict on what was typed.

    Raises:
        ConfigError: options that do not go together, or a question that cannot be planned.
        VocabularyError: teachers with several tokenizers.
    """
    from distillaw.accounting.hardware import hardware
    from distillaw.cli.plan_scout import check_scouting, scouted
    from distillaw.planning.api import plan
    from distillaw.planning.situation import SCENARIOS
    from distillaw.runs.record import read_study

    check_scouting(scouting)
    device = budget.device or _DEVICE
    hardware(device)  # a slip in a name is said before anything is read
    _refuse_idle(budget, serving, candidates, has_teachers=bool(scouting.scout or laws.study))
    record = read_study(laws.study) if laws.study is not None else None
    params: str | float | None = student
    tokens: str | float | None = budget.tokens
    free = serving.max_student or serving.serve_memory or serving.serve_latency
    is_open = (budget.tokens, budget.compute, budget.device_hours, budget.money) == (None,) * 4
    if record is not None and student is None and record.target and not free:
        params = record.target[0]
        tokens = record.target[1] if is_open else tokens
    if params is None and not free and not (budget.compute or budget.device_hours or budget.money):
        raise ConfigError(
            f"{_unread(record)}name the student: --student 300M with --tokens 20B or --compute 1e21 (or --study with a "
            "target); without --student the best size for --compute is searched, up to --max-student"
        )
    listed = _teachers(candidates)
    if candidates.only_existing and not listed and not scouting.scout and record is None:
        raise ConfigError(
            "--only-existing leaves no teacher: none was named. Give --teacher NAME, --teacher-params with "
            "--teacher-tokens or --teacher-loss, or --study"
        )
    who_pays = candidates.scenario or "inference"
    scenario = SCENARIOS[who_pays]
    shares = None
    if candidates.delta_lgt is not None or candidates.delta_pre is not None:
        shares = (scenario.delta_lgt if candidates.delta_lgt is None else candidates.delta_lgt,
                  scenario.delta_pre if candidates.delta_pre is None else candidates.delta_pre)  # fmt: skip
    limit = _limit(serving, vocab, context)
    if scouting.scout:
        _check_question(params, tokens, budget, limit)
    measured = scouted(scouting, record, output)
    if vocab is None and record is None:
        vocab = measured.vocab
    verdict = plan(
        params, student_tokens=tokens, compute=budget.compute, device_hours=budget.device_hours, money=budget.money,
        device=device, mfu=budget.mfu, price_per_hour=budget.price, unique_tokens=budget.unique_tokens,
        inference_tokens=budget.inference_tokens, max_params=limit, study=record, shares=shares,
        teachers=(*listed, *measured.teachers), law=laws.law, published=not laws.no_published,
        scenario=who_pays,
        logits=candidates.logits, students_served=candidates.students_served, level=laws.level, vocab=vocab,
        may_train_teacher=not candidates.only_existing, context=context,
    )  # fmt: skip
    return replace(verdict, warnings=(*measured.warnings, *verdict.warnings))


def _unread(record: "StudyRecord | None") -> str:
    """Why the study does not name its student, where something of it could not be read."""
    return "" if record is None or record.info or not record.problems else f"{record.problems[0]}. Else "


def _refuse_idle(
    budget: BudgetOptions, serving: ServingOptions, candidates: CandidateOptions, *, has_teachers: bool
) -> None:
    """Options that cannot act beside the others; lest someone believes that they did something.

    Args:
        budget: what may be spent.
        serving: how large a student can be served.
        candidates: the teachers, and who pays.
        has_teachers: whether teachers come from elsewhere too: a study, or measured first.

    Raises:
        ConfigError: names the option, what it needs, and what to do.
    """
    is_bought = budget.device_hours is not None or budget.money is not None
    deltas = (candidates.delta_lgt, candidates.delta_pre)
    idle = (
        (budget.device is not None and not is_bought, f"--device {budget.device}", _BUYS),
        (budget.mfu is not None and not is_bought, f"--mfu {budget.mfu}", _BUYS),
        (budget.price is not None and budget.money is None, f"--price {budget.price}", "it prices --money 2000"),
        (serving.serve_bandwidth is not None and serving.serve_latency is None,
         f"--serve-bandwidth {serving.serve_bandwidth}", "it belongs to --serve-latency 0.02"),
        (serving.weight_bytes is not None and serving.serve_memory is None and serving.serve_latency is None,
         f"--weight-bytes {serving.weight_bytes}",
         "it belongs to --serve-memory 8e9, or --serve-latency with --serve-bandwidth"),
        (candidates.scenario is not None and None not in deltas, f"--scenario {candidates.scenario}",
         "--delta-lgt and --delta-pre say all that it would"),
        (candidates.train_teacher and not (candidates.teacher_params and candidates.teacher_tokens), "--train-teacher",
         "it is about the teachers of --teacher-params and --teacher-tokens: give both"),
        (candidates.students_served > 1 and not _is_shared(budget, candidates, has_teachers),
         f"--students-served {candidates.students_served}",
         "they share the bill for a teacher's training, or stored logits, and here is neither: --logits stored, "
         "--scenario pretraining or --train-teacher"),
    )  # fmt: skip
    for is_idle, option, why in idle:
        if is_idle:
            raise ConfigError(f"{option} does nothing here: {why}; leave it out, or give what it needs")


def _is_shared(budget: BudgetOptions, candidates: CandidateOptions, has_teachers: bool) -> bool:
    """Whether any bill of the question is one for all students: a teacher's training, or stored logits."""
    from distillaw.planning.situation import SCENARIOS

    pre = candidates.delta_pre
    pays_training = SCENARIOS[candidates.scenario or "inference"].delta_pre if pre is None else pre
    is_named = has_teachers or candidates.teacher or candidates.teacher_params or candidates.teacher_loss
    may_train = not candidates.only_existing and not (is_named and budget.tokens is not None)
    return bool(candidates.logits == "stored" or pays_training or candidates.train_teacher or may_train)


_BUYS = "it turns --device-hours 500 or --money 2000 into FLOP, and --tokens and --compute need none of that"


def _check_question(
    params: str | float | None,
    tokens: str | float | None,
    budget: BudgetOptions,
    limit: "ServingLimit | None",
) -> None:
    """Refuse a student or a budget that cannot be planned before minutes are spent on measuring teachers."""
    from distillaw.planning.api import compute_of
    from distillaw.planning.situation import Situation

    flop, _ = compute_of(
        budget.compute, budget.device_hours, budget.money, budget.device or _DEVICE, budget.mfu, budget.price
    )
    Situation(
        student_params=None if params is None else parse_count(params, name="student"), compute=flop,
        student_tokens=None if tokens is None else parse_count(tokens, name="tokens"),
        max_params=None if limit is None else limit.params, vocab=1, context=1,  # not known yet: refuse too little
    )  # fmt: skip


def _limit(serving: ServingOptions, vocab: int | None, context: int | None) -> "ServingLimit | None":
    """The tightest limit on the student's size."""
    from distillaw.planning.budget import ServingLimit, largest_served

    limits = []
    if serving.max_student is not None:
        limits.append(
            ServingLimit(params=parse_count(serving.max_student, name="--max-student"), text="as given")
        )
    if serving.serve_memory is not None or serving.serve_latency is not None:
        limits.append(largest_served(
            memory_bytes=_read(serving.serve_memory, "--serve-memory"), latency=serving.serve_latency,
            bandwidth=_read(serving.serve_bandwidth, "--serve-bandwidth"),
            weight_bytes=2.0 if serving.weight_bytes is None else serving.weight_bytes,
            context=context or 4096, vocab=vocab or 32768,
        ))  # fmt: skip
    return min(limits, key=lambda limit: limit.params, default=None)


def _read(text: str | None, name: str) -> float | None:
    return None if text is None else parse_count(text, name=name)


def _teachers(asked: CandidateOptions) -> "tuple[str | Teacher, ...]":
    """Named models and teachers from lists; losses alone belong to the named ones."""
    from distillaw.planning.api import named_teacher

    names, losses = asked.teacher or (), asked.teacher_loss or ()
    if not (names and losses) or asked.teacher_params or asked.teacher_tokens:
        return (*names, *_listed(asked))
    if len(names) != len(losses):
        raise ConfigError(
            f"--teacher names {len(names)} and --teacher-loss gives {len(losses)}: one loss for each named teacher, in "
            "their order"
        )
    return tuple(named_teacher(name, loss) for name, loss in zip(names, losses, strict=True))


def _listed(asked: CandidateOptions) -> "tuple[Teacher, ...]":
    """Teachers from parallel lists; lists that are given must be of one length."""
    from distillaw.planning.situation import Teacher

    losses, params, tokens = asked.teacher_loss, asked.teacher_params, asked.teacher_tokens
    given = {"--teacher-loss": losses, "--teacher-params": params, "--teacher-tokens": tokens}
    lengths = {len(values) for values in given.values() if values}
    if not lengths:
        return ()
    if len(lengths) > 1:
        counts = ", ".join(f"{name}: {len(values)}" for name, values in given.items() if values)
        raise ConfigError(f"one value per teacher is needed in each option; got {counts}")
    found = []
    for j in range(lengths.pop()):
        size = parse_count(params[j], name="--teacher-params") if params else None
        loss = losses[j] if losses else None
        if size is None and loss is None:
            raise ConfigError(
                "--teacher-tokens: they say nothing of a teacher alone; add --teacher-params or --teacher-loss"
            )
        name = f"{format_count(size)} teacher" if size else f"teacher of loss {loss:g}"
        found.append(
            Teacher(name=name, params=size, loss=loss, exists=not asked.train_teacher,
                    tokens=parse_count(tokens[j], name="--teacher-tokens") if tokens else None)
        )  # fmt: skip
    return tuple(found)
