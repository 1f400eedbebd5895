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
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distillaw.worlds.spec import GrammarSpec, HmmSpec, NgramSpec

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

    def draws(self, length: int) -> int:
        """Uniform numbers that a document of `length` words takes."""

    def sample(self, uniforms_ND: Floats, length: int) -> NDArray[np.int64]:
        """Documents (N, length) from uniform numbers in [0, 1)."""

    def start(self, rows: int) -> Any:
        """Knowledge of readers who have read nothing."""

    def observe(self, knowledge: Any, words_N: Ints) -> Any:
        """Knowledge after one more word each.

        A word that is none (>= words), or one that the language cannot say there, makes a reader start afresh.
        """

    def predict(self, knowledge: Any) -> Floats:
        """Exact probabilities of the next word, (N, W)."""

    def read(self, words_NT: Ints) -> Floats:
        """What `predict` gives after each word of whole sequences, (N, T, W)."""


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

    scale = bisect(lambda scale: float(weights_R @ entropy(softmax(scale * scores_RC))) - nats, 0.0, 1e4)
    return softmax(scale * scores_RC)


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
        uniforms_NLC = uniforms_ND[:, : 2 * length].reshape(-1, length, 2)
        uniforms_LCN = np.ascontiguousarray(uniforms_NLC.transpose(1, 2, 0))
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


def _sparse_chain(size: int, branching: int, nats: float, generator: np.random.Generator) -> Floats:
    """Transitions (S, S) of rows of `nats`: each can be followed by `branching`, the next of a random cycle among them.

    The cycle keeps all within reach.
    """
    cycle_S = generator.permutation(size)
    order_SS = generator.random((size, size))
    order_SS[cycle_S, np.roll(cycle_S, -1)] = -1  # sorts first
    successors_SC = np.argsort(order_SS, axis=1)[:, :branching]
    scores_SC = generator.standard_normal(successors_SC.shape)
    transition_SS = np.zeros((size, size))
    chosen_SC = with_entropy(scores_SC, nats) if branching > 1 else np.ones((size, 1))
    np.put_along_axis(transition_SS, successors_SC, chosen_SC, axis=1)
    return transition_SS


def random_hmm(spec: HmmSpec, words: int, generator: np.random.Generator) -> HiddenMarkov:
    """A model drawn at random: sparse transitions, words of Gaussian scores, both of the entropies asked for."""
    transition_SS = _sparse_chain(spec.states, spec.branching, spec.transition_nats, generator)
    scores_SW = generator.standard_normal((spec.states, words))
    emission_SW = with_entropy(scores_SW, spec.emission_nats, stationary(transition_SS))
    return HiddenMarkov(transition_SS, emission_SW)


Stack = tuple[int, ...]
"""Kinds of the open clauses, the innermost last."""
State = tuple[Stack, int]
"""A stack and what was said: OPEN, CLOSE (its innermost clause ends with it), or the phase of a word."""
OPEN, CLOSE = -1, -2  # phases of a word count from 0


def random_grammar(spec: GrammarSpec, words: int, generator: np.random.Generator) -> HiddenMarkov:
    """A grammar with random lexicons and random preferences."""
    kinds = range(spec.kinds)
    stacks = [s for depth in range(1, spec.depth + 1) for s in itertools.product(kinds, repeat=depth)]
    states = [(stack, said) for stack in stacks for said in (OPEN, CLOSE, *range(spec.phases))]
    index = {state: i for i, state in enumerate(states)}
    rules = _Rules(spec, generator)
    transition_SS = np.zeros((len(states), len(states)))
    for state in states:
        for following, probability in rules.successors(state):
            transition_SS[index[state], index[following]] += probability
    lexicon = _lexicon(spec, words, generator)
    emission_SW = np.stack([lexicon[stack[-1], said] for stack, said in states])
    return HiddenMarkov(transition_SS, emission_SW)


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
        phases = enumerate(self._next_phase[kind, before])
        return following + [((stack, phase), say * p) for phase, p in phases]


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


@dataclass(slots=True)
class Knowledge:
    """What readers know; the arrays are their own and change in place."""

    joint: Floats
    """(N, M): P(topic of the last plain word or key | words so far); before the first word it is not used."""
    last: Ints
    """(N,): last plain word or key; -1 before the first word."""
    due: Ints
    """(N,): the key whose value comes next; -1 if none does."""
    values: Floats
    """(N, K, A): P(value of each key in this document | words so far)."""


class TopicalBigrams:
    """Bigrams whose table is the topic's, and facts that a document fixes and repeats: copying over any distance.

        next topic   stays, or is drawn anew with probability `switch`
        next word    from the table of the topic, given the last plain word or key
        after a key  a value: the one that this document gave the key, or, with probability `noise`, any of its values

    What a reader does not know factorises: the topic (a filter over few states) and, apart from it, the value of every
    key (a posterior each). A reader who begins in the middle knows nothing of the values, as at the start, so the
    prediction is exact there too. Words 0 .. B - 1 are plain words, then keys; the values of key k follow, A for each.
    Shape suffixes: N row, M topic, B plain word or key, K key, A value of a key, W word, L word of a document.
    """

    def __init__(self, spec: NgramSpec, words: int, generator: np.random.Generator) -> None:
        keys, values = spec.keys, spec.values
        self.words, self._spec = words, spec
        self._base = base = words - keys * values
        tables = [_sparse_chain(base, spec.successors, spec.word_nats, generator) for _ in range(spec.topics)]
        self._table_MBB = np.stack(tables)
        switch = spec.switch
        self._topics_MM = np.full((spec.topics, spec.topics), switch / spec.topics)
        self._topics_MM[np.diag_indices(spec.topics)] += 1 - switch
        self._set_start()
        self._next_word = RowSampler(self._table_MBB.reshape(-1, base))
        self._first = RowSampler(self._start_MBP.reshape(1, -1))

    def _set_start(self) -> None:
        """Stationary probabilities: topic and word (M, B), and with whether its value was said, (M, B, 2)."""
        topics, base = len(self._topics_MM), self._base
        step = np.einsum("mn,nbc->mbnc", self._topics_MM, self._table_MBB)
        word_MB = stationary(step.reshape(topics * base, topics * base)).reshape(topics, base)
        phases_MBP = np.stack([word_MB, word_MB], axis=2)
        phases_MBP[:, : base - self._spec.keys, 1] = 0
        self._start_MBP = phases_MBP / phases_MBP.sum()
        first_W = np.zeros(self.words)
        first_W[:base] = self._start_MBP[:, :, 0].sum(0)
        key_K = self._start_MBP[:, base - self._spec.keys :, 1].sum(0)
        first_W[base:] = np.repeat(key_K / self._spec.values, self._spec.values)
        self._first_W = first_W

    @property
    def flops_per_observation(self) -> float:
        """The mixture over topics, per row."""
        return 2.0 * len(self._topics_MM) * (self._base + len(self._topics_MM))

    def draws(self, length: int) -> int:
        """One for the topic and one for the word, of each word; one per key; one for the start."""
        return 2 * length + self._spec.keys + 1

    def sample(self, uniforms_ND: Floats, length: int) -> NDArray[np.int64]:
        """Documents (N, length) from uniform numbers in [0, 1)."""
        spec, rows = self._spec, len(uniforms_ND)
        facts_NK = (uniforms_ND[:, 1 : 1 + spec.keys] * spec.values).astype(np.int64)
        steps_NLC = uniforms_ND[:, 1 + spec.keys : 1 + spec.keys + 2 * length].reshape(rows, length, 2)
        steps_LNC = np.ascontiguousarray(steps_NLC.transpose(1, 2, 0))
        start_N = self._first(np.zeros(rows, dtype=np.int64), uniforms_ND[:, 0])
        (topic_N, last_N), says_value_N = np.divmod(start_N // 2, self._base), start_N % 2 == 1
        words_LN = np.empty((length, rows), dtype=np.int64)
        for at, (for_topic_N, for_word_N) in enumerate(steps_LNC):
            if at:
                says_value_N = ~says_value_N & (self._key_of(last_N) >= 0)
                plain_N = ~says_value_N
                topic_N = np.where(plain_N, self._next_topic(topic_N, for_topic_N), topic_N)
                drawn_N = self._next_word(topic_N * self._base + last_N, for_word_N)
                last_N = np.where(plain_N, drawn_N, last_N)
            words_LN[at] = last_N
            if says_value_N.any():
                words_LN[at, says_value_N] = self._values(
                    self._key_of(last_N[says_value_N]), facts_NK[says_value_N], for_word_N[says_value_N]
                )
        return words_LN.T

    def _key_of(self, word_N: Ints) -> Ints:
        """Which key a plain word or key is; -1 for plain words."""
        return np.maximum(word_N - (self._base - self._spec.keys), -1)

    def _next_topic(self, topic_N: Ints, uniform_N: Floats) -> Ints:
        switch, topics = self._spec.switch, len(self._topics_MM)
        drawn_N = (uniform_N / max(switch, 1e-300) * topics).clip(max=1e9).astype(np.int64)
        return np.where(uniform_N < switch, np.minimum(drawn_N, topics - 1), topic_N)

    def _values(self, key_N: Ints, facts_NK: Ints, uniform_N: Floats) -> Ints:
        """The value said after each key: the document's, or by noise any."""
        spec = self._spec
        any_N = (uniform_N / max(spec.noise, 1e-300) * spec.values).clip(max=spec.values - 1).astype(np.int64)
        value_N = np.where(uniform_N < spec.noise, any_N, facts_NK[np.arange(len(key_N)), key_N])
        return self._base + key_N * spec.values + value_N

    def start(self, rows: int) -> Knowledge:
        """Knowledge of readers who have read nothing."""
        spec, none = self._spec, np.full(rows, -1)
        values = np.full((rows, spec.keys, spec.values), 1 / spec.values)
        return Knowledge(np.zeros((rows, spec.topics)), none, none.copy(), values)

    def observe(self, knowledge: Knowledge, words_N: Ints) -> Knowledge:
        """Knowledge after one more word each; no word, or an impossible one, starts afresh."""
        is_base_N, is_none_N = words_N < self._base, words_N >= self.words
        self._observe_base(knowledge, is_base_N.nonzero()[0], words_N)
        self._observe_value(knowledge, (~is_base_N & ~is_none_N).nonzero()[0], words_N)
        self._start_afresh(knowledge, is_none_N.nonzero()[0])
        return knowledge

    def _observe_base(self, known: Knowledge, rows: Ints, words_N: Ints) -> None:
        word_R, last_R = words_N[rows], known.last[rows]
        topic_RM = known.joint[rows] @ self._topics_MM
        topic_RM *= self._table_MBB[:, np.maximum(last_R, 0), word_R].T
        first_R = last_R < 0
        topic_RM[first_R] = self._start_MBP[:, word_R[first_R], 0].T
        topic_RM[known.due[rows] >= 0] = 0  # a value had to come
        total_R = topic_RM.sum(axis=1)
        possible_R = total_R > 0
        self._start_afresh(known, rows[~possible_R])
        kept = rows[possible_R]
        known.joint[kept] = topic_RM[possible_R] / total_R[possible_R, None]
        known.last[kept] = word_R[possible_R]
        known.due[kept] = self._key_of(word_R[possible_R])

    def _observe_value(self, known: Knowledge, rows: Ints, words_N: Ints) -> None:
        spec = self._spec
        key_R, value_R = np.divmod(words_N[rows] - self._base, max(spec.values, 1))
        first_R = known.last[rows] < 0
        key_word_R = self._base - spec.keys + key_R
        begin = rows[first_R]
        start_RM = self._start_MBP[:, key_word_R[first_R], 1].T
        known.joint[begin] = start_RM / start_RM.sum(axis=1, keepdims=True)
        known.last[begin] = key_word_R[first_R]
        likelihood_RA = np.full((len(rows), spec.values), spec.noise / spec.values)
        likelihood_RA[np.arange(len(rows)), value_R] += 1 - spec.noise
        posterior_RA = known.values[rows, key_R] * likelihood_RA
        total_R = posterior_RA.sum(axis=1)
        possible_R = (first_R | (known.due[rows] == key_R)) & (total_R > 0)
        kept = rows[possible_R]
        known.values[kept, key_R[possible_R]] = posterior_RA[possible_R] / total_R[possible_R, None]
        known.due[kept] = -1
        self._start_afresh(known, rows[~possible_R])

    def _start_afresh(self, known: Knowledge, rows: Ints) -> None:
        known.joint[rows], known.last[rows], known.due[rows] = 0, -1, -1
        known.values[rows] = 1 / self._spec.values

    def predict(self, knowledge: Knowledge) -> Floats:
        """Exact probabilities of the next word, (N, W)."""
        spec, rows = self._spec, np.arange(len(knowledge.last))
        probs_NW = np.zeros((len(rows), self.words))
        probs_NW[knowledge.last < 0] = self._first_W
        due = rows[knowledge.due >= 0]
        key_R = knowledge.due[due]
        value_RA = (1 - spec.noise) * knowledge.values[due, key_R] + spec.noise / spec.values
        at_RA = self._base + key_R[:, None] * spec.values + np.arange(spec.values)
        probs_NW[due[:, None], at_RA] = value_RA
        plain = rows[(knowledge.due < 0) & (knowledge.last >= 0)]
        topic_RM = knowledge.joint[plain] @ self._topics_MM
        mixed_RB = np.zeros((len(plain), self._base))
        for topic, table_BB in enumerate(self._table_MBB):
            mixed_RB += topic_RM[:, topic, None] * table_BB[knowledge.last[plain]]
        probs_NW[plain, : self._base] = mixed_RB
        return probs_NW

    def read(self, words_NT: Ints) -> Floats:
        """Exact probabilities of the word after each position, (N, T, W)."""
        knowledge = self.start(len(words_NT))
        probs_NTW = np.empty((*words_NT.shape, self.words))
        for at, words_N in enumerate(words_NT.T):
            probs_NTW[:, at] = self.predict(self.observe(knowledge, words_N))
        return probs_NTW
