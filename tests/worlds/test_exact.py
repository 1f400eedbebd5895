"""Oracle probabilities against the sum over everything that is hidden, on worlds small enough to enumerate."""

import functools
import itertools

import numpy as np
import pytest

from distillaw.worlds.spec import GrammarSpec, HmmSpec, NgramSpec, WorldSpec
from distillaw.worlds.world import World

HMM = WorldSpec(
    seed=3, vocab=4, document_tokens=4, hmm=HmmSpec(states=3, branching=2, transition_nats=0.5, emission_nats=0.8)
)
GRAMMAR = WorldSpec(
    seed=1, vocab=11, document_tokens=5, grammar=GrammarSpec(kinds=2, depth=2, phases=1, bracket_words=2, word_nats=0.5)
)
NGRAM = WorldSpec(
    seed=2,
    vocab=9,
    document_tokens=4,
    ngram=NgramSpec(topics=2, switch=0.3, successors=2, word_nats=0.6, keys=2, values=2, noise=0.2),
)


@functools.cache
def hmm_likelihood(language, words) -> float:
    """P(words) of a stretch of one document, summed over all paths of states."""
    states, total = range(language.states), 0.0
    for path in itertools.product(states, repeat=len(words)):
        chance = language.start_S[path[0]] if path else 1.0
        for before, after in itertools.pairwise(path):
            chance *= language.transition_SS[before, after]
        for state, word in zip(path, words, strict=True):
            chance *= language.emission_SW[state, word]
        total += chance
    return total


@functools.cache
def ngram_likelihood(language, words) -> float:
    """P(words) of a stretch of one document, summed over topics and the document's facts."""
    spec, total = language._spec, 0.0
    for facts in itertools.product(range(spec.values), repeat=spec.keys):
        for topics in itertools.product(range(spec.topics), repeat=len(words)):
            total += _ngram_path(language, words, facts, topics) / spec.values**spec.keys
    return total


def _ngram_path(language, words, facts, topics) -> float:
    """P(words, topics | facts); a value keeps the topic of its key."""
    spec, base = language._spec, language._base
    chance, last = 1.0, -1
    says_value = False
    for at, (word, topic) in enumerate(zip(words, topics, strict=True)):
        if at == 0:
            says_value = word >= base
            last = base - spec.keys + (word - base) // spec.values if says_value else word
            chance = language._start_MBP[topic, last, int(says_value)]
        elif not says_value and last >= base - spec.keys:
            says_value = True
            if topic != topics[at - 1]:
                return 0.0
        else:
            says_value = False
            if word >= base:
                return 0.0
            chance *= language._topics_MM[topics[at - 1], topic] * language._table_MBB[topic, last, word]
            last = word
        if says_value:
            key = last - (base - spec.keys)
            value = word - base - key * spec.values
            if not 0 <= value < spec.values:
                return 0.0
            chance *= spec.noise / spec.values + (1 - spec.noise) * (value == facts[key])
    return chance


def stream_likelihood(world, tokens, likelihood) -> float:
    """P(tokens) of a stretch of the stream that begins anywhere: summed over where in a document it does."""
    size, total = world.spec.document_tokens, 0.0
    for phase in range(size + 1):
        chance, document = 1.0, []
        for at, token in enumerate(tokens):
            ends_here = (phase + at) % (size + 1) == size
            if ends_here != (token == world.end_of_text):
                chance = 0.0
                break
            if ends_here:
                chance *= likelihood(world.language, tuple(document))
                document = []
            else:
                document.append(int(token))
        total += chance and chance * likelihood(world.language, tuple(document)) / (size + 1)
    return total


CASES = [(HMM, hmm_likelihood, 6), (GRAMMAR, hmm_likelihood, 3), (NGRAM, ngram_likelihood, 6)]


@pytest.mark.parametrize(("spec", "likelihood", "length"), CASES, ids=["hmm", "grammar", "ngram"])
@pytest.mark.parametrize("window", [None, 0, 1, 2])
def test_next_token_is_the_ratio_of_enumerated_likelihoods(spec, likelihood, length, window):
    world = World(spec)
    stream = world.tokens(0, 400)
    starts = [1, spec.document_tokens - 1, spec.document_tokens, 3 * spec.document_tokens + 1]
    sequences = np.stack([stream[start : start + length] for start in starts])
    probs = world.next_probs(sequences, window)
    for row, tokens in enumerate(sequences):
        for at in range(length):
            seen = tokens[: at + 1] if window is None else tokens[max(0, at + 1 - window) : at + 1]
            before = stream_likelihood(world, seen, likelihood)
            for token in range(world.vocab):
                expected = stream_likelihood(world, [*seen, token], likelihood) / before
                assert probs[row, at, token] == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("spec", [HMM, GRAMMAR, NGRAM], ids=["hmm", "grammar", "ngram"])
def test_probabilities_sum_to_one_and_a_wide_window_is_the_whole_filter(spec):
    world = World(spec)
    sequences = world.tokens(0, 60).reshape(5, 12)
    whole = world.next_probs(sequences)
    np.testing.assert_allclose(whole.sum(-1), 1, rtol=1e-12)
    np.testing.assert_array_equal(world.next_probs(sequences, 12), whole)
    np.testing.assert_allclose(world._filter_windows(sequences, 12), world._filter(sequences), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(world.next_probs(sequences, 11)[:, :11], whole[:, :11], rtol=1e-9, atol=1e-15)


def test_text_that_no_world_says_starts_the_reader_afresh():
    """Padding and foreign text give probabilities, not NaN."""
    for spec in (HMM, GRAMMAR, NGRAM):
        world = World(spec)
        anything = np.random.Generator(np.random.Philox(key=0)).integers(0, world.vocab, (20, 15))
        probs = world.next_probs(anything)
        np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-12)
        assert np.isfinite(probs).all()


@pytest.mark.parametrize(
    "spec",
    [
        WorldSpec(vocab=9, document_tokens=8, ngram=NgramSpec(topics=1, successors=2, word_nats=0.5, keys=0, values=1)),
        WorldSpec(
            vocab=9,
            document_tokens=8,
            ngram=NgramSpec(topics=2, switch=1, successors=2, word_nats=0.5, keys=1, values=3, noise=0),
        ),
        WorldSpec(
            vocab=9,
            document_tokens=8,
            ngram=NgramSpec(topics=2, successors=3, word_nats=0.5, keys=1, values=3, noise=1),
        ),
        WorldSpec(vocab=9, document_tokens=8, hmm=HmmSpec(states=1, branching=1, emission_nats=1.0)),
        WorldSpec(vocab=9, document_tokens=8, hmm=HmmSpec(states=5, branching=1, emission_nats=0.01)),
        WorldSpec(
            vocab=9,
            document_tokens=8,
            grammar=GrammarSpec(kinds=1, depth=1, phases=1, bracket_words=1, nest=0, word_nats=1.0),
        ),
    ],
)
def test_worlds_at_their_limits_agree_with_their_own_text(spec):
    """Nothing hidden, nothing random, everything noise: the oracle never gives what comes probability 0."""
    world = World(spec)
    words = world.documents("student", 0, 200)
    seen = np.concatenate([np.full((200, 1), world.end_of_text), words[:, :-1]], axis=1)
    probs = np.take_along_axis(world.next_probs(seen), words[:, :, None], axis=2)
    by_document = -np.log(probs).mean(axis=(1, 2))
    assert abs(by_document.mean() - world.entropy(documents=200).value) < 5 * by_document.std() / 200**0.5 + 0.02
