"""What every kind of language can do, and the few pieces of probability that they share.

A language speaks words 0 .. words - 1 for ever, stationary from the first one, so that a reader who begins anywhere
knows as much as one who begins at the start of a document. Documents, their ends and positions are world.py's.
Shape suffixes: N row, S state, W word, D draw, L word of a document.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]


class Language(Protocol):
    """Samples documents, and knows the distribution of the next word exactly.

    What a reader knows (`knowledge`) is the language's own matter: an array or a record with one row per reader.
    """

    words: int

    @property
    def flops_per_observation(self) -> float:
        """Floating-point operations of one `observe` and `predict`, per row."""
        ...

    def draws(self, length: int) -> int:
        """Uniform numbers that a document of `length` words takes."""
        ...

    def sample(self, uniforms_ND: Floats, length: int) -> NDArray[np.int64]:
        """Documents (N, length) from uniform numbers in [0, 1)."""
        ...

    def start(self, rows: int) -> Any:
        """Knowledge of readers who have read nothing."""
        ...

    def observe(self, knowledge: Any, words_N: Ints) -> Any:
        """Knowledge after one more word each.

        A word that is none (>= words), or one that the language cannot say there, makes a reader start afresh.
        """
        ...

    def predict(self, knowledge: Any) -> Floats:
        """Exact probabilities of the next word, (N, W)."""
        ...

    def read(self, words_NT: Ints) -> Floats:
        """What `predict` gives after each word of whole sequences, (N, T, W)."""
        ...


class RowSampler:
    """Draws from one of many distributions per number, by inverse cumulative distributions laid end to end."""

    def __init__(self, probs_RC: Floats) -> None:
        rows, self._columns = probs_RC.shape
        cumulative_RC = probs_RC.cumsum(axis=1)
        cumulative_RC /= cumulative_RC[:, -1:]
        self._cumulative = (cumulative_RC + np.arange(rows)[:, None]).ravel()

    def __call__(self, row_N: Ints, uniform_N: Floats) -> NDArray[np.int64]:
        """Column drawn for each row index; a column of probability 0 is never drawn."""
        below_next = np.nextafter(row_N + 1.0, 0.0)
        found_N = np.searchsorted(self._cumulative, np.minimum(row_N + uniform_N, below_next), side="right")
        return found_N - row_N * self._columns


def stationary(transition_SS: Floats) -> Floats:
    """The distribution that a step leaves as it is, (S,); of an irreducible chain."""
    count = len(transition_SS)
    system_SS = transition_SS.T - np.eye(count)
    system_SS[-1] = 1  # its rows sum to 0: one of them gives way to "the whole is 1"
    solution_S = np.linalg.solve(system_SS, np.eye(count)[-1]).clip(min=0)
    return solution_S / solution_S.sum()


def entropy(probs: Floats) -> Floats:
    """Entropy of the last axis, nats."""
    return -np.sum(np.where(probs > 0, probs * np.log(np.where(probs > 0, probs, 1)), 0), axis=-1)


def with_entropy(scores_RC: Floats, nats: float, weights_R: Floats | None = None) -> Floats:
    """Rows softmax(scale * scores) whose mean entropy is `nats`, within 1e-9; the scale is found by bisection.

    Args:
        scores_RC: any finite numbers, all different within a row.
        nats: wanted mean, in (0, ln C].
        weights_R: weights of the mean, summing to 1; equal ones if None.
    """
    weights_R = np.full(len(scores_RC), 1 / len(scores_RC)) if weights_R is None else weights_R

    def rows(scale: float) -> Floats:
        return softmax(scale * scores_RC)

    scale = bisect(lambda scale: float(weights_R @ entropy(rows(scale))) - nats, 0.0, 1e4)
    return rows(scale)


def softmax(scores: Floats) -> Floats:
    """Probabilities along the last axis."""
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def bisect(falling: Callable[[float], float], low: float, high: float, *, steps: int = 60) -> float:
    """Where a falling function crosses 0 between low and high, or the nearer end if it does not."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
