"""A study file's rules: everything that cannot be run is refused before anything is spent."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from distillaw.data.prepare import DataSpec
from distillaw.errors import ConfigError
from distillaw.large_batch.rules import BETA_RULES, DECAY_RULES, RATE_RULES
from distillaw.models.cut import check_cut
from distillaw.quantities import did_you_mean, parse_count
from distillaw.runs.config import Bounds, check_bounds, check_choice, from_table, read_toml, with_settings
from distillaw.runs.places import check_name
from distillaw.runs.spec import ARMS, DIVERGENCES, BatchPlan, Recipe, is_reverse_kl
from distillaw.shapes import Shape
from distillaw.sweep.spec import NONE, DesignSpec, StudySpec, TeacherSpec
from distillaw.worlds.oracle import is_oracle, parse_oracle
from distillaw.worlds.spec import check_world

MOST_SEEDS = 1000
"""Each is a run of its own."""


def load_study(path: Path, *, corpus: str | None = None, settings: Sequence[str] = ()) -> StudySpec:
    """Read and check a study file.

    Args:
        corpus: overrides data.corpus, for studies of text that the user brings.
        settings: KEY=VALUE each, over the file's (runs/config.py).

    Raises:
        ConfigError: anything in it that cannot be run, before anything is spent.
    """
    spec = from_table(StudySpec, with_settings(read_toml(path), settings), f"{path}:")
    if corpus is not None:
        spec = replace(spec, data=replace(spec.data, corpus=corpus))
    check_study(spec)
    return spec


def check_study(spec: StudySpec) -> None:
    """Refuse impossible or contradictory settings.

    Raises:
        ConfigError: naming the setting, its value and the rule.
    """
    check_name(spec.name, "name =")
    check_bounds(STUDY_BOUNDS, spec, "")
    check_bounds({"margin": (0, math.inf)}, spec.early_stop, "early_stop.")
    check_bounds({"rounds": (0, 20)}, spec.tuning, "tuning.")
    check_bounds(STUDY_DATA_BOUNDS, spec.data, "data.")
    check_training(spec.training, spec.data, batch_tokens=spec.batch_tokens)
    parts = (_students, _words, _teachers, _replicates, _starts)
    refuse(words for part in parts for words in part(spec))
    refuse(words for design in spec.cells for words in _design(spec, design))
    check_cuts(spec, spec.data.vocab_size)


def check_training(training: Recipe, data: DataSpec, *, batch_tokens: int) -> None:
    """Refuse impossible numbers of whatever trains on a text: a study, or the arms of one student.

    Raises:
        ConfigError: naming the setting, its value and the rule.
    """
    if batch_tokens < 1:
        raise ConfigError(f"batch_tokens = {batch_tokens} must lie in [1, inf]")
    check_bounds(DATA_BOUNDS, data, "data.")
    refuse(_recipe(training, "training"))
    if batch_tokens % training.context:
        context = f"training.context = {training.context}"
        raise ConfigError(f"batch_tokens = {batch_tokens} is not a multiple of {context}")


def refuse(wrong: Iterable[str]) -> None:
    """Refuse the first thing that is wrong.

    Raises:
        ConfigError: in its words.
    """
    for words in wrong:
        raise ConfigError(words)


DATA_BOUNDS: Bounds = {
    "teacher_share": (0.001, 0.999),
    "validation_documents": (2, math.inf),
    "validation_tokens_per_document": (1, math.inf),
    "max_document_chars": (0, math.inf),
    "section_chars": (0, math.inf),
    "seed": (0, math.inf),
}
STUDY_DATA_BOUNDS: Bounds = {"vocab_size": (257, math.inf), "world_tokens": (1, math.inf)}
"""Byte-level BPE has 256 bytes, and needs an end of text."""
STUDY_BOUNDS: Bounds = {"peak_lr": (1e-9, 0.999), "seed": (0, math.inf)}
"""As all bounds here: what lies outside has no meaning, or would train nothing; none is a matter of taste."""
RECIPE_BOUNDS: Bounds = {
    "context": (2, math.inf),
    "head_dim": (2, math.inf),
    "aspect": (0.1, 1e4),
    "warmup_tokens": (0, math.inf),
    "cooldown": (0.01, 1),
    "weight_decay": (0, 1),
    "clip_norm": (1e-9, math.inf),
    "z_weight": (0, math.inf),
    "distill_weight": (0, 1),
    "temperature": (1e-3, 1e3),
    "top_k": (0, math.inf),
    "top_p": (1e-9, 1),
    "beta": (0, 1),
    "skew": (0, 0.999),
    "micro_batch_tokens": (0, math.inf),
    "spike_factor": (0, math.inf),
    "patience": (0, math.inf),
    "skip_spikes": (0, math.inf),
    "keep_checkpoints": (1, math.inf),
    "reference_batch_tokens": (0, math.inf),
    "clip_steps": (0, math.inf),
}
CHOICES = {
    "decay": ("linear", "sqrt", "cosine"),
    "divergence": DIVERGENCES,
    "precision": ("fp32", "bf16"),
    "rate_rule": tuple(RATE_RULES),
    "beta_rule": BETA_RULES,
    "decay_rule": DECAY_RULES,
}
"""Every word of [training] and what it may be; the code that knows them imports torch, a study file must not."""
CONTROLS = (
    "interior-rate interior-batch horizon steps disjoint-text union seen-text equal-flop single-epoch "
    "seeds paired-errors teacher-range equal-loss-pairs embedding-share conventions lambda "
    "temperature c0-error best-ratio-error"
).split()
HORIZONS = ("target", "smallest", "ends", "none")
SPLITS = ("student", "teacher", "union")
INITS = ("fresh", "pruned")
CRITERIA = ("uniform", "activation", "gradient")
FIXED = ("context", "head_dim", "aspect")
"""Settings of [training] that [[cells]] may not change: they make another model, or another stream of text."""
LEAST_BATCHES = 20
"""Of any run: fewer steps than a warm-up has teach nothing."""


def _students(spec: StudySpec) -> Iterator[str]:
    if not spec.students.params or not spec.students.tokens:
        yield "[students] needs params and tokens"
    if not spec.data.corpus:
        yield "data.corpus is empty: give the text with --corpus PATH, or name it in the file"
    sizes = [parse_count(size, name="[students] params") for size in spec.students.params]
    if len(set(sizes)) < len(sizes):
        yield f"[students] params repeats a size: {list(spec.students.params)}"
    yield from _repeated_budgets(spec, "[students]", spec.students.tokens)


def _words(spec: StudySpec) -> Iterator[str]:
    """The words of a study, what its batches allow, a world that is its text alone, and its target."""
    for name in spec.without_controls:
        check_choice("without_controls", name, CONTROLS)
    check_choice("tuning.horizon", spec.tuning.horizon, HORIZONS)
    micro, context = spec.training.micro_batch_tokens, spec.training.context
    if micro % context:
        yield f"training.micro_batch_tokens = {micro} is not a multiple of context {context}"
    for tokens in (*spec.students.tokens, spec.tuning_tokens):
        if tokens < LEAST_BATCHES * spec.batch_tokens:
            least = f"{LEAST_BATCHES} batches of {spec.batch_tokens}"
            yield f"tokens = {tokens} is under {least}: nothing is learnt"
    until, budgets = spec.training.distill_until, {*spec.students.tokens, spec.tuning_tokens}
    if until and len(budgets) > 1 and max(budgets) > until[0]:
        yield (
            f"training.distill_until = {list(until)} with runs of {', '.join(map(str, sorted(budgets)))} tokens: each "
            "would be taught for another share of its tokens, and no law or rate is of all; give it in [[cells]] of "
            "one budget"
        )
    if spec.data.world is not None:
        check_world(spec.data.world)
        for name in "corpus tokenizer vocab_size text_column max_document_chars section_chars seed".split():
            if (value := getattr(spec.data, name)) != getattr(DataSpec(), name):
                yield f"data.{name} = {value!r} together with [data.world]: the text is drawn from the world; drop one"
    if spec.target is not None:
        parse_count(spec.target.params, name="[target] params")
        if spec.target.tokens <= 0:
            yield f"[target] tokens = {spec.target.tokens}: give at least 1"


def _recipe(training: Recipe, where: str) -> Iterator[str]:
    """The numbers and words of [training], or of what [[cells]] change of it."""
    check_bounds(RECIPE_BOUNDS, training, f"{where}.")
    if training.head_dim % 2:
        yield f"{where}.head_dim = {training.head_dim} must be even (rotary positions)"
    if training.truncates and is_reverse_kl(training.divergence, beta=training.beta, skew=training.skew):
        yield (
            f"{where}: divergence = {training.divergence!r} with top_k = {training.top_k}, top_p = {training.top_p}: "
            "infinite wherever the truncated teacher has no mass; use forward-kl"
        )
    usual = {"rate_rule": "sqrt", "beta_rule": "keep", "decay_rule": "keep"}
    changed = [name for name, rule in usual.items() if getattr(training, name) != rule]
    if changed and not (training.reference_batch_tokens or training.batch_doublings):
        yield (
            f"{where}: {', '.join(changed)} without reference_batch_tokens, the batch that peak_lr was tuned at; "
            "give it, or drop the rule"
        )
    doublings = training.batch_doublings
    if list(doublings) != sorted(doublings) or min(doublings, default=1) < 1:
        yield (
            f"{where}.batch_doublings = {list(doublings)}: give the tokens at which the batch doubles, above 0 and "
            "ascending; the first batch is batch_tokens"
        )
    until = training.distill_until
    if len(until) > 2 or list(until) != sorted(until) or min(until, default=1) < 0:
        yield (
            f"{where}.distill_until = {list(until)}: give the tokens at which the teacher's weight begins to fall and "
            "at which nothing is left of it, or one number for both"
        )
    for name, known in CHOICES.items():
        check_choice(f"{where}.{name}", getattr(training, name), known)


def _repeated_budgets(spec: StudySpec, where: str, budgets: Sequence[int]) -> Iterator[str]:
    """Two that train as many batches."""
    batches = BatchPlan(max(1, spec.batch_tokens), spec.training.batch_doublings)
    if len({batches.step(b / batches.tokens) for b in budgets}) < len(budgets):
        shown = f"{list(budgets)} in batches of {spec.batch_tokens}"
        yield f"{where} tokens repeats a budget: {shown}; name each once"


def _replicates(spec: StudySpec) -> Iterator[str]:
    sizes, labels, budgets = list(spec.students.params), spec.teacher_labels(), list(spec.students.tokens)
    for replicate in spec.replicates:
        yield from _repeated_budgets(spec, "[[replicates]]", replicate.tokens)
        if replicate.params not in sizes:
            yield f"[[replicates]] params = {replicate.params!r} is not one of {sizes}"
        if not 2 <= replicate.seeds <= MOST_SEEDS:
            wanted = f"give at least 2, the first included, and at most {MOST_SEEDS}"
            yield f"[[replicates]] seeds = {replicate.seeds}: {wanted}"
        for label in replicate.teachers:
            if label not in labels:
                yield f"[[replicates]] teachers: {label!r} is not one of {labels}"
        for tokens in replicate.tokens:
            if tokens not in budgets:
                yield f"[[replicates]] tokens = {tokens} is not one of {budgets}"


def _design(spec: StudySpec, design: DesignSpec) -> Iterator[str]:
    where = f"[[cells]] {design.name}".rstrip()
    if not design.tokens or min(design.tokens) < LEAST_BATCHES * spec.batch_tokens:
        least = f"give at least {LEAST_BATCHES} batches of {spec.batch_tokens}"
        yield f"{where}: tokens = {list(design.tokens)}: {least}"
    yield from _repeated_budgets(spec, where, design.tokens)
    for size in design.params:
        parse_count(size, name=f"{where} params")
    known = [NONE, *spec.teacher_labels()]
    for label in design.teachers:
        if label not in known:
            yield f"{where}: teachers: {label!r}{did_you_mean(label, known)} is not one of {known}"
    if not 1 <= design.seeds <= MOST_SEEDS:
        yield f"{where}: seeds = {design.seeds}: give at least 1 and at most {MOST_SEEDS}"
    if not design.rates or not all(0 < rate < 1e3 for rate in design.rates):
        yield f"{where}: rates = {list(design.rates)}: give multiples of the tuned rate, e.g. [0.5, 1, 2]"
    if not 0 <= design.peak_lr < 1:
        yield f"{where}: peak_lr = {design.peak_lr:g}: a rate at width 64, below 1; left out it is tuned"
    yield from _control(spec, design, where)
    yield from _recipe(design.recipe(spec.training), f"{where} training")


def _control(spec: StudySpec, design: DesignSpec, where: str) -> Iterator[str]:
    """What differs from the grid is known, allowed, and has a name."""
    check_choice(f"{where}: split", design.split, SPLITS)
    check_choice(f"{where}: init", design.init, INITS)
    if design.init != "fresh" and (not design.teachers or NONE in design.teachers):
        yield f"{where}: init = 'pruned' cuts students out of their teachers: name these, not {NONE!r}"
    if changed := sorted(set(FIXED) & set(design.training)):
        yield f"{where}: training changes {', '.join(changed)}, which must be one for a study"
    if spec.is_control(design) and not design.name:
        yield f'{where}: these runs differ from the grid: give them a name, e.g. name = "lambda"'
    if spec.is_control(design) and design.holdout:
        yield f"{where}: laws predict held-out runs, so these have the grid's settings; drop holdout"


def _teachers(spec: StudySpec) -> Iterator[str]:
    labels = spec.teacher_labels()
    if len(set(labels)) < len(labels):
        yield f"[[teachers]] repeats a teacher: {labels}"
    for teacher in spec.teachers:
        where = f"[[teachers]] path = {teacher.path!r}"
        is_trained = bool(teacher.params or teacher.tokens)
        if is_oracle(teacher.path):
            parse_oracle(teacher.path)
            if is_trained:
                yield f"{where}: an oracle is not trained; drop params and tokens"
            if spec.data.world is None:
                yield f"{where}: an oracle knows the text of a world alone; add a [data.world] table"
        elif teacher.path:
            if is_trained:
                yield f"{where}: give either path, or params and tokens"
            if not _could_be_model(teacher.source):
                yield (
                    f"{where}: no model there; give a Hugging Face folder (with config.json), a GGUF file, or a name "
                    "on the hub (owner/name)"
                )
        else:
            if teacher.split not in ("teacher", "student"):
                yield f"[[teachers]] {teacher.label}: split = {teacher.split!r} is neither teacher nor student"
            if not teacher.params or teacher.tokens < LEAST_BATCHES * spec.batch_tokens:
                yield f"[[teachers]] {teacher}: needs params, and tokens of at least {LEAST_BATCHES} batches"
    if spec.tuning.teacher and spec.tuning.teacher not in labels:
        yield f"tuning.teacher = {spec.tuning.teacher!r} is not one of {labels}"


FEWEST_TEACHERS = 2
"""In an arm of cut students: fewer say nothing of which teacher to cut from, or to learn from."""


def _starts(spec: StudySpec) -> Iterator[str]:
    """Arms of first weights: known, each once, and with teachers to cut from."""
    students, where = spec.students, "[students]"
    for arm in students.starts:
        check_choice(f"{where} starts", arm, ARMS)
    check_choice(f"{where} criterion", students.criterion, CRITERIA)
    if not students.starts or len(set(students.starts)) < len(students.starts):
        yield f"{where} starts = {list(students.starts)}: name each of {', '.join(ARMS)} at most once, and one at least"
    if students.reference and "fixed" not in students.starts:
        yield f"{where} reference = {students.reference!r} is what fixed students are cut from: add it to starts"
    if set(students.starts) == {"fresh"}:
        return
    if len(spec.usual_teachers) < FEWEST_TEACHERS:
        yield (
            f"{where} starts = {list(students.starts)} with {len(spec.usual_teachers)} teachers: give at least "
            f'{FEWEST_TEACHERS}, or compare one cut with fresh weights by [[cells]] init = "pruned"'
        )
    yield from _reference(spec)
    yield from _holding(spec)


def _reference(spec: StudySpec) -> Iterator[str]:
    """What fixed students are cut out of is there, is one model, and has not read their text."""
    students, labels, reference = spec.students, [t.label for t in spec.usual_teachers], spec.reference
    if reference is None:
        return
    if reference.is_control:
        yield (
            f"[students] reference = {students.reference!r} has read the students' text: all fixed students would "
            f"begin from it. Name one of {labels}, or a model's folder"
        )
    twin = next((t for t in spec.teachers if t.label == reference.label and t.source != reference.source), None)
    if twin is not None:
        yield (
            f"[students] reference = {students.reference!r} goes by {reference.label!r} in tables, and so does the "
            f"teacher {twin.path or twin.label!r}: rename one of the folders"
        )
    if not students.reference:
        yield f"[students] starts has fixed without a reference: name one of {labels}, or a model's folder"
    elif reference.path and not _could_be_model(reference.source):
        yield (
            f"[students] reference = {students.reference!r}: neither a teacher of this study ({labels}) nor a model (a "
            "Hugging Face folder, a GGUF file, or owner/name on the hub)"
        )


def _holding(spec: StudySpec) -> Iterator[str]:
    """Cut students have teachers that hold them."""
    students = spec.students
    for size in spec.pruned_sizes():
        holding = [teacher.label for teacher in spec.usual_teachers if spec.can_cut(teacher, size)]
        if len(holding) < FEWEST_TEACHERS:
            where = "[students]" if size in students.params else "[[cells]]"
            yield (
                f"{where}: the student {size} is part of {len(holding)} of the teachers ({holding}), the others are "
                f"smaller along an axis, and a pruned arm takes {FEWEST_TEACHERS}: add larger teachers or drop the size"
            )
    for arm in students.starts:
        if arm != "fresh" and spec.tuning.enabled and not spec.tuned_lessons(arm):
            yield (
                f"[students] starts has {arm}, whose rates are searched at {', '.join(spec.tuned_sizes())}, and no one "
                'teacher holds all of these: add a larger one, or [tuning] horizon = "smallest"'
            )


def _could_be_model(source: str) -> bool:
    path = Path(source)
    if path.is_absolute():
        return (path / "config.json").exists() or (path.is_file() and path.suffix == ".gguf")
    return source.count("/") >= 1 and not source.startswith(".")


def check_cuts(spec: StudySpec, vocab_size: int, external: Callable[[str], Shape] | None = None) -> None:
    """Refuse cut students that are no part of what they are to be cut out of.

    Of the teachers trained here a pruned arm takes those that hold a student; who names teachers means each of them.

    Args:
        vocab_size: of the study; that of teachers trained in it as well.
        external: a model from outside as runs name it -> its shape; without it only the others are looked at.

    Raises:
        ConfigError: naming the first student and teacher that do not fit, and along which axis.
    """
    for where, size, teacher in _cuts(spec):
        if is_oracle(teacher.path):
            raise ConfigError(
                f"{where}: students are cut, but the oracle {teacher.path} has no weights to cut from. Name other "
                "teachers"
            )
        if teacher.path and external is None:
            continue
        theirs = external(teacher.source) if teacher.path and external else spec.shape(teacher.params, vocab_size)
        label = f"{where}: the student {size}"
        check_cut(theirs, spec.shape(size, vocab_size), name=teacher.label, label=label)


def _cuts(spec: StudySpec) -> Iterator[tuple[str, str, TeacherSpec]]:
    """(where, student size, what it is cut out of) of all that must be possible."""
    for block in spec.blocks():
        if block.design.init == "pruned":
            named = [teacher for teacher in spec.teachers if teacher.label in block.teachers]
            yield from itertools.product([f"[[cells]] {block.design.name}"], block.params, named)
            continue
        sources = [spec.reference] if spec.reference and "fixed" in block.starts else []
        if "pruned" in block.starts:
            sources += [teacher for teacher in spec.teachers if teacher.path and teacher.label in block.teachers]
        yield from itertools.product(["[students] starts"], block.params, sources)
