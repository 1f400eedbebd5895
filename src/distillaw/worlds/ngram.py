"""Bigrams whose table is the topic's, and facts that a document fixes and repeats: long-range copying, exactly solved.

    next topic   stays, or is drawn anew with probability `switch`
    next word    from the table of the topic, given the last plain word or key
    after a key  a value: the one that this document gave the key, or, with probability `noise`, any of its values

Each key has values of its own and each document draws one for every key, so a reader who has seen a key's value copies
it however long ago that was. What a reader does not know factorises: the topic (a filter over few states) and, apart
from it, the value of every key (a posterior each). A reader who begins in the middle knows nothing of the values, as at
the start, so the prediction is exact there too.
Shape suffixes: N row, M topic, B plain word or key, K key, A value of a key, W word, L word of a document.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillaw.worlds.language import Floats, Ints, RowSampler, stationary, with_entropy
from distillaw.worlds.spec import NgramSpec


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
    """Words 0 .. B - 1 are plain words, then keys; the values of key k follow, A for each."""

    def __init__(self, spec: NgramSpec, words: int, generator: np.random.Generator) -> None:
        keys, values = spec.keys, spec.values
        self.words, self._spec = words, spec
        self._base = base = words - keys * values
        self._table_MBB = _tables(spec, base, generator)
        switch = spec.switch
        self._topics_MM = np.full((spec.topics, spec.topics), switch / spec.topics)
        self._topics_MM[np.diag_indices(spec.topics)] += 1 - switch
        self._set_start()
        self._next_word = RowSampler(self._table_MBB.reshape(-1, base))
        self._first = RowSampler(self._start_MBP.reshape(1, -1))

    def _set_start(self) -> None:
        """Stationary probabilities: topic and word (M, B), and with whether its value was said, (M, B, 2)."""
        topics, base = len(self._topics_MM), self._base
        step = np.einsum("mn,nbc->mbnc", self._topics_MM, self._table_MBB).reshape(
            topics * base, topics * base
        )
        self._word_MB = stationary(step).reshape(topics, base)
        phases_MBP = np.stack([self._word_MB, self._word_MB], axis=2)
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
        steps_LNC = np.ascontiguousarray(
            uniforms_ND[:, 1 + spec.keys : 1 + spec.keys + 2 * length]
            .reshape(rows, length, 2)
            .transpose(1, 2, 0)
        )
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
        drawn_N = (
            (uniform_N / max(self._spec.switch, 1e-300) * len(self._topics_MM)).clip(max=1e9).astype(np.int64)
        )
        return np.where(uniform_N < self._spec.switch, np.minimum(drawn_N, len(self._topics_MM) - 1), topic_N)

    def _values(self, key_N: Ints, facts_NK: Ints, uniform_N: Floats) -> Ints:
        """The value said after each key: the document's, or by noise any."""
        spec = self._spec
        any_N = (uniform_N / max(spec.noise, 1e-300) * spec.values).clip(max=spec.values - 1).astype(np.int64)
        value_N = np.where(uniform_N < spec.noise, any_N, facts_NK[np.arange(len(key_N)), key_N])
        return self._base + key_N * spec.values + value_N

    def start(self, rows: int) -> Knowledge:
        """Knowledge of readers who have read nothing."""
        spec = self._spec
        return Knowledge(
            np.zeros((rows, spec.topics)),
            np.full(rows, -1),
            np.full(rows, -1),
            np.full((rows, spec.keys, spec.values), 1 / spec.values),
        )

    def observe(self, knowledge: Knowledge, words_N: Ints) -> Knowledge:
        """Knowledge after one more word each; no word, or an impossible one, starts afresh."""
        is_base_N = words_N < self._base
        is_value_N = ~is_base_N & (words_N < self.words)
        self._observe_base(knowledge, is_base_N.nonzero()[0], words_N)
        self._observe_value(knowledge, is_value_N.nonzero()[0], words_N)
        self._start_afresh(knowledge, (words_N >= self.words).nonzero()[0])
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


def _tables(spec: NgramSpec, base: int, generator: np.random.Generator) -> Floats:
    """A sparse bigram table for each topic, (M, B, B); a random cycle in each keeps every word within reach."""
    table_MBB = np.zeros((spec.topics, base, base))
    for table_BB in table_MBB:
        cycle_B = generator.permutation(base)
        order_BB = generator.random((base, base))
        order_BB[cycle_B, np.roll(cycle_B, -1)] = -1  # sorts first
        following_BC = np.argsort(order_BB, axis=1)[:, : spec.successors]
        probs_BC = with_entropy(generator.standard_normal(following_BC.shape), spec.word_nats)
        np.put_along_axis(table_BB, following_BC, probs_BC, axis=1)
    return table_MBB
