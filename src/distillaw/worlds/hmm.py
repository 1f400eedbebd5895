"""Hidden Markov models: sampling, and exact prediction by the forward filter.

    knowledge_t(s) = P(state at t + 1 is s | words up to t)
    observe x:       knowledge <- normalise(knowledge * emission[:, x]) @ transition      (sparse)
    predict:         knowledge @ emission

Everything is float64; a step normalises, so nothing underflows however long the text. Rabiner 1989, section III.A.
Shape suffixes: N row, S state, W word, D draw, L word of a document, R table row, C choice.
"""

import numpy as np
from numpy.typing import NDArray

from distillaw.worlds.language import Floats, Ints, RowSampler, stationary, with_entropy
from distillaw.worlds.spec import HmmSpec


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
