"""A world: text at any position, and the exact distribution of the next token given what a reader sees.

    world = World(load_world("hmm"))
    world.documents("student", first=0, count=1000)       # (1000, document_tokens), the same whoever asks, whenever
    world.next_probs(tokens_BT)                            # (B, T, V), given the tokens up to each position
    world.next_probs(tokens_BT, window=3)                  # given the last three alone

A document is `document_tokens` words, then the end of text. Documents are independent; the uniform numbers that make
one stand at a fixed place of a counter-based generator (Philox, Salmon et al. 2011), so no text before it is generated.
A reader is taken to begin anywhere in the stream with equal probability: until an end of text is seen, the next token
is one with probability 1 / (document_tokens + 1 - n) after n words; from then on the count is known.
Shape suffixes: B sequence, T position, V token (end of text last), W word, N row, L word of a document.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from distillaw.worlds.language import Floats, Ints, Language, TopicalBigrams, random_grammar, random_hmm
from distillaw.worlds.spec import WorldSpec, check_world

SECTIONS = {"validation": 0, "student": 1 << 40, "teacher": 1 << 41, "measure": 1 << 42}
"""First document of each part of the text; none reaches the next, so they never share a document."""
DOCUMENTS_AT_ONCE = 2048
"""Documents that are sampled side by side: enough to amortise the steps, and tens of MB of uniform numbers."""
POSITIONS_AT_ONCE = 4096
"""Positions that are filtered side by side."""


@dataclass(frozen=True, slots=True)
class MeanLoss:
    """A mean over documents with its standard error, nats per token."""

    value: float
    error: float


class World:
    """One language with its text."""

    def __init__(self, spec: WorldSpec) -> None:
        check_world(spec)
        self.spec = spec

    @cached_property
    def language(self) -> Language:
        """The language itself, drawn by the seed."""
        spec, generator = self.spec, np.random.Generator(np.random.Philox(key=[self.spec.seed, 0]))
        words = spec.vocab - 1
        if spec.hmm is not None:
            return random_hmm(spec.hmm, words, generator)
        if spec.grammar is not None:
            return random_grammar(spec.grammar, words, generator)
        assert spec.ngram is not None
        return TopicalBigrams(spec.ngram, words, generator)

    @property
    def vocab(self) -> int:
        """V: words and the end of text."""
        return self.spec.vocab

    @cached_property
    def spelling(self) -> list[str]:
        """How its words are written: w0, w1, ..."""
        return [f"w{word}" for word in range(self.vocab - 1)]

    @property
    def end_of_text(self) -> int:
        """The token that ends a document: the last one."""
        return self.spec.vocab - 1

    def documents(self, section: str, first: int, count: int) -> NDArray[np.int64]:
        """Words of documents first .. first + count - 1 of a section, (count, document_tokens)."""
        parts = [
            self._sample(SECTIONS[section] + begin, min(DOCUMENTS_AT_ONCE, first + count - begin))
            for begin in range(first, first + count, DOCUMENTS_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.spec.document_tokens), dtype=np.int64)

    def blocks(self, section: str, count: int) -> Iterator[NDArray[np.int64]]:
        """The first `count` documents of a section, some at a time, (N, document_tokens) each."""
        for first in range(0, count, DOCUMENTS_AT_ONCE):
            yield self.documents(section, first, min(DOCUMENTS_AT_ONCE, count - first))

    def tokens(self, start: int, count: int, *, section: str = "student") -> NDArray[np.int64]:
        """Tokens start .. start + count - 1 of a section's stream: documents, each followed by the end of text."""
        size = self.spec.document_tokens + 1
        first, last = start // size, -(-(start + count) // size)
        words_NL = self.documents(section, first, last - first)
        stream = np.full((len(words_NL), size), self.end_of_text)
        stream[:, :-1] = words_NL
        return stream.ravel()[start - first * size :][:count]

    def _sample(self, position: int, count: int) -> NDArray[np.int64]:
        # the generator makes four at a time
        draws = -(-self.language.draws(self.spec.document_tokens) // 4) * 4
        philox = np.random.Philox(key=[self.spec.seed, 1])
        philox.advance(position * draws // 4)
        uniforms = np.random.Generator(philox).random((count, draws))
        return self.language.sample(uniforms, self.spec.document_tokens)

    def next_probs(self, tokens_BT: Ints, window: int | None = None) -> Floats:
        """Exact probabilities of the token after each position, (B, T, V).

        Args:
            tokens_BT: what readers see; a sequence may begin anywhere in the text.
            window: a reader sees the last `window` tokens alone; None: the whole sequence up to the position.
        """
        end_BT = self.end_probs(tokens_BT, window)
        probs_BTV = np.empty((*tokens_BT.shape, self.vocab))
        np.multiply(self.word_probs(tokens_BT, window), 1 - end_BT[..., None], out=probs_BTV[..., :-1])
        probs_BTV[..., -1] = end_BT
        return probs_BTV

    def word_probs(self, tokens_BT: Ints, window: int | None = None) -> Floats:
        """Exact probabilities of the next word, given that the document goes on, (B, T, W)."""
        length = tokens_BT.shape[1]
        if window is None or window >= length:
            return self._filter(tokens_BT)
        return self._filter_windows(tokens_BT, window)

    def end_probs(self, tokens_BT: Ints, window: int | None = None) -> Floats:
        """Exact probability that the document ends after each position, (B, T)."""
        length, size = tokens_BT.shape[1], self.spec.document_tokens
        at_T = np.arange(length)
        last_end_BT = np.maximum.accumulate(np.where(tokens_BT == self.end_of_text, at_T, -1), axis=1)
        begin_T = np.maximum(at_T + 1 - (length if window is None else window), 0)  # first token seen
        is_counted_BT = last_end_BT >= begin_T
        seen_T = at_T + 1 - begin_T
        # longer than a document: no such text
        unknown_T = 1 / np.where(seen_T <= size, size + 1 - seen_T, size + 1)
        return np.where(is_counted_BT, (at_T - last_end_BT == size).astype(float), unknown_T)

    def _filter(self, tokens_BT: Ints) -> Floats:
        """Word probabilities given all tokens up to each position: one pass over the sequence."""
        at_once = max(16, POSITIONS_AT_ONCE // tokens_BT.shape[1])
        rows = _slices(len(tokens_BT), at_once)
        return np.concatenate([self.language.read(tokens_BT[each]) for each in rows])

    def _filter_windows(self, tokens_BT: Ints, window: int) -> Floats:
        """Word probabilities given the last `window` tokens: a pass over the window from every position."""
        language, (count, length) = self.language, tokens_BT.shape
        before = np.full((count, max(window - 1, 0)), self.end_of_text)  # what is not there: start afresh
        whole = np.concatenate([before, tokens_BT], axis=1)
        seen_BTW = np.lib.stride_tricks.sliding_window_view(whole, max(window, 1), axis=1)
        seen_NT = seen_BTW.reshape(count * length, -1)[:, :window]
        probs_NW = np.empty((count * length, language.words))
        for rows in _slices(len(seen_NT), POSITIONS_AT_ONCE):
            knowledge = language.start(len(seen_NT[rows]))
            for tokens_N in seen_NT[rows].T:
                knowledge = language.observe(knowledge, tokens_N)
            probs_NW[rows] = language.predict(knowledge)
        return probs_NW.reshape(count, length, -1)

    def entropy(self, *, documents: int = 64, context: int | None = None) -> MeanLoss:
        """Entropy of the next word given what is seen: the least loss that any model can have on held-out text.

        Mean over held-out positions of the exact conditional entropy; the error is that of the choice of documents.
        `context`: tokens of a window, as held-out text is scored; None: the whole document.
        """
        sequences = self.heldout_sequences(documents=documents, context=context)
        probs_BTV = self.next_probs(sequences)
        return mean_loss(probs_BTV, probs_BTV, documents)

    def heldout_sequences(self, *, documents: int, context: int | None = None, first: int = 0) -> NDArray[np.int64]:
        """Inputs as held-out text is scored, (windows, context): an end of text and words, cut into whole windows."""
        size = self.spec.document_tokens
        words_NL = self.documents("measure", first, documents)
        begun_NL = np.concatenate([np.full((documents, 1), self.end_of_text), words_NL[:, :-1]], axis=1)
        context = min(context or size, size)
        whole = size // context * context
        return begun_NL[:, :whole].reshape(-1, context)


def mean_loss(truth_BTV: Floats, probs_BTV: Floats, documents: int) -> MeanLoss:
    """Loss of predictions on words, nats: expected under the truth, so that no sampling of labels adds noise.

    Args:
        truth_BTV: exact probabilities; the end of text, which held-out text never asks for, is left out.
        probs_BTV: what is predicted.
        documents: how many the sequences are of, in order, equally many each.
    """
    truth_BTW = truth_BTV[..., :-1]
    going_on_BT = truth_BTW.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms_BTW = np.where(truth_BTW > 0, truth_BTW * np.log(probs_BTV[..., :-1]), 0)
    loss_BT = -terms_BTW.sum(axis=-1)
    keep_BT = going_on_BT > 0
    loss_BT = np.where(keep_BT, loss_BT / np.where(keep_BT, going_on_BT, 1), 0)
    by_document_N = loss_BT.reshape(documents, -1).sum(1) / keep_BT.reshape(documents, -1).sum(1)
    return MeanLoss(float(by_document_N.mean()), float(by_document_N.std(ddof=1) / np.sqrt(documents)))


def _slices(total: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, total, size)]


@lru_cache(maxsize=8)
def open_world(spec: WorldSpec) -> World:
    """The world of a spec, once per process."""
    return World(spec)
