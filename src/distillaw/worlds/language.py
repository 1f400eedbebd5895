"""Languages whose exact next-word distribution is known: what each can do, hidden Markov models, nested clauses.

A language speaks words 0 .. words - 1 for ever, stationary from the first one, so that a reader who begins anywhere
knows as much as one who begins at the start of a document. Documents, their ends and positions are world.py's. Hidden
Markov models are predicted exactly by the forward filter (Rabiner 1989, section III.A):

    knowledge_t(s) = P(state at t + 1 is s | words up to t)
    observe x:       knowledge <- normalise(knowledge * emission[:, x]) @ transition      (sparse)
    predict:         knowledge @ emission

Everything is float64; a step normalises, so nothing underflows however long the text. A grammar of nested clauses,
bounded in depth, is such a model too:

    TEXT     -> CLAUSE(k) TEXT                        the kind k depends on that of the clause before
    CLAUSE(k) -> open(k) ITEM(k)* close(k)
    ITEM(k)  -> word(k, phase) | CLAUSE(j)            the kind j depends on k; not below the last depth

Words, opening and closing of a clause agree in its kind, so a reader must remember every clause that is still open.
Which clauses are open is the stack; a state is a stack and what was just said in its innermost clause. With the depth
bounded there are finitely many, and the forward filter is exact: no chart, no approximation.
Shape suffixes: N row, S state, W word, D draw, L word of a document, R table row, C choice.
"""

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distillaw.worlds.spec import GrammarSpec, HmmSpec

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


class HiddenMarkov:
    """A stationary hidden Markov model over words.

    What readers know is an array (S, N), so that the sparse product runs along its rows.
    """

    def __init__(self, transition_SS: Floats, emission_SW: Floats) -> None:
        from scipy.sparse import csr_array

        self.transition_SS, self.emission_SW = transition_SS, emission_SW
        self.start_S = stationary(transition_SS)
        self.states, self.words = emission_SW.shape
        self._arrivals_SS = csr_array(transition_SS.T)
        self._likelihood_SW = np.hstack([emission_SW, np.zeros((self.states, 1))])  # the last column: no word
        self._next_state, self._next_word = RowSampler(transition_SS), RowSampler(emission_SW)
        self._first_state = RowSampler(self.start_S[None])

    @property
    def flops_per_observation(self) -> float:
        """A sparse product and one with the emissions, per row."""
        return 2.0 * (self._arrivals_SS.nnz + self.states * self.words)

    def draws(self, length: int) -> int:
        """One for the state and one for the word, of each word."""
        return 2 * length

    def sample(self, uniforms_ND: Floats, length: int) -> NDArray[np.int64]:
        """Documents (N, length) from uniform numbers in [0, 1)."""
        uniforms_LCN = np.ascontiguousarray(
            uniforms_ND[:, : 2 * length].reshape(-1, length, 2).transpose(1, 2, 0)
        )
        words_LN = np.empty((length, len(uniforms_ND)), dtype=np.int64)
        state_N = self._first_state(np.zeros(len(uniforms_ND), dtype=np.int64), uniforms_LCN[0, 0])
        for at, (for_state_N, for_word_N) in enumerate(uniforms_LCN):
            if at:
                state_N = self._next_state(state_N, for_state_N)
            words_LN[at] = self._next_word(state_N, for_word_N)
        return words_LN.T

    def start(self, rows: int) -> Floats:
        """Knowledge of readers who have read nothing: (S, N)."""
        return np.tile(self.start_S[:, None], (1, rows))

    def observe(self, knowledge: Floats, words_N: Ints) -> Floats:
        """Knowledge after one more word each; no word, or an impossible one, starts afresh."""
        filtered_SN = np.take(self._likelihood_SW, np.minimum(words_N, self.words), axis=1)
        filtered_SN *= knowledge
        total_N = filtered_SN.sum(axis=0)
        afresh_N = total_N <= 0
        filtered_SN /= np.where(afresh_N, 1, total_N)
        after_SN = self._arrivals_SS @ filtered_SN
        after_SN[:, afresh_N] = self.start_S[:, None]
        return after_SN

    def predict(self, knowledge: Floats) -> Floats:
        """Exact probabilities of the next word, (N, W)."""
        return knowledge.T @ self.emission_SW

    def read(self, words_NT: Ints) -> Floats:
        """Exact probabilities of the word after each position, (N, T, W)."""
        knowledge, known = self.start(len(words_NT)), []
        for words_N in words_NT.T:
            knowledge = self.observe(knowledge, words_N)
            known.append(knowledge)
        return np.ascontiguousarray(np.stack(known).transpose(2, 0, 1)) @ self.emission_SW


def random_hmm(spec: HmmSpec, words: int, generator: np.random.Generator) -> HiddenMarkov:
    """A model drawn at random: sparse transitions, words of Gaussian scores, both of the entropies asked for.

    Each state can be followed by `branching` states, the next in a random cycle among them, so that all are reached.
    """
    states = spec.states
    cycle_S = generator.permutation(states)
    others_SS = generator.random((states, states))
    others_SS[cycle_S, np.roll(cycle_S, -1)] = -1  # sorts first
    successors_SC = np.argsort(others_SS, axis=1)[:, : spec.branching]
    scores_SC = generator.standard_normal(successors_SC.shape)
    transition_SS = np.zeros((states, states))
    chosen_SC = with_entropy(scores_SC, spec.transition_nats) if spec.branching > 1 else np.ones((states, 1))
    np.put_along_axis(transition_SS, successors_SC, chosen_SC, axis=1)
    scores_SW = generator.standard_normal((states, words))
    emission_SW = with_entropy(scores_SW, spec.emission_nats, stationary(transition_SS))
    return HiddenMarkov(transition_SS, emission_SW)


Stack = tuple[int, ...]
"""Kinds of the open clauses, the innermost last."""
State = tuple[Stack, int]
"""A stack and what was said: OPEN, CLOSE (its innermost clause ends with it), or the phase of a word."""
OPEN, CLOSE = -1, -2


def random_grammar(spec: GrammarSpec, words: int, generator: np.random.Generator) -> HiddenMarkov:
    """A grammar with random lexicons and random preferences."""
    states = [(stack, said) for stack in _stacks(spec) for said in (OPEN, CLOSE, *range(spec.phases))]
    index = {state: i for i, state in enumerate(states)}
    rules = _Rules(spec, generator)
    transition_SS = np.zeros((len(states), len(states)))
    for state in states:
        for following, probability in rules.successors(state):
            transition_SS[index[state], index[following]] += probability
    lexicon = _lexicon(spec, words, generator)
    emission_SW = np.stack([lexicon[stack[-1], said] for stack, said in states])
    return HiddenMarkov(transition_SS, emission_SW)


def _stacks(spec: GrammarSpec) -> list[Stack]:
    return [
        stack
        for depth in range(1, spec.depth + 1)
        for stack in itertools.product(range(spec.kinds), repeat=depth)
    ]


class _Rules:
    """Which state follows which, with what probability."""

    def __init__(self, spec: GrammarSpec, generator: np.random.Generator) -> None:
        self._spec = spec
        kinds, phases = spec.kinds, spec.phases
        self._next_clause = softmax(generator.standard_normal((kinds, kinds)))
        self._inner_clause = softmax(generator.standard_normal((kinds, kinds)))
        # a row per phase, one for after an opening, one for after an inner clause
        self._next_phase = softmax(2 * generator.standard_normal((kinds, phases + 2, phases)))

    def successors(self, state: State) -> list[tuple[State, float]]:
        """States that can follow, with their probabilities."""
        stack, said = state
        if said != CLOSE:
            return self._inside(stack, said)
        if len(stack) > 1:
            return self._inside(stack[:-1], CLOSE)
        return [(((kind,), OPEN), p) for kind, p in enumerate(self._next_clause[stack[0]])]

    def _inside(self, stack: Stack, before: int) -> list[tuple[State, float]]:
        """What follows inside the innermost clause of a stack, after a phase, an opening or an inner clause."""
        spec, kind = self._spec, stack[-1]
        nest = spec.nest if len(stack) < spec.depth else 0.0
        following: list[tuple[State, float]] = [((stack, CLOSE), spec.close)]
        if nest:
            following += [(((*stack, j), OPEN), nest * p) for j, p in enumerate(self._inner_clause[kind])]
        say = 1 - spec.close - nest
        return following + [
            ((stack, phase), say * p) for phase, p in enumerate(self._next_phase[kind, before])
        ]


def _lexicon(spec: GrammarSpec, words: int, generator: np.random.Generator) -> dict[tuple[int, int], Floats]:
    """Word probabilities (W,) of (kind, what is said); opening and closing words of a kind are its own."""
    size, classes = spec.bracket_words, 2 * spec.kinds
    brackets = classes * size
    scores = generator.standard_normal((spec.kinds * spec.phases, words - brackets))
    plain = iter(with_entropy(scores, spec.word_nats))
    lexicon = {}
    for kind in range(spec.kinds):
        for said, which in ((OPEN, 2 * kind), (CLOSE, 2 * kind + 1)):
            probs_W = np.zeros(words)
            probs_W[which * size : (which + 1) * size] = softmax(generator.standard_normal(size))
            lexicon[kind, said] = probs_W
        for phase in range(spec.phases):
            lexicon[kind, phase] = np.concatenate([np.zeros(brackets), next(plain)])
    return lexicon
