"""Maps of a plan as arrays: axes with units, named layers, where the laws were fitted, and how it was computed.

A map has one axis (x) or two (rows y, columns x). What kinds there are and what they mean: `planning/map_kinds.py`.
Files: `NAME.csv` for people, `NAME.npz` for programs, `NAME.json` with what the numbers mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillaw.laws.base import Array, Mask
from distillaw.runs.files import write_json, write_with
from distillaw.runs.places import claim_folder

_ROWS = 65_536
"""Cells turned into text at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One coordinate of a map."""

    name: str
    label: str
    """As people read it."""
    unit: str
    values: Array
    is_log: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One quantity over a map."""

    label: str
    unit: str
    values: Array
    """Shape (rows, columns), or (columns,) for a map of one axis; nan where there is no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridMap:
    """A map: what was asked, the answers over its axes, and their standing."""

    kind: str
    """gain, teacher, allocation or teacher-size."""
    title: str
    x: Axis
    y: Axis | None = None
    layers: Mapping[str, Layer]
    inside_range: Mask
    """True where student, tokens and teacher loss lie in the range in which the laws were fitted."""
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
        columns = self._columns()
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
            role: {"name": axis.name, "unit": axis.unit, "label": axis.label, "log": axis.is_log,
                   "first": float(axis.values[0]), "last": float(axis.values[-1]), "count": len(axis.values)}
            for role, axis in (("x", self.x), ("y", self.y)) if axis is not None
        }  # fmt: skip
        layers = {
            name: {"label": x.label, "unit": x.unit} | _span(x.values) for name, x in self.layers.items()
        }
        inside = float(self.inside_range.mean())
        return {"kind": self.kind, "title": self.title, "axes": axes, "layers": layers,
                "share_inside_range": inside, **self.meta}  # fmt: skip

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

    def _columns(self) -> dict[str, NDArray]:
        """Coordinates, layers and the flag, each of the shape of the map."""
        coords: dict[str, NDArray] = {}
        if self.y is not None:
            coords[self.y.name] = np.broadcast_to(self.y.values[:, None], self.shape)
        coords[self.x.name] = np.broadcast_to(self.x.values, self.shape)
        layers = {name: layer.values for name, layer in self.layers.items()}
        return coords | layers | {"inside_range": self.inside_range.astype(float)}


def _span(values: Array) -> dict[str, float | None]:
    known = values[np.isfinite(values)]
    return {
        "lowest": float(known.min()) if known.size else None,
        "highest": float(known.max()) if known.size else None,
    }
