"""A study file's rules: everything that cannot be run is refused before anything is spent."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distillaw.data.prepare import DataSpec
from distillaw.distill.rules import DIVERGENCES, is_reverse_kl
from distillaw.errors import ConfigError
from distillaw.large_batch.rules import BETA_RULES, DECAY_RULES, RATE_RULES
from distillaw.quantities import did_you_mean, parse_count
from distillaw.runs.config import from_table, read_toml
from distillaw.runs.places import check_name
from distillaw.runs.settings import with_settings
from distillaw.runs.spec import Recipe
from distillaw.sweep.cuts import check_cuts
from distillaw.sweep.spec import StudySpec
from distillaw.sweep.tables import NONE, CellsSpec
from distillaw.worlds.oracle import is_oracle, parse_oracle
from distillaw.worlds.spec import check_world

_MOST_SEEDS = 1000
"""Each is a run of its own."""


def load_study(path: Path, *, corpus: str | None = None, settings: Sequence[str] = ()) -> StudySpec:
    """Read and check a study file.

    Args:
        path: the TOML file.
        corpus: overrides data.corpus, for studies of text that the user brings.
        settings: KEY=VALUE each, over the file's (runs/settings.py).

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
    _check_numbers(spec)
    check_training(spec.training, spec.data, batch_tokens=spec.batch_tokens)
    context = spec.training.context
    _require(bool(spec.students.params) and bool(spec.students.tokens), "[students] needs params and tokens")
    _require(
        bool(spec.data.corpus),
        "data.corpus is empty: give the text with --corpus PATH, or name it in the file",
    )
    sizes = [parse_count(size, name="[students] params") for size in spec.students.params]
    _require(len(set(sizes)) == len(sizes), f"[students] params repeats a size: {list(spec.students.params)}")
    _check_budgets(spec, "[students]", spec.students.tokens)
    for name in spec.without_controls:
        _require(
            name in CONTROLS,
            f"without_controls: {name!r}{did_you_mean(name, CONTROLS)} is none of {', '.join(CONTROLS)}",
        )
    horizon = spec.tuning.horizon
    _require(
        horizon in HORIZONS,
        f"tuning.horizon = {horizon!r}{did_you_mean(horizon, HORIZONS)} is none of {', '.join(HORIZONS)}",
    )
    micro = spec.training.micro_batch_tokens
    _require(
        micro % context == 0, f"training.micro_batch_tokens = {micro} is not a multiple of context {context}"
    )
    for tokens in (*spec.students.tokens, spec.tuning_tokens):
        _require(tokens >= 20 * spec.batch_tokens,
                 f"tokens = {tokens} is under 20 batches of {spec.batch_tokens}: nothing is learnt")  # fmt: skip
    _check_text(spec.data)
    if spec.target is not None:
        parse_count(spec.target.params, name="[target] params")
        _require(spec.target.tokens > 0, f"[target] tokens = {spec.target.tokens}: give at least 1")
    _check_teachers(spec)
    _check_replicates(spec)
    for cells in spec.cells:
        _check_cells(spec, cells)
    check_cuts(spec, spec.data.vocab_size)


def check_training(training: Recipe, data: DataSpec, *, batch_tokens: int) -> None:
    """Refuse impossible numbers of whatever trains on a text: a study, or the arms of one student.

    Raises:
        ConfigError: naming the setting, its value and the rule.
    """
    _check_ranges([
        ("batch_tokens", batch_tokens, 1, math.inf),
        ("data.teacher_share", data.teacher_share, 0.001, 0.999),
        ("data.validation_documents", data.validation_documents, 2, math.inf),
        ("data.validation_tokens_per_document", data.validation_tokens_per_document, 1, math.inf),
        ("data.max_document_chars", data.max_document_chars, 0, math.inf),
        ("data.section_chars", data.section_chars, 0, math.inf),
        ("data.seed", data.seed, 0, math.inf),
    ])  # fmt: skip
    _check_recipe(training, "training")
    _require(batch_tokens % training.context == 0,
             f"batch_tokens = {batch_tokens} is not a multiple of training.context = {training.context}")  # fmt: skip


def _check_text(data: DataSpec) -> None:
    """A world is a text of its own; settings that speak of another are contradictions."""
    if data.world is None:
        return
    check_world(data.world)
    of_corpora = "corpus tokenizer vocab_size text_column max_document_chars section_chars seed"
    for name in of_corpora.split():
        value, default = getattr(data, name), getattr(DataSpec(), name)
        _require(
            value == default,
            f"data.{name} = {value!r} together with [data.world]: the text is drawn from the world; drop one",
        )


def _check_numbers(spec: StudySpec) -> None:
    """The numbers of a study alone that have a range."""
    data = spec.data
    _check_ranges([
        ("peak_lr", spec.peak_lr, 1e-9, 0.999),
        ("seed", spec.seed, 0, math.inf),
        ("early_stop.margin", spec.early_stop.margin, 0, math.inf),
        ("tuning.rounds", spec.tuning.rounds, 0, 20),
        ("data.vocab_size", data.vocab_size, 257, math.inf),
        ("data.world_tokens", data.world_tokens, 1, math.inf),
    ])  # fmt: skip


def _check_ranges(rules: Sequence[tuple[str, float, float, float]]) -> None:
    """(name, value, lowest, highest) of each."""
    for name, value, low, high in rules:
        _require(low <= value <= high, f"{name} = {value:g} must lie in [{low:g}, {high:g}]")


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
    "interior-rate", "interior-batch", "horizon", "steps", "disjoint-text", "union", "seen-text", "equal-flop",
    "single-epoch", "seeds", "paired-errors", "teacher-range", "equal-loss-pairs", "embedding-share", "conventions",
    "lambda", "temperature", "c0-error", "best-ratio-error",
)  # fmt: skip
HORIZONS = ("target", "smallest", "ends", "none")
SPLITS = ("student", "teacher", "union")
INITS = ("fresh", "pruned")


def _check_recipe(training: Recipe, where: str) -> None:
    """The numbers and words of [training], or of what [[cells]] change of it."""
    rules: list[tuple[str, float, float, float]] = [
        ("context", training.context, 2, math.inf),
        ("head_dim", training.head_dim, 2, math.inf),
        ("aspect", training.aspect, 0.1, 1e4),
        ("warmup_tokens", training.warmup_tokens, 0, math.inf),
        ("cooldown", training.cooldown, 0.01, 1),
        ("weight_decay", training.weight_decay, 0, 1),
        ("clip_norm", training.clip_norm, 1e-9, math.inf),
        ("z_weight", training.z_weight, 0, math.inf),
        ("distill_weight", training.distill_weight, 0, 1),
        ("temperature", training.temperature, 1e-3, 1e3),
        ("top_k", training.top_k, 0, math.inf),
        ("top_p", training.top_p, 1e-9, 1),
        ("beta", training.beta, 0, 1),
        ("skew", training.skew, 0, 0.999),
        ("micro_batch_tokens", training.micro_batch_tokens, 0, math.inf),
        ("spike_factor", training.spike_factor, 0, math.inf),
        ("patience", training.patience, 0, math.inf),
        ("reference_batch_tokens", training.reference_batch_tokens, 0, math.inf),
        ("clip_steps", training.clip_steps, 0, math.inf),
    ]
    for name, value, low, high in rules:
        _require(low <= value <= high, f"{where}.{name} = {value:g} must lie in [{low:g}, {high:g}]")
    _require(
        training.head_dim % 2 == 0, f"{where}.head_dim = {training.head_dim} must be even (rotary positions)"
    )
    is_reverse = is_reverse_kl(training.divergence, beta=training.beta, skew=training.skew)
    _require(not (training.truncates and is_reverse),
             f"{where}: divergence = {training.divergence!r} with top_k = {training.top_k}, top_p = {training.top_p}: "
             "infinite wherever the truncated teacher has no mass; use forward-kl")  # fmt: skip
    without = [name for name, usual in (("rate_rule", "sqrt"), ("beta_rule", "keep"), ("decay_rule", "keep"))
               if not training.reference_batch_tokens and getattr(training, name) != usual]  # fmt: skip
    _require(not without, f"{where}: {', '.join(without)} without reference_batch_tokens, the batch that peak_lr was "
                          "tuned at; give it, or drop the rule")  # fmt: skip
    for name, known in CHOICES.items():
        value = getattr(training, name)
        _require(
            value in known,
            f"{where}.{name} = {value!r}{did_you_mean(value, known)} is none of {', '.join(known)}",
        )


def _check_budgets(spec: StudySpec, where: str, budgets: Sequence[int]) -> None:
    """No two that train as many batches."""
    _require(
        spec.batch_tokens < 1 or len({round(b / spec.batch_tokens) for b in budgets}) == len(budgets),
        f"{where} tokens repeats a budget: {list(budgets)} in batches of {spec.batch_tokens}; name each once",
    )


def _check_replicates(spec: StudySpec) -> None:
    sizes = list(spec.students.params)
    for replicate in spec.replicates:
        _check_budgets(spec, "[[replicates]]", replicate.tokens)
        _require(
            replicate.params in sizes, f"[[replicates]] params = {replicate.params!r} is not one of {sizes}"
        )
        _require(
            2 <= replicate.seeds <= _MOST_SEEDS,
            f"[[replicates]] seeds = {replicate.seeds}: give at least 2, the first included, and at most {_MOST_SEEDS}",
        )
        for label in replicate.teachers:
            _require(label in spec.teacher_labels(),
                     f"[[replicates]] teachers: {label!r} is not one of {spec.teacher_labels()}")  # fmt: skip
        for tokens in replicate.tokens:
            _require(tokens in spec.students.tokens,
                     f"[[replicates]] tokens = {tokens} is not one of {list(spec.students.tokens)}")  # fmt: skip


FIXED = ("context", "head_dim", "aspect")
"""Settings of [training] that [[cells]] may not change: they make another model, or another stream of text."""


def _check_cells(spec: StudySpec, cells: CellsSpec) -> None:
    where = f"[[cells]] {cells.name}".rstrip()
    _require(bool(cells.tokens) and min(cells.tokens) >= 20 * spec.batch_tokens,
             f"{where}: tokens = {list(cells.tokens)}: give at least 20 batches of {spec.batch_tokens}")  # fmt: skip
    _check_budgets(spec, where, cells.tokens)
    for size in cells.params:
        parse_count(size, name=f"{where} params")
    known = [NONE, *spec.teacher_labels()]
    for label in cells.teachers:
        _require(
            label in known, f"{where}: teachers: {label!r}{did_you_mean(label, known)} is not one of {known}"
        )
    _require(1 <= cells.seeds <= _MOST_SEEDS,
             f"{where}: seeds = {cells.seeds}: give at least 1 and at most {_MOST_SEEDS}")  # fmt: skip
    _require(len(cells.rates) > 0 and all(0 < rate < 1e3 for rate in cells.rates),
             f"{where}: rates = {list(cells.rates)}: give multiples of the tuned rate, e.g. [0.5, 1, 2]")  # fmt: skip
    _check_control(spec, cells, where)
    _check_recipe(cells.recipe(spec.training), f"{where} training")


def _check_control(spec: StudySpec, cells: CellsSpec, where: str) -> None:
    """What differs from the grid is known, allowed, and has a name."""
    _require(cells.split in SPLITS, f"{where}: split = {cells.split!r} is none of {', '.join(SPLITS)}")
    _require(cells.init in INITS, f"{where}: init = {cells.init!r} is none of {', '.join(INITS)}")
    is_taught = bool(cells.teachers) and NONE not in cells.teachers
    _require(cells.init == "fresh" or is_taught,
             f"{where}: init = 'pruned' cuts students out of their teachers: name these, not {NONE!r}")  # fmt: skip
    changed = sorted(set(FIXED) & set(cells.training))
    _require(not changed, f"{where}: training changes {', '.join(changed)}, which must be one for a study")
    is_control = spec.is_control(cells)
    _require(bool(cells.name) or not is_control,
             f"{where}: these runs differ from the grid: give them a name, e.g. name = \"lambda\"")  # fmt: skip
    _require(not (is_control and cells.holdout),
             f"{where}: laws predict held-out runs, so these have the grid's settings; drop holdout")  # fmt: skip


def _check_teachers(spec: StudySpec) -> None:
    labels = spec.teacher_labels()
    _require(len(set(labels)) == len(labels), f"[[teachers]] repeats a teacher: {labels}")
    for teacher in spec.teachers:
        if is_oracle(teacher.path):
            parse_oracle(teacher.path)
            _require(
                not teacher.params and not teacher.tokens,
                f"[[teachers]] path = {teacher.path!r}: an oracle is not trained; drop params and tokens",
            )
            _require(spec.data.world is not None,
                     f"[[teachers]] path = {teacher.path!r}: an oracle knows the text of a world alone; add a "
                     "[data.world] table")  # fmt: skip
        elif teacher.path:
            _require(not teacher.params and not teacher.tokens,
                     f"[[teachers]] path = {teacher.path!r}: give either path, or params and tokens")  # fmt: skip
            _require(_could_be_model(teacher.source),
                     f"[[teachers]] path = {teacher.path!r}: no model there; give a Hugging Face folder (with "
                     "config.json), a GGUF file, or a name on the hub (owner/name)")  # fmt: skip
        else:
            _require(
                teacher.split in ("teacher", "student"),
                f"[[teachers]] {teacher.label}: split = {teacher.split!r} is neither teacher nor student",
            )
            _require(bool(teacher.params) and teacher.tokens >= 20 * spec.batch_tokens,
                     f"[[teachers]] {teacher}: needs params, and tokens of at least 20 batches")  # fmt: skip
    if spec.tuning.teacher:
        _require(
            spec.tuning.teacher in labels, f"tuning.teacher = {spec.tuning.teacher!r} is not one of {labels}"
        )


def _could_be_model(source: str) -> bool:
    path = Path(source)
    if path.is_absolute():
        return (path / "config.json").exists() or (path.is_file() and path.suffix == ".gguf")
    return source.count("/") >= 1 and not source.startswith(".")


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise ConfigError(message)
