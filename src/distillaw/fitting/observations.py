"""From a table of runs to checked observations: which rows count, what they count, which belong to one run.

Refuses or warns, never guesses: a missing, non-finite or non-positive value is named by row; loss units and parameter
conventions are never mixed. Rows that share a group (checkpoints or branches of one run) are one independent
observation for every resampling. Total parameters are fitted as such, and the law says so, or converted here:

    N = N_total - matrices x vocabulary x width        matrices: 1 tied (or one counted), 2 untied
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import ConfigError, DataError, UnitError
from distillaw.laws.base import Array, Box
from distillaw.quantities import LARGEST, did_you_mean
from distillaw.runs.config import check_choice
from distillaw.runs.spec import ARMS, arm_of, arm_order, leading_arm, serves_laws
from distillaw.runs.table import select

CONVENTIONS = ("non-embedding", "total")
"""What a count of parameters may hold; total has one embedding matrix (vocabulary x width) more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Checked rows of one kind, as arrays of equal length."""

    params: Array
    tokens: Array
    loss: Array
    teacher_loss: Array
    """NaN for rows without a teacher."""
    supervised_loss: Array
    """Measured Ltilde_S of the row's own (params, tokens); NaN where not known."""
    teacher_params: Array
    loss_se: Array
    weight: Array
    group: NDArray[np.int64]
    """Code of the independent run that the row belongs to."""
    row: NDArray[np.int64]
    """Index in the table that was given."""
    seed: NDArray[np.int64]
    """Code of the seed; one for all where no column says."""
    grouped: bool
    """True where a column named the groups; False where each row counts as a run."""
    convention: str = "non-embedding"
    """What `params` counts."""
    arm: str = "fresh"
    """Where the students' first weights are from (`ARMS`): one law is never fitted across arms."""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.loss)

    def thinned(self, ngroups: int, rng: np.random.Generator) -> "Observations":
        """A random part of the groups with all their rows."""
        present = np.bincount(self.group) > 0
        kept = np.zeros(len(present), dtype=bool)
        kept[rng.choice(np.flatnonzero(present), size=ngroups, replace=False)] = True
        return self.rows(kept[self.group])

    def rows(self, keep: NDArray) -> "Observations":
        """The rows where `keep` (mask or indices)."""
        part = {name: getattr(self, name)[keep] for name in _ROWWISE}
        return replace(self, **part)

    def followed_by(self, other: "Observations") -> "Observations":
        """These rows, then the other's."""
        both = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _ROWWISE}
        return replace(self, **both)

    @property
    def ngroups(self) -> int:
        """Number of independent runs among the rows."""
        return int(np.count_nonzero(np.bincount(self.group)))

    @property
    def compute(self) -> Array:
        """6 N D, the axis along which hold-outs and extrapolation are measured."""
        return 6 * self.params * self.tokens

    def box(self) -> Box:
        """The range of these rows, under the names of the law's coordinates: a student's where there are teachers."""
        taught = np.isfinite(self.teacher_loss)
        prefix = "student_" if taught.any() else ""
        bounds = {f"{prefix}params": self.params, f"{prefix}tokens": self.tokens}
        bounds |= {"tokens_per_param": self.tokens / self.params, "compute": self.compute}
        if taught.any():
            bounds["teacher_loss"] = self.teacher_loss[taught]
        return Box.of({name: (float(v.min()), float(v.max())) for name, v in bounds.items()})


_NUMBERS = ("params", "tokens", "loss", "teacher_loss", "supervised_loss", "teacher_params", "loss_se")
_ROWWISE = (*_NUMBERS, "weight", "group", "row", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """What has to be subtracted from totals: the entries of the vocabulary, times the width of each model."""

    vocab: float
    matrices: int = 1
    """Vocabulary x width matrices in the total: 1 with tied embeddings, 2 without."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.vocab) and self.vocab >= 1):
            raise ConfigError(f"vocab: got {self.vocab}; give the number of entries of the vocabulary, e.g. 50304")
        if self.matrices not in (1, 2):
            raise ConfigError(
                f"matrices: got {self.matrices}; 1 with tied embeddings, 2 with an output head of its own"
            )


def observe(
    table: Mapping[str, ArrayLike],
    *,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    weights: ArrayLike | None = None,
    unit: str | None = None,
    params_convention: str | None = None,
    where: Mapping[str, str] | None = None,
    embedding: Embedding | None = None,
    needs_teachers: bool = False,
    arm: str | None = None,
) -> Observations:
    """Map, check and code the rows of a table.

    Args:
        table: columns of equal length.
        columns: {name we use: column of the table}, e.g. {"params": "N", "loss": "final_loss"}.
        group: column that names the independent run of each row; "none" makes each row its own; by
            default a column called group, run_name or trunk where there is one.
        weights: weight per row, or None for the table's `weight` column, or 1.
        unit: unit of the losses: nats (default), bits (per token, converted), bits-per-byte or
            bits-per-character (kept as they are: never mix them with nats).
        params_convention: what the params column counts, non-embedding (default) or total.
        where: {column: value}, as in `runs.select`: only these rows, which keep the numbers they have in the table.
        embedding: what to take off total parameters; None leaves them as they are.
        needs_teachers: the law depends on the teachers' sizes, so that these must be converted too.
        arm: of `ARMS`; None takes fresh students where there are any, then fixed ones, then pruned.

    Raises:
        DataError: a needed column is missing, a value is not a positive finite number, or no row is of that arm.
        UnitError: the losses look like another unit, or units or conventions are mixed in the table.
    """
    options: dict[str, Any] = {
        **{"columns": columns, "group": group, "unit": unit, "params_convention": params_convention},
        **{"embedding": embedding, "needs_teachers": needs_teachers, "arm": arm},
    }
    if not where:
        return _read(table, weights, **options)
    index = select(table, where)
    part = {str(name): np.asarray(values)[index] for name, values in table.items()}
    part_weights = None if weights is None else np.asarray(weights)[index]
    chosen = " and ".join(f"{column} = {value}" for column, value in where.items())
    try:
        rows = _read(part, part_weights, **options)
    except DataError as error:
        raise DataError(f"{error} (counting the {len(index)} rows with {chosen})") from None
    return replace(rows, row=index[rows.row], notes=(f"only rows with {chosen}", *rows.notes))


def _read(
    table: Mapping[str, ArrayLike],
    weights: ArrayLike | None,
    *,
    columns: Mapping[str, str] | None,
    group: str | None,
    unit: str | None,
    params_convention: str | None,
    arm: str | None,
    embedding: Embedding | None,
    needs_teachers: bool,
) -> Observations:
    """All rows of an arm that serve laws, with parameters as the law takes them."""
    arrays = {str(name): as_column(name, values) for name, values in table.items()}
    if not arrays:
        raise DataError("the table has no columns")
    sizes = {name: len(values) for name, values in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"columns have different lengths: {sizes}")
    size = next(iter(sizes.values()))
    if size == 0:
        raise DataError("the table has no rows")
    found = match_columns(arrays, dict(columns or {}), group)
    scale = unit_scale(found["loss"], arrays, unit)
    convention = _stated_convention(found["params"], arrays, params_convention)
    keep, notes = _usable_rows(arrays, size)
    if not keep.any():
        raise DataError("no rows left: all are tuning runs or unfinished")
    arm, of_arm, note = _one_arm(arrays, keep, arm)
    keep, notes = keep & of_arm, [*notes, *note]
    index = np.flatnonzero(keep)
    numbers = {
        name: read_numbers(name, found[name], arrays, index, needed=name in ("params", "tokens", "loss"))
        for name in _NUMBERS
    }
    for name in ("loss", "teacher_loss", "supervised_loss", "loss_se"):
        numbers[name] = numbers[name] * scale
    weight = read_weights(weights, found["weight"], arrays, index, size)
    codes = _groups(found["group"], arrays, index, numbers)
    notes += _remarks(arrays, index, found, numbers, are_cells=needs_teachers)
    seeds = arrays.get("seed", np.zeros(size))[index].astype(str)
    named = {"grouped": found["group"] is not None, "convention": convention}
    seed = np.unique(seeds, return_inverse=True)[1].reshape(-1)
    by_row = {"weight": weight, "group": codes, "row": index, "seed": seed}
    rows = Observations(**numbers, **by_row, arm=arm, notes=tuple(notes), **named)
    return rows if embedding is None else _to_non_embedding(rows, arrays, found, embedding, needed=needs_teachers)


def check_convention(name: str, value: str) -> str:
    """The value, if it is a convention that is known here."""
    if value not in CONVENTIONS:
        raise ConfigError(
            f"{name}: unknown {value!r}{did_you_mean(value, CONVENTIONS)}; known: {', '.join(CONVENTIONS)}"
        )
    return value


def _stated_convention(column: str | None, table: Mapping[str, NDArray], stated: str | None) -> str:
    """What the params column counts: as stated, as the table says, or non-embedding; refused where they differ."""
    if stated is not None:
        check_convention("params_convention", stated)
    said = {str(v) for v in table.get("params_convention", ())} & set(CONVENTIONS)
    inside = said.pop() if said else None
    if stated is not None and inside is not None and stated != inside:
        raise UnitError(
            f"params_convention: {stated} was asked for, the table's own column says {inside}; correct one of them"
        )
    if stated is None and inside is None and "total" in (column or "").lower():
        raise UnitError(
            f"column {column!r} looks like total parameters; laws here are of non-embedding ones. Say "
            f"--params-convention total (kept in that convention), with --vocab V --width COLUMN to convert, or "
            f"--params-convention non-embedding if it is that after all"
        )
    return stated or inside or "non-embedding"


def _usable_rows(table: Mapping[str, NDArray], size: int) -> tuple[NDArray[np.bool_], list[str]]:
    keep = np.ones(size, dtype=bool)
    notes = []
    rules = (
        ("purpose", "of searches or controls", lambda value: not serves_laws(value)),
        ("state", "of unfinished runs", lambda value: value in ("planned", "running", "failed")),
    )
    for name, what, drops in rules:
        if name in table:
            dropped = np.array([drops(str(value)) for value in table[name]], dtype=bool) & keep
            keep &= ~dropped
            if dropped.any():
                notes.append(f"{int(dropped.sum())} rows {what} left out (column {name})")
    return keep, notes


def arms_in(table: Mapping[str, ArrayLike]) -> NDArray[np.str_]:
    """Of each row its arm (`arm_of`); a table that says neither `arm` nor `init` is of fresh students."""
    said = {name: np.asarray(table[name], dtype=object) for name in ("arm", "init") if name in table}
    if not said:
        return np.full(len(np.asarray(next(iter(table.values())))), "fresh")
    rows = zip(*said.values(), strict=True)
    return np.array([arm_of(dict(zip(said, row, strict=True))) for row in rows])


def taught_arms(
    table: Mapping[str, ArrayLike], *, columns: Mapping[str, str] | None = None, where: Mapping[str, str] | None = None
) -> list[str]:
    """Arms of which the chosen rows have students with a teacher, in the order of `arm_order`.

    Raises:
        DataError: as `observe`, of these rows and of the teachers' losses.
    """
    index = select(table, where or {})
    arrays = {str(name): as_column(name, values)[index] for name, values in table.items()}
    kept, _ = _usable_rows(arrays, len(index))
    column = match_columns(arrays, dict(columns or {}), None)["teacher_loss"]
    if column is not None:
        kept[kept] = np.isfinite(read_numbers("teacher_loss", column, arrays, np.flatnonzero(kept), needed=False))
    return sorted({str(arm) for arm in arms_in(arrays)[kept]}, key=arm_order)


def usual_arm(table: Mapping[str, ArrayLike], arms: NDArray[np.str_]) -> str:
    """The arm that is meant where none is named (`leading_arm`), by the students that laws are fitted on."""
    kept, _ = _usable_rows({name: np.asarray(values) for name, values in table.items()}, len(arms))
    if "role" in table:
        kept &= np.asarray(table["role"], dtype=object) != "teacher"
    return leading_arm(map(str, arms[kept] if kept.any() else arms))


def _one_arm(
    table: Mapping[str, NDArray], keep: NDArray[np.bool_], asked: str | None
) -> tuple[str, NDArray[np.bool_], list[str]]:
    """The arm that is fitted, its rows, and what is said of the others."""
    if asked is not None:
        check_choice("arm", asked, ARMS)
    arms = arms_in(table)
    arm = asked or usual_arm({name: values[keep] for name, values in table.items()}, arms[keep])
    names, counts = np.unique(arms[keep], return_counts=True)
    by_arm = sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda each: arm_order(each[0]))
    others = ", ".join(f"{count} {each}" for each, count in by_arm if each != arm)
    if arm not in names:
        raise DataError(f"arm = {arm!r}: no rows of such starts; the table has: {others}")
    how = "--arm" if set(names) <= set(ARMS) else "--arm, or --where init=WORD"
    notes = [f"only {arm} students; rows of other starts left out ({others}; {how})"] if others else []
    if arm != "fresh" and not others:
        notes = [f"all students are {arm}: the law holds for such starts"]
    return arm, arms == arm, notes


def _groups(
    column: str | None, table: Mapping[str, NDArray], index: NDArray, numbers: Mapping[str, Array]
) -> NDArray[np.int64]:
    """Group codes; exact copies of a row are one run even where no column says so."""
    labels: NDArray = _fingerprint(numbers)
    if column is not None:
        missing = [v is None or v == "" or (isinstance(v, float) and np.isnan(v)) for v in table[column][index]]
        named = zip(index, table[column][index], missing, strict=True)
        labels = np.array([f"row {i}" if none else str(value) for i, value, none in named])
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _remarks(
    table: Mapping[str, NDArray],
    index: NDArray,
    found: Mapping[str, str | None],
    numbers: Mapping[str, Array],
    *,
    are_cells: bool,
) -> list[str]:
    notes = []
    copies = len(index) - _num_distinct(_fingerprint(numbers))
    if copies:
        notes.append(f"{copies} rows are exact copies of another row (same size, tokens and loss)")
    if not are_cells and found["group"] is None and len(index) > _num_distinct(numbers["params"]) * 1.5:
        notes.append(
            "rows are taken as independent runs; if several are checkpoints of one run, name it with --group COLUMN "
            "(intervals are too short otherwise)"
        )
    taught = index[np.isfinite(numbers["teacher_loss"]) | np.isfinite(numbers["teacher_params"])]
    for name in ("lambda", "temperature", "init"):  # without a teacher there is nothing to weigh
        values = {str(v) for v in np.asarray(table[name], dtype=object)[taught]} if name in table else set()
        values -= {"nan", "None", ""}
        if len(values) > 1:
            notes.append(f"rows mix {name} = {', '.join(sorted(values))}; the law holds for one value of it")
    return notes


def split_by_teacher(rows: Observations) -> tuple[Observations, Observations]:
    """(rows without a teacher, rows with one)."""
    taught = np.isfinite(rows.teacher_loss)
    return rows.rows(~taught), rows.rows(taught)


def with_measured_supervised(students: Observations, plain: Observations) -> Observations:
    """Fill a missing Ltilde_S with the mean loss of the no-teacher rows of the same (params, tokens)."""
    if not len(plain):
        return students
    known: dict[tuple[float, float], list[float]] = {}
    for N, D, L in zip(plain.params, plain.tokens, plain.loss, strict=True):
        known.setdefault((N, D), []).append(L)
    measured = [
        s if np.isfinite(s) else float(np.mean(known.get((N, D), [np.nan])))
        for N, D, s in zip(students.params, students.tokens, students.supervised_loss, strict=True)
    ]
    return replace(students, supervised_loss=np.array(measured, dtype=np.float64))


def require_variation(rows: Observations, names: Sequence[str]) -> None:
    """Refuse a column that never changes where the law needs it to, and losses that are all the same.

    Raises:
        DataError: names the column, its value, and what to add.
    """
    for name in names:
        values = getattr(rows, name)
        if len(values) > 1 and values.max() <= values.min() * (1 + 1e-9):
            raise DataError(
                f"{name} is {values[0]:.6g} in all {len(rows)} rows; its effect cannot be fitted. "
                f"Add runs with another {name} (at least a factor 4 apart)"
            )
    low, high = float(rows.loss.min()), float(rows.loss.max())
    if high <= low * (1 + 1e-12):
        raise DataError(
            f"loss is {low:.6g} in all {len(rows)} rows; nothing can be fitted to it. Is it the right column? Name it "
            f"with --columns loss=COLUMN"
        )


_IDENTITY = ("params", "tokens", "loss", "teacher_loss", "teacher_params")
_ODD = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F],
    dtype=np.uint64,
)
"""Odd multipliers of known hashes (splitmix64, xxHash, wyhash)."""


def _num_distinct(values: NDArray) -> int:
    """Number of different values; a sort is many times faster than numpy's table of hashes where most differ."""
    ordered = np.sort(values)
    return int(len(values) > 0) + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _fingerprint(numbers: Mapping[str, Array]) -> NDArray[np.uint64]:
    """One 64-bit number per row that equal rows share: a sort of it is cheap for a million rows."""
    total = np.zeros(len(numbers["loss"]), dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        for name, odd in zip(_IDENTITY, _ODD, strict=True):
            bits = np.nan_to_num(numbers[name], nan=-1.0).view(np.uint64)
            total = (total ^ (bits * odd)) * odd
            total ^= total >> np.uint64(29)
    return total


def _to_non_embedding(
    rows: Observations,
    table: Mapping[str, NDArray],
    found: Mapping[str, str | None],
    embedding: Embedding,
    *,
    needed: bool,
) -> Observations:
    """The rows with non-embedding counts, and a note that says what was subtracted.

    Where the law does not depend on the teachers' sizes (`needed`) and their width is not known, these are set aside
    rather than left in the other convention.

    Raises:
        ConfigError: the rows are not totals, or no column holds the width.
        DataError: a width is missing or not positive.
        UnitError: a count is smaller than its embedding, or the teachers' width is needed and not there.
    """
    if rows.convention != "total":
        raise ConfigError("vocab: only total parameters are converted; add --params-convention total")
    if found["width"] is None:
        raise ConfigError(
            f"width: no column with the model width; the table has: {', '.join(table)}. Say --width COLUMN"
        )

    def left(width: str, name: str, index: NDArray) -> Array:
        try:
            widths = read_numbers(width, found[width], table, rows.row[index], needed=True)
        except DataError as error:
            raise DataError(f"{error}. The width of every model is needed to convert its parameters") from None
        total = getattr(rows, name)[index]
        rest = total - embedding.matrices * embedding.vocab * widths
        if (rest <= 0).any():
            i = int((rest <= 0).argmax())
            raise UnitError(
                f"{name} in row {int(rows.row[index][i]) + 1}: {total[i]:.4g} parameters are fewer than the embedding "
                "(vocabulary x width); the column does not hold total parameters, or --vocab is wrong"
            )
        return rest

    times = "" if embedding.matrices == 1 else "2 x "
    params, teachers = left("width", "params", np.arange(len(rows))), rows.teacher_params.copy()
    notes = [f"parameters are non-embedding: total - {times}{embedding.vocab:.0f} x {found['width']}"]
    known, column = np.flatnonzero(np.isfinite(teachers)), found["teacher_width"]
    if len(known) and column is not None:
        teachers[known] = left("teacher_width", "teacher_params", known)
        notes.append(f"teacher_params likewise, from {column}")
    elif len(known) and needed:
        raise UnitError(
            "teacher_params are total parameters too, and no column holds the teachers' width: say --teacher-width "
            "COLUMN, give teacher_params without the embedding and --params-convention non-embedding, or fit all in "
            "totals (leave --vocab out)"
        )
    elif len(known):
        teachers[:] = np.nan
        notes.append(
            "teacher_params are set aside: this law does not use them, and without --teacher-width they would stay "
            "total parameters"
        )
    convention = {"convention": "non-embedding", "notes": (*notes, *rows.notes)}
    return replace(rows, params=params, teacher_params=teachers, **convention)


_ALIASES = {
    "params": ("params", "student_params", "n", "non_embedding_params"),
    "tokens": ("tokens", "student_tokens", "d"),
    "loss": ("loss", "student_loss", "final_loss", "val_loss"),
    "teacher_loss": ("teacher_loss",),
    "supervised_loss": ("supervised_loss",),
    "teacher_params": ("teacher_params",),
    "loss_se": ("loss_se",),
    "group": ("group", "run_name", "trunk"),
    "weight": ("weight",),
    "width": ("width",),
    "teacher_width": ("teacher_width",),
}
_UNITS = {"nats": 1.0, "bits": float(np.log(2)), "bits-per-byte": 1.0, "bits-per-character": 1.0}
"""Nats in one of a table's units; what is not of a token is fitted as it is."""
_OTHER_UNIT_WORDS = ("bit", "bpb", "bpc", "ppl", "perplexity")


def as_column(name: object, values: ArrayLike) -> NDArray:
    """The values as a one-dimensional array."""
    column = np.asarray(values)
    if column.ndim != 1:
        raise DataError(f"column {name!r} has shape {column.shape}; each column must be one-dimensional")
    return column


def match_columns(table: Mapping, columns: Mapping[str, str], group: str | None) -> dict[str, str | None]:
    """Our names to the columns of the table, by what was asked or by known aliases."""
    known = {"student_params": "params", "student_tokens": "tokens", "student_loss": "loss"}
    wanted = {known.get(name, name): column for name, column in columns.items()}
    for name, column in wanted.items():
        if name not in _ALIASES:
            raise ConfigError(
                f"columns: unknown name {name!r}{did_you_mean(name, _ALIASES)}; known: {', '.join(_ALIASES)}"
            )
        if column not in table:
            raise DataError(f"no column {column!r}{did_you_mean(column, table)}; the table has: {', '.join(table)}")
    if group is not None and group.lower() != "none":
        if group not in table:
            raise DataError(
                f"group: no column {group!r}{did_you_mean(group, table)}; the table has: {', '.join(table)}"
            )
        wanted["group"] = group
    lowered = {column.lower(): column for column in reversed(list(table))}
    found: dict[str, str | None] = {}
    for name, aliases in _ALIASES.items():
        found[name] = wanted.get(name) or next((lowered[alias] for alias in aliases if alias in lowered), None)
    if group is not None and group.lower() == "none":
        found["group"] = None
    for name in ("params", "tokens", "loss"):
        if found[name] is None:
            total = name == "params" and "total_params" in lowered
            hint = ". total_params counts the embedding too: add --params-convention total" if total else ""
            raise DataError(
                f"no column for {name}; the table has: {', '.join(table)}. Say which it is with "
                f"--columns {name}=COLUMN (Python: columns={{'{name}': 'COLUMN'}}){hint}"
            )
    return found


def unit_scale(loss_column: str | None, table: Mapping[str, NDArray], unit: str | None) -> float:
    """Factor from the table's losses to the unit that is fitted; refused where the unit is not clear."""
    if unit is not None and unit not in _UNITS:
        raise ConfigError(f"unit: unknown {unit!r}{did_you_mean(unit, _UNITS)}; known: {', '.join(_UNITS)}")
    for name in ("loss_unit", "unit", "params_convention", "tokenizer"):
        values = {str(v) for v in table.get(name, ())}
        if len(values) > 1:
            raise UnitError(f"column {name!r} mixes {', '.join(sorted(values))}; fit one at a time, or convert first")
    stated = {str(v).lower() for name in ("loss_unit", "unit") for v in table.get(name, ())} - {"nats", "nats/token"}
    looks_other = any(word in (loss_column or "").lower() for word in _OTHER_UNIT_WORDS) or stated
    if looks_other and unit is None:
        raise UnitError(
            f"column {loss_column!r} does not look like nats per token{f' (unit {stated.pop()})' if stated else ''}. "
            f"Say --unit bits (converted), --unit bits-per-byte or --unit bits-per-character (fitted as they are), "
            f"or --unit nats if it is nats after all"
        )
    return _UNITS[unit or "nats"]


def read_numbers(name: str, column: str | None, table: Mapping[str, NDArray], index: NDArray, *, needed: bool) -> Array:
    """The column as positive finite floats, NaN where it is absent or not needed and empty; a bad cell is named."""
    if column is None:
        return np.full(len(index), np.nan)
    raw = table[column][index]
    try:
        values = np.array([np.nan if v is None else v for v in raw] if raw.dtype == object else raw, dtype=np.float64)
    except (TypeError, ValueError):
        for i, v in zip(index, raw, strict=True):
            try:
                float(v if v is not None else "nan")
            except (TypeError, ValueError):
                raise DataError(
                    f"{_place(name, column, i)} is {str(v)!r}, which is not a number; write plain numbers such as "
                    f"140000000 or 1.4e8, and correct or remove that row"
                ) from None
        raise
    with np.errstate(invalid="ignore"):
        usable = (values > 1 / LARGEST if needed else values >= 0) & (values < LARGEST)
    bad = ~usable if needed else ~np.isnan(values) & ~usable
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        more = f" ({int(bad.sum()) - 1} more like it)" if bad.sum() > 1 else ""
        raise DataError(
            f"{_place(name, column, index[i])} is {values[i]}; it must be positive and finite (below {LARGEST:g})"
            f"{more}. Correct or remove that row"
        )
    return values


def _place(name: str, column: str, i: int) -> str:
    what = name if name == column else f"{name} (column {column!r})"
    return f"{what} in row {int(i) + 1} (index {int(i)})"


def read_weights(
    weights: ArrayLike | None, column: str | None, table: Mapping[str, NDArray], index: NDArray, size: int
) -> Array:
    """Weights with mean 1 from the argument, the column, or none."""
    if weights is not None:
        given = as_column("weights", weights)
        if len(given) != size:
            raise DataError(f"weights: {len(given)} values for {size} rows")
        table, column = {"weights": given}, "weights"
    if column is None:
        return np.ones(len(index))
    values = read_numbers("weight", column, table, index, needed=True)
    return values / values.mean()
