"""Names beside points that lie on no other name, no point and no line; a name without room is left out.

Everything is in fractions of the axes: (0, 0) is the lower left corner, (1, 1) the upper right one.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Spot = tuple[float, float]
GAP = 0.014
"""Between a point and its name."""
POINT = 0.009
"""Half the size of a point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A name with its place."""

    text: str
    x: float
    y: float
    side: str
    """Which of its sides lies at x: left, right or center."""


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def holds(self, spot: Spot) -> bool:
        return self.left < spot[0] < self.right and self.bottom < spot[1] < self.top


def place_labels(
    names: Sequence[str],
    spots: Sequence[Spot],
    *,
    line: Sequence[Spot],
    letter: Spot,
    keep_off: Sequence[Spot] = (),
) -> list[Label | None]:
    """A place for each name, the first names first; None where there is none.

    Args:
        names: in order of importance.
        spots: the points they belong to.
        line: corners of a line that no name may lie on.
        letter: (width of a letter, height of a line of text).
        keep_off: lower left and upper right corner of a rectangle that is taken, e.g. by the legend.
    """
    points = [_Box(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in spots]
    taken = [_Box(*keep_off[0], *keep_off[1])] if keep_off else []
    inked = list(_along(line))
    found: list[Label | None] = []
    for name, (x, y) in zip(names, spots, strict=True):
        for label, box in _places(name, x, y, letter):
            if not (any(map(box.meets, points)) or any(map(box.meets, taken)) or any(map(box.holds, inked))):
                taken.append(box)
                found.append(label)
                break
        else:
            found.append(None)
    return found


def _places(name: str, x: float, y: float, letter: Spot) -> Iterator[tuple[Label, _Box]]:
    """Right, left, above, below and the corners between, as far as they are inside the axes."""
    width, height = len(name) * letter[0], letter[1]
    for dy in (0.0, height, -height):
        for side, left in (("left", x + GAP), ("right", x - GAP - width), ("center", x - width / 2)):
            box = _Box(left, y + dy - height / 2, left + width, y + dy + height / 2)
            if box.left >= 0 and box.right <= 1.02 and box.bottom >= 0 and box.top <= 1:
                at = {"left": left, "right": left + width, "center": x}[side]
                yield Label(text=name, x=at, y=y + dy, side=side), box


def _along(line: Sequence[Spot], steps: int = 60) -> Iterator[Spot]:
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        for i in range(steps + 1):
            yield x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps
