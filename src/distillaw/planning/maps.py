"""Maps of a plan as arrays: axes with units, named layers, where the laws were fitted, and how it was computed.

    gain           supervised minus distilled loss on equal tokens, over student size x tokens
    teacher        the best teacher at a compute budget, over student size x compute, for one cost scenario
    allocation     shares of the compute for student, logits and teacher, over compute, for one student

Means are over the laws of an ensemble; where it matters the lowest and the highest law are kept too. The figures of
arXiv 2502.08606v2 of these kinds are its 4 and 18-34. Files: `NAME.csv` for people, `NAME.npz` for programs,
`NAME.json` with what the numbers mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.accounting.scenarios import Scenario
from distillaw.errors import ConfigError
from distillaw.laws.base import Array, Mask, log_positive
from distillaw.planning.map_grid import (
    TOLERANCE,
    Budget,
    GridCells,
    GridLosses,
    Laws,
    TeacherField,
    Terms,
    grid_losses,
    teacher_field,
)
from distillaw.planning.optimum import OptimalPlan
from distillaw.quantities import format_count
from distillaw.runs.files import write_json, write_with
from distillaw.runs.places import claim_folder

_ROWS = 65_536
"""Cells turned into text at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """An axis or a layer of a map."""

    name: str
    label: str
    """As people read it."""
    unit: str
    values: Array
    """Of an axis; of a layer in the shape of the map, nan where there is no answer."""

    @classmethod
    def of(cls, name: str, values: Array) -> "Quantity":
        """One of `_QUANTITIES`."""
        label, unit = _QUANTITIES[name]
        return cls(name=name, label=label, unit=unit, values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridMap:
    """A map: what was asked, the answers over its axes, and their standing."""

    kind: str
    """gain, teacher or allocation."""
    title: str
    x: Quantity
    y: Quantity | None = None
    layers: Mapping[str, Quantity]
    inside_range: Mask
    """True where student, tokens and teacher loss lie in the range in which the laws were fitted."""
    beyond: Mask
    """True where `plan` decides nothing by these laws: too far outside, or too few tokens per parameter."""
    meta: Mapping[str, object]
    """Laws, scenario, assumptions, how it was computed; plain JSON values."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns), or (columns,)."""
        return self.inside_range.shape

    def __getitem__(self, name: str) -> Array:
        """The values of a layer."""
        return self.layers[name].values

    def to_csv(self, path: Path) -> None:
        """One line per cell, written atomically: coordinates, layers, inside_range as 0 or 1."""
        columns: dict[str, NDArray] = {}
        if self.y is not None:
            columns[self.y.name] = np.broadcast_to(self.y.values[:, None], self.shape)
        columns[self.x.name] = np.broadcast_to(self.x.values, self.shape)
        columns |= {name: layer.values for name, layer in self.layers.items()}
        columns["inside_range"] = self.inside_range.astype(float)
        table = np.stack([values.ravel() for values in columns.values()], axis=1)

        def write(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8") as stream:
                stream.write(",".join(columns) + "\n")
                line = ",".join(["%.8g"] * len(columns)) + "\n"
                for start in range(0, len(table), _ROWS):
                    part = table[start : start + _ROWS]
                    stream.write((line * len(part)) % tuple(part.ravel().tolist()))

        write_with(path, write)

    def to_npz(self, path: Path) -> None:
        """The arrays at full precision, written atomically."""
        arrays: dict[str, NDArray] = {name: layer.values for name, layer in self.layers.items()}
        arrays |= {axis.name: axis.values for axis in (self.x, self.y) if axis is not None}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                np.savez_compressed(stream, allow_pickle=False, inside_range=self.inside_range, **arrays)

        write_with(path, write)

    def to_json(self) -> dict[str, object]:
        """Everything but the values of the cells."""
        axes = {
            role: {
                "name": axis.name,
                "unit": axis.unit,
                "label": axis.label,
                "log": True,
                "first": float(axis.values[0]),
                "last": float(axis.values[-1]),
                "count": len(axis.values),
            }
            for role, axis in (("x", self.x), ("y", self.y))
            if axis is not None
        }
        layers = {name: {"label": x.label, "unit": x.unit} | _span(x.values) for name, x in self.layers.items()}
        inside = float(self.inside_range.mean())
        return {
            "kind": self.kind,
            "title": self.title,
            "axes": axes,
            "layers": layers,
            "share_inside_range": inside,
            "share_beyond": float(self.beyond.mean()),
            **self.meta,
        }

    def save(self, folder: Path) -> list[Path]:
        """CSV, arrays and meta data in a folder; returns the files."""
        claim_folder(folder)
        files = [folder / f"{self.name}.{ending}" for ending in ("csv", "npz", "json")]
        self.to_csv(files[0])
        self.to_npz(files[1])
        write_json(files[2], self.to_json())
        return files

    @property
    def name(self) -> str:
        """Name of its files."""
        variant = self.meta.get("scenario") or self.meta.get("variant")
        return f"{self.kind}-{variant}" if variant else self.kind


def _span(values: Array) -> dict[str, float | None]:
    known = values[np.isfinite(values)]
    return {"lowest": float(known.min()) if known.size else None, "highest": float(known.max()) if known.size else None}


_NATS, _PARAMS, _SHARE = "nats/token", "non-embedding parameters", "share of compute"
_QUANTITIES = {
    "student_params": ("student parameters", _PARAMS),
    "student_tokens": ("student tokens", "tokens"),
    "compute": ("compute", "FLOP"),
    "teacher_params": ("teacher parameters", _PARAMS),
    "teacher_tokens": ("teacher tokens", "tokens"),
    "teacher_loss": ("teacher loss", _NATS),
    "supervised_loss": ("loss without a teacher", _NATS),
    "student_loss": ("distilled loss", _NATS),
    "gain": ("gain of distilling", _NATS),
    "gain_lowest": ("gain under the lowest law", _NATS),
    "gain_highest": ("gain under the highest law", _NATS),
    "student_share": ("student training", _SHARE),
    "logits_share": ("teacher logits", _SHARE),
    "teacher_share": ("teacher training", _SHARE),
}
"""Name of an axis or a layer -> label and unit."""
_PLAN = ("teacher_loss", "teacher_params", "teacher_tokens", "student_tokens")
_SHARES = ("student_share", "logits_share", "teacher_share")


def _layers(values: Mapping[str, Array]) -> dict[str, Quantity]:
    return {name: Quantity.of(name, array) for name, array in values.items()}


_FREE = Terms(scenario=Scenario.BEST_CASE)
_NODES_FREE, _NODES_PAID = 33, 19
"""Optima solved along each axis of a map: searches along a path are five times as fast as those of the plane."""


def gain_map(
    laws: Laws,
    *,
    student_params: ArrayLike,
    student_tokens: ArrayLike,
    teacher_loss: float | None = None,
    teacher: tuple[float, float] | None = None,
    terms: Terms = _FREE,
) -> GridMap:
    """How much a student gains by distillation, trained on the same tokens; no cost of the teacher is counted.

    Args:
        laws: laws to consult.
        student_params: N_S of the rows, ascending.
        student_tokens: D_S of the columns, ascending.
        teacher_loss: L_T of a given teacher, nats/token; or the next.
        teacher: (N_T, D_T) of a given one, whose loss each law estimates. Neither: the best teacher of each cell.
        terms: which teachers are allowed, and by whose FLOP the cheapest of the best loss is found.

    Raises:
        ConfigError: both a loss and a size, or a loss that no law lets a teacher reach.
    """
    if teacher_loss is not None and teacher is not None:
        raise ConfigError("give the teacher's loss or its size and tokens, not both")
    floor = float(laws.ensemble.irreducible.max())
    if teacher_loss is not None and teacher_loss <= floor:
        raise ConfigError(
            f"teacher loss {teacher_loss:.4g} is at or below {floor:.4g}, the irreducible loss of these laws: no "
            "teacher gets there. Give nats per token on the student's text, or a law fitted on that text (--law)"
        )
    n, d = _log_axis("student_params", student_params), _log_axis("student_tokens", student_tokens)
    if teacher_loss is None and teacher is None:
        budget = replace(terms, scenario=Scenario.BEST_CASE).budget(laws.ensemble, float(np.exp(n[0])))
        best = _best_case_field(replace(budget, min_student_tokens=float(np.exp(d[0])) / 2), n, d)
        chosen, words, meta = {"teacher_n": best.n, "teacher_d": best.d}, "the best teacher", _how(best)
    else:
        chosen, words = _given_teacher(teacher_loss, teacher)
        meta = {"variant": "given-teacher"}
    cells = {"n": n[:, None], "d": d[None], **chosen}
    losses = grid_losses(laws.ensemble, GridCells(**cells))
    teacher_layer = np.broadcast_to(losses.teacher, losses.student.shape)
    N, D = np.exp(n)[:, None], np.exp(d)[None]
    return GridMap(
        kind="gain",
        title=f"Gain of distilling from {words}",
        layers=_layers(_gains(losses) | {"teacher_loss": teacher_layer}),
        meta=laws.meta | meta | {"comparison": "equal tokens", "teacher": words},
        x=Quantity.of("student_tokens", D[0]),
        y=Quantity.of("student_params", N[:, 0]),
        inside_range=laws.inside(N, D, teacher_layer),
        beyond=laws.beyond(N, D, teacher_layer),
    )


def _given_teacher(loss: float | None, teacher: tuple[float, float] | None) -> tuple[dict[str, Array], str]:
    """One teacher for all cells, and what to call it."""
    if loss is not None:
        log_loss = log_positive("teacher_loss", loss).reshape(1, 1)
        return {"teacher_loss": log_loss}, f"a teacher of {loss:g} nats/token"
    assert teacher is not None
    n = log_positive("teacher_params", teacher[0]).reshape(1, 1)
    d = log_positive("teacher_tokens", teacher[1]).reshape(1, 1)
    words = f"a {format_count(teacher[0])} teacher of {format_count(teacher[1])} tokens"
    return {"teacher_n": n, "teacher_d": d}, words


def teacher_map(laws: Laws, *, student_params: ArrayLike, compute: ArrayLike, terms: Terms) -> GridMap:
    """The best teacher of each student at each budget: loss, size, tokens, and what it brings.

    Args:
        laws: laws to consult.
        student_params: N_S of the rows, ascending.
        compute: C of the columns, FLOP, ascending.
        terms: who pays for what, and which teachers are allowed.
    """
    n, c = _log_axis("student_params", student_params), _log_axis("compute", compute)
    N, C = np.exp(n)[:, None], np.exp(c)[None]
    budget = terms.budget(laws.ensemble, float(N[0, 0]))
    nodes = _NODES_PAID if terms.shares.delta_pre else _NODES_FREE
    best = teacher_field(lambda y, x: budget.solve(np.exp(y), np.exp(x)), budget.loss, n, c, nodes=nodes)
    tokens, parts = budget.divide(N, C, best.n, best.d)
    is_paid = np.isfinite(tokens)
    cells = GridCells(
        n=n[:, None],
        d=np.log(np.where(is_paid, tokens, 1.0)),
        supervised=np.log(C / budget.training(N)),
        teacher_n=best.n,
        teacher_d=best.d,
    )
    losses = grid_losses(laws.ensemble, cells)
    plan = dict(zip(_PLAN, (losses.teacher, np.exp(best.n), np.exp(best.d), tokens), strict=True))
    values = {**plan, **parts, **_gains(losses)}
    return GridMap(
        kind="teacher",
        title="The best teacher at a compute budget",
        layers=_layers({name: np.where(is_paid, layer, np.nan) for name, layer in values.items()}),
        meta=laws.meta | terms.meta | {"comparison": "equal compute"} | _how(best),
        x=Quantity.of("compute", C[0]),
        y=Quantity.of("student_params", N[:, 0]),
        inside_range=laws.inside(N, np.where(is_paid, tokens, 1.0), losses.teacher) & is_paid,
        beyond=laws.beyond(N, np.where(is_paid, tokens, 1.0), losses.teacher) & is_paid,
    )


def allocation_map(laws: Laws, *, student_params: float, compute: ArrayLike, terms: Terms) -> GridMap:
    """What the compute goes into at each budget, for one student; every budget is solved exactly.

    Args:
        laws: laws to consult.
        student_params: N_S.
        compute: C, FLOP, ascending.
        terms: who pays for what, and which teachers are allowed.
    """
    C = np.exp(_log_axis("compute", compute))
    plan = terms.budget(laws.ensemble, student_params).solve(np.asarray(student_params), C, by_law=True)
    assert plan.student_loss_by_law is not None and plan.supervised_loss_by_law is not None
    gain = plan.supervised_loss_by_law - plan.student_loss_by_law
    losses = GridLosses(
        teacher=plan.teacher_loss,
        student=plan.student_loss,
        supervised=plan.supervised_loss,
        lowest_gain=gain.min(0),
        highest_gain=gain.max(0),
    )
    asked = {"student_params": float(student_params), "comparison": "equal compute"}
    tokens, teacher = (np.where(plan.is_feasible, v, 1.0) for v in (plan.student_tokens, plan.teacher_loss))
    return GridMap(
        kind="allocation",
        title="What the compute goes into",
        layers=_layers({name: getattr(plan, name) for name in (*_PLAN, *_SHARES)} | _gains(losses)),
        inside_range=laws.inside(plan.student_params, tokens, teacher) & plan.is_feasible,
        beyond=laws.beyond(plan.student_params, tokens, teacher) & plan.is_feasible,
        meta=laws.meta | terms.meta | asked,
        x=Quantity.of("compute", C),
    )


def _best_case_field(budget: Budget, n: Array, d: Array) -> TeacherField:
    """The best teacher of students ln N_S on tokens ln D_S, where teachers cost nothing."""

    def solve(y: Array, x: Array) -> OptimalPlan:
        return budget.solve(np.exp(y), budget.training(np.exp(y)) * np.exp(x))

    def loss(y: Array, x: Array, n_t: Array, d_t: Array) -> Array:
        return grid_losses(budget.ensemble, GridCells(n=y, d=x, teacher_n=n_t, teacher_d=d_t)).student

    return teacher_field(solve, loss, n, d, nodes=_NODES_FREE)


def _gains(losses: GridLosses) -> dict[str, Array]:
    return {
        "gain": losses.supervised - losses.student,
        "gain_lowest": losses.lowest_gain,
        "gain_highest": losses.highest_gain,
        "student_loss": losses.student,
        "supervised_loss": losses.supervised,
    }


def _how(best: TeacherField) -> dict[str, object]:
    """How the teachers of a map were found."""
    if not best.largest_error and best.solved == best.n.size:
        return {"method": "every cell solved"}
    of = (
        "excess of the loss over the exact optimum in the middle of every mesh, where it is at most "
        f"{TOLERANCE:g}; others take the best of the exact teachers around, and sampled cells are checked"
    )
    return {
        "method": "optima solved on a coarse grid, teachers joined by cubic splines, losses evaluated exactly",
        "optima_solved": best.solved,
        "largest_relative_error": best.largest_error,
        "error_is": of,
        "share_of_cells_not_interpolated": float(best.jumps.mean()),
        "largest_relative_error_of_those": best.largest_error_at_jumps,
    }


def _log_axis(name: str, values: ArrayLike) -> Array:
    """Logs of ascending values.

    Raises:
        ConfigError: fewer than two, or not ascending.
    """
    x = np.atleast_1d(log_positive(name, values))
    if x.ndim != 1 or len(x) < 2 or not (np.diff(x) > 0).all():
        raise ConfigError(f"{name}: a map needs at least two values in ascending order, got {len(x)}")
    return x
