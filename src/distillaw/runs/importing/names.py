"""Which column of a source is what, and in which unit: as the user says, else by usual names, always with the reason.

Names are compared without case and with `/`, `.`, `-` and blanks as `_`; settings may stand one level down
(`model.n_params`). Where two columns could be a needed quantity, the user is asked. A loss is converted by a factor;
where its unit is not clear it is refused. The run table wants non-embedding parameters, or says that they are totals.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import ConfigError, DataError, UnitError
from distillaw.quantities import did_you_mean, nats_per_token

Array = NDArray[np.float64]
_SPLITS = ("eval", "val", "valid", "validation", "heldout", "held_out")
HELD_OUT = (*(f"{split}_loss" for split in _SPLITS), "loss_val", "loss_eval")
_UNCLEAR_PARAMS = (
    "n n_params num_params num_parameters n_parameters parameters model_params param_count nparams".split()
)
NON_EMBEDDING = (
    "params student_params non_embedding_params num_non_embedding_params n_non_embedding_params "
    "params_non_embedding n_params_non_embedding num_params_non_embedding n_no_embed params_no_embed"
).split()
TOTAL = ("total_params", "params_total", "num_total_params", "n_params_total", "model_num_parameters")
RUN_NAMES = ("run_name", "run", "run_id", "name", "experiment", "experiment_name", "exp_name")
GROUP_NAMES = ("group", "trunk")
STEP_NAMES = ("step", "global_step", "train_global_step", "trainer_global_step", "iter", "iteration", "steps")

_USUAL: dict[str, tuple[Sequence[str], ...]] = {
    "params": (NON_EMBEDDING, TOTAL, _UNCLEAR_PARAMS),
    "total_params": (TOTAL,),
    "tokens": (
        ("tokens", "student_tokens"),
        (
            "tokens_seen num_tokens n_tokens total_tokens train_tokens consumed_tokens "
            "tokens_processed num_input_tokens_seen train_num_input_tokens_seen d"
        ).split(),
    ),
    "loss": (HELD_OUT,),
    "teacher_loss": (("teacher_loss", "teacher_eval_loss", "teacher_val_loss", "eval_teacher_loss"),),
    "teacher_params": (("teacher_params",),),
    "teacher_tokens": (("teacher_tokens",),),
    "teacher_run": (("teacher_run",),),
    "supervised_loss": (("supervised_loss",),),
    "loss_se": (("loss_se", "eval_loss_se", "val_loss_se"),),
    "lambda": (("lambda", "distill_weight"),),
    "temperature": (("temperature", "distill_temperature", "kd_temperature"),),
    "arm": (("arm",),),
    "init": (("init",),),
    "start_run": (("start_run",),),
    "start_params": (("start_params",),),
    "seed": (("seed",),),
    "width": (("width", "d_model", "hidden_size", "n_embd"),),
    "teacher_width": (("teacher_width",),),
    "layers": (("layers", "depth", "n_layer", "n_layers", "num_layers", "num_hidden_layers"),),
    "peak_lr": (("peak_lr", "learning_rate", "max_lr", "lr"),),
    "batch_tokens": (("batch_tokens", "tokens_per_step", "tokens_per_batch", "global_batch_tokens"),),
    "unique_tokens": (("unique_tokens",),),
    "vocab_size": (("vocab_size",),),
    "train_flops": (("train_flops", "total_flos", "train_total_flos"),),
    "seconds": (("seconds", "runtime", "train_runtime", "wall_seconds"),),
    "device": (("device",),),
    "step": (STEP_NAMES,),
    "rate": (("lr", "learning_rate", "train_lr", "train_learning_rate"),),
    "planned_steps": (("max_steps", "max_iters", "num_train_steps"),),
    "run": (RUN_NAMES,),
    "group": (GROUP_NAMES,),
}
"""Our name -> tiers of usual names: a later tier is only looked at where an earlier one has none."""
_PLAIN_LOSS = ("loss", "final_loss", "student_loss")
"""In a table of finished runs these are the result; in a log a bare `loss` is mostly that of the last batch."""
NEEDED = ("params", "tokens", "loss")
_OURS = {"student_params": "params", "student_tokens": "tokens", "student_loss": "loss"}
_ABOVE = ("model", "student", "config", "train", "training", "trainer", "args", "data", "model_config")
"""What may stand before a usual name: `model.n_params` is one, `teacher.n_params` is not."""


@dataclass(frozen=True, slots=True)
class ColumnChoice:
    """A column and why it was taken."""

    column: str
    why: str


Names = Mapping[str, ColumnChoice]


def plain(name: str) -> str:
    """The name as names are compared."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def first_of(usual_names: Iterable[str], columns: Iterable[str]) -> str | None:
    """The column that bears the first of these names, in their order."""
    known = {plain(column): column for column in reversed(list(columns))}
    return next((known[name] for name in usual_names if name in known), None)


def usual(name: str, columns: Iterable[str], *, table: bool = True) -> list[str]:
    """The columns that could be ours by name: all of the first tier that has any."""
    tiers = _USUAL[name]
    if name == "loss" and table:
        tiers = ((*HELD_OUT, *_PLAIN_LOSS),)
    columns = list(columns)
    for tier in tiers:
        for bare in (lambda c: plain(c), _below):
            found = [column for column in columns if bare(column) in tier]
            if found:
                return found
    return []


def _below(column: str) -> str:
    """`model.n_params` -> `n_params`; other names as they are."""
    head, _, tail = column.replace("/", ".").rpartition(".")
    return plain(tail) if plain(head) in _ABOVE else plain(column)


def check_told(told: Mapping[str, str]) -> dict[str, str]:
    """The user's mapping under our names."""
    wanted = {_OURS.get(name, name): column for name, column in told.items()}
    for name in wanted:
        if name not in _USUAL:
            raise ConfigError(
                f"--columns: unknown name {name!r}{did_you_mean(name, _USUAL)}; known: {', '.join(_USUAL)}"
            )
    return wanted


def choose_names(
    columns: list[str], told: Mapping[str, str], *, where: str, table: bool, told_elsewhere: bool
) -> Names:
    """Our names to the columns of one source.

    Args:
        told: {our name: column} of the user, checked.
        table: a table of runs, in which `loss` is the result.
        told_elsewhere: another source may have the columns told; a missing one is guessed here.
    """
    found: dict[str, ColumnChoice] = {}
    for name, column in told.items():
        exact = find_column(column, columns)
        if exact is not None:
            found[name] = ColumnChoice(exact, "as told")
        elif not told_elsewhere and column.lower() != "none":
            raise DataError(f"{where}: no column {column!r}{did_you_mean(column, columns)}; it has: {_listed(columns)}")
    for name in _USUAL:
        if name in ("run", "group") and not table:
            continue  # a tracker knows its runs
        if name in told and (name in found or told[name].lower() == "none"):
            continue
        candidates = [c for c in usual(name, columns, table=table) if not _is_taken(c, name, found)]
        if len(candidates) > 1 and name in (*NEEDED, "teacher_loss"):
            raise ConfigError(
                f"{where}: {name} could be {' or '.join(candidates)}; say which with --columns {name}={candidates[0]}"
            )
        if candidates:
            found[name] = ColumnChoice(candidates[0], "our name" if candidates[0] == name else "a usual name")
    return found


def _is_taken(column: str, name: str, found: Names) -> bool:
    """A column is one thing only, except that total parameters may have to stand in for params."""
    return any(c.column == column and (n, name) not in _SHARED for n, c in found.items())


_SHARED = {("params", "total_params"), ("peak_lr", "rate"), ("run", "group")}


def find_column(column: str, columns: list[str]) -> str | None:
    """The column meant: exactly so, else alone in reading the same (`model/n_params` for `model.n_params`)."""
    if column in columns:
        return column
    alike = [c for c in columns if plain(c) == plain(column)]
    return alike[0] if len(alike) == 1 else None


def require(names: Names, columns: list[str], *, where: str) -> None:
    """Refuse a source that lacks a needed quantity.

    Raises:
        DataError: names it, what the source has, and how to say it.
    """
    hints = {
        "params": "or give it with --set params=300M, or per run with --details TABLE",
        "tokens": "or count them from steps with --tokens-per-step TOKENS",
        "loss": "",
    }
    for name in NEEDED:
        if name in names:
            continue
        training = [c for c in columns if plain(c) in ("loss", "train_loss", "training_loss")]
        hint = hints[name]
        if name == "loss" and training:
            hint = (
                f"- {training[0]} looks like the training loss, of single batches or a running mean, and laws want "
                f"that of held-out text; --columns loss={training[0]} takes it all the same"
            )
        raise DataError(
            f"{where}: no column for {name}; it has: {_listed(columns)}. Say which with --columns {name}=COLUMN "
            f"{hint}".rstrip()
        )


def _listed(columns: list[str], most: int = 24) -> str:
    more = f" and {len(columns) - most} more" if len(columns) > most else ""
    return (", ".join(columns[:most]) or "nothing") + more


UNITS = ("nats", "bits", "bits-per-byte", "perplexity")
_WORDS = {
    "perplexity": "perplexity",
    "ppl": "perplexity",
    "bpb": "bits-per-byte",
    "bits_per_byte": "bits-per-byte",
    "bit": "bits",
    "bpc": "bits-per-character",
}
_REMEDIES = {
    "perplexity": "--unit perplexity (its logarithm is taken)",
    "bits": "--unit bits (converted)",
    "bits-per-byte": "--unit bits-per-byte --bytes-per-token X (converted)",
    "bits-per-character": "--unit bits-per-byte --bytes-per-token X of characters per token (converted)",
}
_HIGH, _LOW = 12.5, 1.2
"""ln of a vocabulary of 268 thousand: no trained model loses more nats per token; and what a strong one still loses."""


@dataclass(frozen=True, slots=True)
class Unit:
    """How a table's losses become nats per token."""

    name: str
    convert: Callable[[Array], Array]
    slope: Callable[[Array], Array | float]
    """Derivative at a loss, for its standard error."""
    stated: str
    """For the user to read."""


def loss_unit(column: str, unit: str | None, bytes_per_token: float | None) -> Unit:
    """The unit of a loss column.

    Args:
        bytes_per_token: bytes of the held-out text over its tokens, for bits per byte.

    Raises:
        UnitError: the name speaks of another unit, or bits per byte come without bytes per token.
        ConfigError: an unknown unit, or bytes per token without need.
    """
    if unit is not None and unit not in UNITS:
        extra = " (fit such tables as they are: distillaw fit --unit bits-per-character)" if "char" in unit else ""
        raise ConfigError(f"--unit: unknown {unit!r}{did_you_mean(unit, UNITS)}; known: {', '.join(UNITS)}{extra}")
    looks = next((kind for word, kind in _WORDS.items() if word in column.lower()), None)
    if unit is None and looks is not None:
        raise UnitError(
            f"column {column!r} looks like {looks}, not nats per token. Say {_REMEDIES[looks]}, or --unit nats if it "
            "is nats after all"
        )
    if bytes_per_token is not None and unit != "bits-per-byte":
        raise ConfigError("--bytes-per-token: it only serves --unit bits-per-byte")
    if unit == "perplexity":
        return Unit(unit, np.log, lambda x: 1 / x, "ln of perplexity")
    if unit == "bits-per-byte":
        if bytes_per_token is None:
            raise UnitError(
                "--unit bits-per-byte: the run table holds nats per token, and bits per byte become these only with "
                "--bytes-per-token X (bytes of the held-out text over its tokens). Without it, fit the table as it "
                "is: distillaw fit FILE --unit bits-per-byte"
            )
        factor = nats_per_token(1.0, bytes_per_token=bytes_per_token)
        return _scaled(unit, factor, f"bits per byte x {factor:.6g} (ln 2 x {bytes_per_token:g} bytes/token)")
    if unit == "bits":
        return _scaled(unit, float(np.log(2)), "bits per token x ln 2")
    return _scaled("nats", 1.0, "nats per token" if unit else "nats per token, as nothing says otherwise")


def _scaled(name: str, factor: float, stated: str) -> Unit:
    return Unit(name, lambda x: x * factor, lambda _: factor, stated)


def check_level(losses: Array, column: str, unit: str | None) -> None:
    """Refuse losses that are no usual nats per token, unless the user says what they are."""
    middle = float(np.median(losses))
    if middle > _HIGH and unit is None:
        raise UnitError(
            f"column {column!r}: losses around {middle:.4g}; no language model loses more than about {_HIGH} nats per "
            "token. Perplexity? Say --unit perplexity, or --unit nats if they are nats"
        )
    if middle < _LOW and unit is None:
        raise UnitError(
            f"column {column!r}: losses around {middle:.3g} are low for nats per token and usual for bits per byte or "
            "per character. Say --unit bits-per-byte --bytes-per-token X (for characters: characters per token), or "
            "--unit nats if they are nats"
        )


CONVENTIONS = ("non-embedding", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """How the counts of one source become those of the run table."""

    source: str
    """What the source counts."""
    vocab: float | None = None
    matrices: int = 1

    @property
    def written(self) -> str:
        """What the run table's `params` will count."""
        return "non-embedding" if self.vocab is not None else self.source

    @property
    def stated(self) -> str:
        """For the user to read."""
        if self.vocab is None:
            return self.source
        times = "2 x " if self.matrices == 2 else ""
        return f"total - {times}{self.vocab:.0f} x width = non-embedding"

    def counts(self, params: Array, total: Array, width: Array) -> tuple[Array, Array, dict[int, str]]:
        """(params, total_params) of models, and of which there are none: {index: why}.

        All of shape (n,), NaN where missing: params as the source counts them, what it says of totals besides, widths.
        """
        if self.vocab is None:
            return params, params if self.source == "total" else total, {}
        left = params - self.matrices * self.vocab * width
        why = "no width, which converting its total parameters needs (--columns width=COLUMN)"
        refused = dict.fromkeys(np.flatnonzero(np.isnan(width)).tolist(), why)
        for i in np.flatnonzero(left <= 0).tolist():
            refused[i] = f"{params[i]:.4g} parameters are fewer than its embedding ({self.vocab:.0f} x {width[i]:.0f})"
        return left, params, refused


def find_convention(
    chosen: ColumnChoice, names: Mapping[str, ColumnChoice], *, told: str | None, vocab: float | None, matrices: int
) -> Convention:
    """The convention of a source's params column."""
    if told is not None and told not in CONVENTIONS:
        raise ConfigError(
            f"--params-convention: unknown {told!r}{did_you_mean(told, CONVENTIONS)}; known: {', '.join(CONVENTIONS)}"
        )
    column = plain(chosen.column)
    ends = [plain(part) for part in chosen.column.replace("/", ".").rsplit(".", 1)[-1:]] + [column]
    if any(name in NON_EMBEDDING for name in ends):
        named = "non-embedding"
    else:
        named = "total" if "total" in column or column in TOTAL or vocab is not None else None
    source = told or named
    if source is None:
        raise UnitError(
            f"column {chosen.column!r}: it does not say whether the parameters count the embedding. Say "
            "--params-convention non-embedding, --params-convention total (kept, and said in the table), or --vocab V "
            "(totals, converted with the column width)"
        )
    if vocab is None:
        return Convention(source=source)
    if source != "total":
        raise UnitError(f"--vocab: column {chosen.column!r} holds non-embedding parameters already; leave --vocab out")
    if "width" not in names:
        raise UnitError("--vocab: no column holds the models' width; say --columns width=COLUMN")
    return Convention(source="total", vocab=vocab, matrices=matrices)
