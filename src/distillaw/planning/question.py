"""What is asked, once for all who ask: the command line, a question file, Python, the planner page.

    distillaw plan --student 300M --tokens 20B --teacher pythia-1.4b
    [plan]  student = "300M"   tokens = "20B"   teacher = ["pythia-1.4b"]
    dl.plan("300M", student_tokens="20B", teachers=["pythia-1.4b"])

The fields of `PlanQuestion` are the arguments of `distillaw.plan`; the command makes its options of them, which are the
keys of a file and the inputs of the page. `situation_of` reads the numbers, works out budgets and limits, refuses what
does not go together, and gives the question in numbers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from distillaw.accounting.families import model
from distillaw.accounting.family import PAPER_CONTEXT, PAPER_VOCAB
from distillaw.accounting.hardware import hardware
from distillaw.accounting.scenarios import CostShares
from distillaw.errors import ConfigError
from distillaw.planning.baseline import Given, read_baselines
from distillaw.planning.bills import Device, ServingLimit, largest_served, shares_of
from distillaw.planning.judging import of_study
from distillaw.planning.learnt import TeachingRecipe
from distillaw.planning.paired import study_prices
from distillaw.planning.phrases import say
from distillaw.planning.situation import FOREIGN_TEXT_ERROR, SCENARIOS, Situation, Teacher
from distillaw.planning.voices import LawLike
from distillaw.quantities import parse_count
from distillaw.runs.record import StudyRecord, read_study

Count: TypeAlias = str | float
"""A number, or text such as `300M` or `1e21`."""
_DEVICE = "h100-sxm"


@dataclass(frozen=True, slots=True)
class OptionHelp:
    """What people read of a field of `PlanQuestion`, and its option where that is not the field's name with dashes."""

    help: str
    name: str = ""
    alias: str = ""
    """An older name of the option."""
    negates: str = ""
    """Name of a flag that says the opposite of the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanQuestion:
    """Distil or pretrain this student: what it may cost, from which teachers, and who is asked.

    One of `student_tokens`, `compute`, `device_hours` and `money` is the budget. Fields after `context` are for Python
    alone; `law`, `study` and `teachers` take objects there as well as names.
    """

    student_params: Annotated[
        Count | None,
        OptionHelp(
            "non-embedding parameters, e.g. 300M; with --study, by default the study's target. Left out, the best "
            "size for the budget is searched.",
            name="student",
        ),
    ] = None
    student_tokens: Annotated[
        Count | None,
        OptionHelp("Tokens the student is trained on, e.g. 20B; the same for every strategy.", name="tokens"),
    ] = None
    compute: Annotated[Count | None, OptionHelp("FLOP, e.g. 1e21; the same bill for every strategy.")] = None
    device_hours: Annotated[float | None, OptionHelp("Hours of one --device.")] = None
    money: Annotated[float | None, OptionHelp("US dollars at --price, or the price of --device.", alias="dollars")] = (
        None
    )
    device: Annotated[
        str | None,
        OptionHelp(
            f"Hardware preset in whose hours strategies are priced, and budgets of hours and money counted; {_DEVICE} "
            "by default.",
            alias="hardware",
        ),
    ] = None
    mfu: Annotated[float | None, OptionHelp("Utilisation assumed; the preset's by default.")] = None
    price_per_hour: Annotated[
        float | None, OptionHelp("US dollars per device-hour; the preset's by default.", name="price")
    ] = None
    unique_tokens: Annotated[
        Count | None, OptionHelp("Distinct training tokens at hand; more are repeats and count for less.")
    ] = None
    inference_tokens: Annotated[
        Count | None, OptionHelp("Tokens the student will serve in its life; their FLOP are in every bill.")
    ] = None
    max_params: Annotated[
        Count | None,
        OptionHelp(
            "Largest student, non-embedding parameters; without --student the best size up to this is searched.",
            name="max-student",
        ),
    ] = None
    serve_memory: Annotated[
        Count | None, OptionHelp("Bytes for weights and the key-value cache of one sequence, e.g. 8e9.")
    ] = None
    serve_latency: Annotated[float | None, OptionHelp("Seconds per generated token; needs --serve-bandwidth.")] = None
    serve_bandwidth: Annotated[Count | None, OptionHelp("Bytes per second that the serving device reads.")] = None
    weight_bytes: Annotated[
        float | None, OptionHelp("Bytes per weight when served: 2 for 16 bits (the default), 0.5 for 4.")
    ] = None
    teachers: Annotated[
        Sequence[str | Teacher] | None,
        OptionHelp(
            "Names of real models (`distillaw teachers` lists them), e.g. llama-3.1-8b; their losses are estimated. "
            "self is the student itself, trained before on as many tokens.",
            name="teacher",
        ),
    ] = None
    teacher_loss: Annotated[
        Sequence[float] | None,
        OptionHelp(
            "Loss of each teacher in nats/token on your text: of those of --teacher, or of those of --teacher-params."
        ),
    ] = None
    teacher_params: Annotated[
        Sequence[Count] | None, OptionHelp("Size of each teacher (non-embedding), needed to price its logits.")
    ] = None
    teacher_tokens: Annotated[
        Sequence[Count] | None, OptionHelp("Tokens each teacher was (or would be) trained on.")
    ] = None
    ensemble: Annotated[
        int | None,
        OptionHelp("Models of --teacher-params whose mean each teacher is; --teacher-loss is that of the mean."),
    ] = None
    student_loss: Annotated[
        Sequence[Given] | None,
        OptionHelp(
            "Losses of your own students trained without a teacher on this text: 1.95@2B is 1.95 nats/token after 2B "
            "tokens, 1.95@300M@2B of another size; or a table of tokens, loss and perhaps params. What teachers are "
            "worth is then judged at your own ratio of losses."
        ),
    ] = None
    start: Annotated[
        Literal["random", "pruned", "pretrained"],
        OptionHelp(
            "What the student begins from: random weights, a cut of a teacher at hand (pruned; by the law of starts), "
            "or a model trained before (pretrained; no law says what that is worth)."
        ),
    ] = "random"
    distill_weight: Annotated[
        float | Literal["tuned"] | None,
        OptionHelp(
            "Lambda, weight of the teacher's term, 0 to 1; 1 is distillation alone; tuned: the best of several. Left "
            "out, what practice does: 1, or a weight well chosen; beside your own runs, theirs."
        ),
    ] = None
    schedule: Annotated[
        Literal["constant", "first", "annealed"] | None,
        OptionHelp(
            "When the teacher's term acts: all along (constant, the default), first and then the text alone, or with a "
            "weight that falls to nothing (annealed)."
        ),
    ] = None
    policy: Annotated[
        Literal["off", "on", "sequence"] | None,
        OptionHelp(
            "Whose text the student learns on: the data's (off, the default), its own samples (on), or samples of the "
            "teacher (sequence)."
        ),
    ] = None
    temperature: Annotated[
        float | None, OptionHelp("Temperature of teacher and student in the divergence; 1 by default.")
    ] = None
    top_k: Annotated[
        int | None, OptionHelp("Most likely ids that a target keeps; the whole vocabulary by default.")
    ] = None
    top_p: Annotated[
        float | None, OptionHelp("Mass of the most likely ids that a target keeps, 0 to 1; all by default.")
    ] = None
    divergence: Annotated[
        Literal["forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-reverse-kl"] | None,
        OptionHelp("What pulls the student to the teacher; forward-kl by default."),
    ] = None
    train_teacher: Annotated[
        bool, OptionHelp("The teachers of --teacher-params do not exist yet; their training is in the bill.")
    ] = False
    may_train_teacher: Annotated[
        bool, OptionHelp("Do not consider training a teacher of the best size.", negates="only-existing")
    ] = True
    scenario: Annotated[
        Literal["best-case", "inference", "pretraining", "pretraining-inference"] | None,
        OptionHelp("Which of the teacher's costs this student pays; inference by default."),
    ] = None
    delta_lgt: Annotated[
        float | None, OptionHelp("Share of the teacher's forward passes paid here, 0 to 1, instead of the scenario's.")
    ] = None
    delta_pre: Annotated[
        float | None, OptionHelp("Share of the teacher's pretraining paid here, 0 to 1, instead of the scenario's.")
    ] = None
    logits: Annotated[
        Literal["online", "stored"],
        OptionHelp("Computed beside each student, or once and stored for all that are served."),
    ] = "online"
    students_served: Annotated[
        int, OptionHelp("Students that share the bill for training a teacher, and for stored logits.")
    ] = 1
    study: Annotated[
        Path | str | StudyRecord | None,
        OptionHelp("Folder of a study; its paired runs and fitted laws come before any published law."),
    ] = None
    law: Annotated[
        LawLike | Sequence[LawLike] | None,
        OptionHelp("Laws to consult first: published names, or files of `distillaw fit --out`."),
    ] = None
    published: Annotated[
        bool | Sequence[str], OptionHelp("Ask no published law that --law does not name.", negates="no-published")
    ] = True
    metric: Annotated[
        str | None,
        OptionHelp(
            "Say losses as scores of a task too, by a law from public runs: arc_easy, arc_challenge, hellaswag, piqa, "
            "winogrande, openbookqa, six_tasks (their mean), mmlu. The verdict stays about loss."
        ),
    ] = None
    score_at: Annotated[
        Sequence[str] | None,
        OptionHelp(
            "LOSS=SCORE of --metric that a model of yours has, e.g. the teacher's: 3.1=0.62, nats/token on this text."
        ),
    ] = None
    level: Annotated[float, OptionHelp("Coverage of the intervals.")] = 0.9
    vocab: Annotated[int | None, OptionHelp("vocabulary, for counting FLOP.")] = None
    context: Annotated[int | None, OptionHelp("training context in tokens, for counting FLOP.")] = None
    seed: int = 0
    """Of the draws behind what paired runs say; laws have fixed ones."""
    with_flips: bool = True
    """Whether to search what would change the answer."""
    unlearnt: str = ""
    """Source of outcomes that published laws' doubt is not to have learnt from: how its rows are asked."""

    def __post_init__(self) -> None:
        """One value where several may be given is a list of one: text is not its letters."""
        for name in ("teachers", "teacher_loss", "teacher_params", "teacher_tokens", "student_loss", "score_at"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, str) or not isinstance(value, Iterable)):
                object.__setattr__(self, name, (value,))

    @property
    def record(self) -> StudyRecord | None:
        """The study, read where it was named.

        Raises:
            CacheError: its folder cannot be read.
        """
        return read_study(Path(self.study)) if isinstance(self.study, str | Path) else self.study


def situation_of(question: PlanQuestion, record: StudyRecord | None = None, *, more_to_come: bool = False) -> Situation:
    """The question in numbers.

    Args:
        question: as it was asked.
        record: its study; whose target is the student where none is named.
        more_to_come: whether teachers are measured yet and put beside those named. A vocabulary that only they can tell
            is then taken to be the smallest there is, so that no budget is refused that may suffice.

    Raises:
        ConfigError: fields that do not go together or do nothing, or a question that cannot be planned.
        VocabularyError: teachers with several tokenizers.
    """
    q = question
    device = device_of(q)  # a slip in a name is said before anything else
    if not 0.5 <= q.level < 1:
        raise ConfigError(say("level", level=q.level))
    _refuse_idle(q)
    params, tokens = _student(q, record)
    teachers = _teachers(q)
    if not (q.may_train_teacher or teachers or more_to_come or record is not None):
        raise ConfigError(say("no teacher left"))
    if q.compute is not None and not q.device_hours is q.money is None:
        raise ConfigError("give one budget: compute, device-hours or money")
    compute, how = _read(q.compute, "compute"), ""
    if q.device_hours is not None or q.money is not None:
        assert device is not None  # hours and money are of one
        compute, how = device.buys(device_hours=q.device_hours, money=q.money)
    scenario = q.scenario or "inference"
    situation = Situation(
        student_params=params,
        student_tokens=tokens,
        compute=compute,
        budget_text=how,
        teachers=teachers,
        start=q.start,
        baselines=read_baselines(q.student_loss or (), params=params, tokens=tokens),
        may_train_teacher=q.may_train_teacher,
        scenario=scenario,
        shares=_shares(q, scenario),
        students_served=q.students_served,
        logits=q.logits,
        recipe=_recipe(q),
        unique_tokens=_read(q.unique_tokens, "unique-tokens"),
        inference_tokens=_read(q.inference_tokens, "inference-tokens") or 0.0,
        **_sizes(q, record, {"vocab": 1, "context": 1} if more_to_come else {}),
    )
    if situation.recipe.top_k is not None and situation.recipe.top_k >= situation.vocab:
        raise ConfigError(say("recipe whole", count=situation.recipe.top_k, vocab=situation.vocab))
    if q.start == "pruned":  # of a teacher that is larger than the student
        if params is None:
            raise ConfigError(say("start needs size"))
        largest = max((t.params or math.inf for t in teachers), default=math.inf)
        if largest <= params:
            raise ConfigError(say("start needs larger", largest=largest, params=params))
    _refuse_unshared(of_study(situation, record), more_to_come=more_to_come)
    return situation


def with_measured(
    situation: Situation,
    question: PlanQuestion,
    record: StudyRecord | None,
    *,
    teachers: Sequence[Teacher],
    vocab: int | None,
) -> Situation:
    """The question with the teachers that had to be measured, and the vocabulary of their tokenizer."""
    sizes = _sizes(question, record, {} if vocab is None else {"vocab": vocab})
    return replace(situation, teachers=(*situation.teachers, *teachers), **sizes)


def _recipe(q: PlanQuestion) -> TeachingRecipe:
    given = {name: getattr(q, name) for name in ("schedule", "policy", "temperature", "top_k", "top_p", "divergence")}
    given["weight"] = None if q.distill_weight == "tuned" else q.distill_weight
    known = {name: value for name, value in given.items() if value is not None}
    return TeachingRecipe(is_said=q.distill_weight is not None, is_tuned=q.distill_weight == "tuned", **known)


def _read(value: Count | None, name: str) -> float | None:
    return None if value is None else parse_count(value, name=name)


def _student(q: PlanQuestion, record: StudyRecord | None) -> tuple[float | None, float | None]:
    """Size and tokens: as asked, else the target of the study."""
    params, tokens = _read(q.student_params, "student"), _read(q.student_tokens, "tokens")
    is_limited = not (q.max_params is None and q.serve_memory is None and q.serve_latency is None)
    buys = (q.compute, q.device_hours, q.money)
    if params is not None or is_limited:
        return params, tokens
    if record is not None and record.target:
        params, target = record.target
        return params, target if tokens is None and buys == (None,) * 3 else tokens
    if buys == (None,) * 3:
        unread = ""
        if record is not None and not record.info and record.problems:
            unread = f"{record.problems[0]}. Else "
        raise ConfigError(
            f"{unread}name the student: --student 300M with --tokens 20B or --compute 1e21 (or --study with a "
            "target); without --student the best size for --compute is searched, up to --max-student"
        )
    return params, tokens


def device_of(question: PlanQuestion) -> Device | None:
    """What strategies are priced on; None for runs of a study, made on a machine of its own, where none is named.

    Raises:
        ConfigError: an unknown device, a utilisation or a price that is none.
    """
    q = question
    if q.study is not None and (q.device, q.mfu, q.price_per_hour, q.device_hours, q.money) == (None,) * 5:
        return None
    return Device(preset=hardware(q.device or _DEVICE), mfu=q.mfu, price_per_hour=q.price_per_hour)


def _limit(q: PlanQuestion, *, vocab: int, context: int) -> ServingLimit | None:
    """The tightest limit on the student's size."""
    limits = []
    if q.max_params is not None:
        limits.append(ServingLimit(params=parse_count(q.max_params, name="max-student"), text=say("as given")))
    if q.serve_memory is not None or q.serve_latency is not None:
        served = largest_served(
            memory_bytes=_read(q.serve_memory, "serve-memory"),
            latency=q.serve_latency,
            bandwidth=_read(q.serve_bandwidth, "serve-bandwidth"),
            weight_bytes=2.0 if q.weight_bytes is None else q.weight_bytes,
            context=context,
            vocab=vocab,
        )
        limits.append(served)
    return min(limits, key=lambda limit: limit.params, default=None)


def _shares(q: PlanQuestion, scenario: str) -> CostShares | None:
    """Shares of the teacher's costs that were given, the other one by the scenario; None where none was."""
    if q.delta_lgt is None and q.delta_pre is None:
        return None
    usual = SCENARIOS.get(scenario)
    if usual is None:
        return None  # the situation refuses it, by its name
    return CostShares(
        usual.delta_lgt if q.delta_lgt is None else q.delta_lgt, usual.delta_pre if q.delta_pre is None else q.delta_pre
    )


def _sizes(q: PlanQuestion, record: StudyRecord | None, of_teachers: Mapping[str, int]) -> dict[str, Any]:
    """Vocabulary, context, known prices and what can be served with them.

    What was asked, else the study's, else what measured teachers tell, else the papers'.
    """
    known: dict[str, Any] = {"vocab": PAPER_VOCAB, "context": PAPER_CONTEXT}
    if record is None:
        known |= {**of_teachers, **_named_vocabulary(q)}
    if record is not None and record.runs:
        row = record.runs[0]
        for name, key in (("vocab", "vocab_size"), ("context", "context")):
            if (value := row.number(key)) == value:
                known[name] = int(value)
        if q.vocab is None and q.context is None:
            known["prices"] = study_prices(record)
    asked = {"vocab": q.vocab, "context": q.context}
    known |= {name: value for name, value in asked.items() if value is not None}
    limit = _limit(q, vocab=known["vocab"], context=known["context"])
    return known if limit is None else known | {"max_params": limit.params, "limit_text": limit.text}


def _named_vocabulary(q: PlanQuestion) -> dict[str, int]:
    """The vocabulary that a student needs to learn from the named teachers, padding included.

    Raises:
        ConfigError: another one was asked for.
    """
    named = [model(name) for name in q.teachers or () if isinstance(name, str) and name != "self"]
    for each in named:
        if q.vocab is not None and not each.tokenizer_size <= q.vocab <= each.vocab:
            raise ConfigError(say("other vocab", vocab=q.vocab, teacher=each.name, own=each.vocab))
    return {"vocab": max(each.vocab for each in named)} if named else {}


def named_teacher(name: str, loss: float | None = None) -> Teacher:
    """A real model as a teacher.

    Args:
        name: as `distillaw teachers` lists it.
        loss: on the user's text, nats/token; None: laws estimate it.

    Raises:
        ConfigError: an unknown name, or no loss for a model whose training tokens are not published.
    """
    found = model(name)
    if found.tokens is None and loss is None:
        raise ConfigError(
            f"{found.name}: its training tokens are not published, so no law can estimate its loss; measure it on your "
            "text (distillaw scout) and give --teacher-loss"
        )
    return Teacher(
        name=found.name,
        params=float(found.params),
        tokens=found.tokens,
        tokenizer=found.tokenizer,
        loss=loss,
        estimate_error=FOREIGN_TEXT_ERROR * (2 if found.distilled else 1),
    )


def _teachers(q: PlanQuestion) -> tuple[Teacher, ...]:
    """Teachers by name or as objects, and those of parallel lists; losses alone belong to the named ones."""
    named, losses = [_self(q) if t == "self" else t for t in q.teachers or ()], q.teacher_loss or ()
    if not (named and losses) or q.teacher_params or q.teacher_tokens:
        return (*(named_teacher(t) if isinstance(t, str) else t for t in named), *_listed(q))
    if len(named) != len(losses):
        raise ConfigError(
            f"--teacher names {len(named)} and --teacher-loss gives {len(losses)}: one loss for each named teacher, in "
            "their order"
        )
    if not all(isinstance(t, str) for t in named):
        raise ConfigError("teacher_loss is for teachers by name; a Teacher has a loss of its own")
    return tuple(named_teacher(str(name), loss) for name, loss in zip(named, losses, strict=True))


def _self(q: PlanQuestion) -> Teacher:
    """The student itself, trained before: born again."""
    params, tokens = _read(q.student_params, "student"), _read(q.student_tokens, "tokens")
    if params is None or tokens is None:
        raise ConfigError(say("self needs"))
    return Teacher(name=say("the student itself"), params=params, tokens=tokens)


def _listed(q: PlanQuestion) -> list[Teacher]:
    """Teachers from parallel lists; lists that are given must be of one length."""
    losses, params, tokens = q.teacher_loss, q.teacher_params, q.teacher_tokens
    given = {"--teacher-loss": losses, "--teacher-params": params, "--teacher-tokens": tokens}
    lengths = {len(values) for values in given.values() if values}
    if len(lengths) > 1:
        counts = ", ".join(f"{name}: {len(values)}" for name, values in given.items() if values)
        raise ConfigError(f"one value per teacher is needed in each option; got {counts}")
    found = []
    for j in range(max(lengths, default=0)):
        size = parse_count(params[j], name="--teacher-params") if params else None
        loss = losses[j] if losses else None
        if size is None and loss is None:
            raise ConfigError(
                "--teacher-tokens: they say nothing of a teacher alone; add --teacher-params or --teacher-loss"
            )
        name = say("sized teacher", params=size) if size else say("teacher by loss", loss=loss)
        if q.ensemble is not None:
            name = say("mean of models", count=q.ensemble, params=size)
        trained_on = parse_count(tokens[j], name="--teacher-tokens") if tokens else None
        # beside a baseline of one's own the text is known, and what a teacher that is there has read is not
        is_foreign = bool(q.student_loss) and loss is None and not q.train_teacher
        teacher = Teacher(name=name, params=size, loss=loss, tokens=trained_on, exists=not q.train_teacher)
        error = FOREIGN_TEXT_ERROR if is_foreign else None
        found.append(replace(teacher, models=q.ensemble or 1, estimate_error=error))
    return found


def _refuse_idle(q: PlanQuestion) -> None:
    """Refuse fields that cannot act beside the others, lest someone believes that they did something."""
    is_served = q.serve_memory is not None or q.serve_latency is not None
    says_all = q.delta_lgt is not None and q.delta_pre is not None
    served = "it belongs to --serve-memory 8e9, or --serve-latency with --serve-bandwidth"
    idle = (
        (q.student_loss, q.study is None, "--student-loss", "the study has baselines of its own"),
        (
            q.serve_bandwidth,
            q.serve_latency is not None,
            f"--serve-bandwidth {q.serve_bandwidth}",
            "it belongs to --serve-latency 0.02",
        ),
        (q.weight_bytes, is_served, f"--weight-bytes {q.weight_bytes}", served),
        (q.scenario, not says_all, f"--scenario {q.scenario}", "--delta-lgt and --delta-pre say all that it would"),
        (
            q.train_teacher or None,
            bool(q.teacher_params and q.teacher_tokens),
            "--train-teacher",
            "it is about the teachers of --teacher-params and --teacher-tokens: give both",
        ),
    )
    if q.ensemble is not None:
        if q.ensemble < 2:
            raise ConfigError(say("ensemble of one", count=q.ensemble))
        if not (q.teacher_params and q.teacher_loss) or q.teacher_tokens or q.teachers:
            raise ConfigError(say("ensemble needs", count=q.ensemble))
    for value, acts, option, why in idle:
        if value is not None and not acts:
            raise ConfigError(f"{option} does nothing here: {why}; leave it out, or give what it needs")


def _refuse_unshared(situation: Situation, *, more_to_come: bool) -> None:
    """Several students where no bill is one for all of them: a teacher's training, or stored logits.

    Raises:
        ConfigError: says what they could share.
    """
    shares = situation.cost_shares
    at_hand = [shares_of(situation, teacher).delta_pre == 0 for teacher in situation.teachers]
    at_hand += [shares.delta_pre == 0] * more_to_come
    trains = not any(at_hand)  # with tokens for a budget nobody pays for one beside a teacher at hand
    if situation.compute is not None:
        trains = situation.may_train_teacher or not all(at_hand)
    if situation.students_served > 1 and not (trains or (situation.logits == "stored" and shares.delta_lgt)):
        raise ConfigError(
            f"--students-served {situation.students_served} does nothing here: they share the bill for a teacher's "
            "training, or stored logits, and here is neither: --logits stored, --scenario pretraining or "
            "--train-teacher; leave it out, or give what it needs"
        )
