"""Names beside points: on no other name, no point, no line."""

import itertools

import numpy as np

from distillaw.figures.frontiers import place_labels

LETTER = (0.01, 0.036)


def boxes(labels):
    for label in labels:
        width = len(label.text) * LETTER[0]
        left = label.x - {"left": 0, "right": width, "center": width / 2}[label.side]
        yield left, label.y - LETTER[1] / 2, left + width, label.y + LETTER[1] / 2


def test_no_name_lies_on_another_or_on_a_point():
    spots = [tuple(spot) for spot in np.random.default_rng(0).uniform(0.05, 0.95, (40, 2))]
    found = [label for label in place_labels([f"model-{i}" for i in range(40)], spots, line=[], letter=LETTER) if label]
    assert 15 < len(found) < 40  # what has no room is left out
    for a, b in itertools.combinations(boxes(found), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for left, low, right, high in boxes(found):
        assert not any(left < x < right and low < y < high for x, y in spots)


def test_a_name_gives_way_to_the_line_and_to_the_edge():
    (free,) = place_labels(["name"], [(0.5, 0.5)], line=[], letter=LETTER)
    (beside,) = place_labels(["name"], [(0.5, 0.5)], line=[(0.5, 0.5), (1.0, 0.5)], letter=LETTER)
    (edge,) = place_labels(["name"], [(0.99, 0.5)], line=[], letter=LETTER)
    assert (free.side, beside.side, edge.side) == ("left", "right", "right")
