"""The text of a world: by position, reproducible, and distributed as the oracle says."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from distillaw.worlds import world as world_module
from distillaw.worlds.spec import GrammarSpec, HmmSpec, NgramSpec, WorldSpec
from distillaw.worlds.world import World

HMM = WorldSpec(
    vocab=17, document_tokens=40, hmm=HmmSpec(states=8, branching=3, transition_nats=0.7, emission_nats=1.2)
)
GRAMMAR = WorldSpec(
    vocab=30, document_tokens=40, grammar=GrammarSpec(kinds=2, depth=2, phases=2, bracket_words=2, word_nats=1.5)
)
NGRAM = WorldSpec(
    vocab=24,
    document_tokens=40,
    ngram=NgramSpec(topics=2, switch=0.1, successors=4, word_nats=1.0, keys=3, values=3, noise=0.1),
)
ALL = pytest.mark.parametrize("spec", [HMM, GRAMMAR, NGRAM], ids=["hmm", "grammar", "ngram"])


@ALL
def test_any_slice_is_a_slice_of_the_whole(spec, monkeypatch):
    world = World(spec)
    whole = world.tokens(0, 5000)
    for start, count in ((0, 1), (39, 3), (41, 41), (1234, 777), (4999, 1)):
        np.testing.assert_array_equal(world.tokens(start, count), whole[start : start + count])
    monkeypatch.setattr(world_module, "DOCUMENTS_AT_ONCE", 7)
    np.testing.assert_array_equal(World(spec).tokens(0, 5000), whole)
    assert (whole.reshape(-1)[40::41] == world.end_of_text).all()
    assert (np.delete(whole, np.s_[40::41]) < world.end_of_text).all()


def test_sections_are_other_text():
    world = World(HMM)
    parts = [world.documents(section, 0, 50) for section in world_module.SECTIONS]
    for one in range(len(parts)):
        for other in range(one):
            assert not (parts[one] == parts[other]).all(axis=1).any()


def test_another_seed_is_another_language():
    one, other = World(HMM), World(WorldSpec(**{**HMM.table, "seed": 1, "hmm": HMM.hmm}))
    assert one.spec.spec_hash != other.spec.spec_hash
    assert not np.allclose(one.language.emission_SW, other.language.emission_SW)


def test_another_process_makes_the_same_text_and_probabilities():
    world = World(NGRAM)
    sequences = world.tokens(100, 60).reshape(3, 20)
    code = (
        "from distillaw.worlds.spec import *; from distillaw.worlds.world import World\n"
        f"w = World({NGRAM!r}); t = w.tokens(100, 60).reshape(3, 20)\n"
        "print(t.ravel().tolist()); print(w.next_probs(t).sum(1).ravel().tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    tokens, probs = out.splitlines()
    assert tokens == str(sequences.ravel().tolist())
    assert probs == str(world.next_probs(sequences).sum(1).ravel().tolist())


@ALL
def test_empirical_frequencies_fit_the_oracle(spec):
    """Chi-square of which word came, over all contexts, against the probabilities of the oracle."""
    world = World(spec)
    words = world.documents("student", 0, 500)
    probs = world.word_probs(words[:, :-1])
    expected = probs.sum(axis=(0, 1))
    observed = np.bincount(words[:, 1:].ravel(), minlength=world.vocab - 1)
    assert (observed[expected == 0] == 0).all()
    counted = expected > 0
    # given the past, counts have the covariance sum p (1 - p); the Pearson statistic is an upper bound of its form
    variance = (probs * (1 - probs)).sum(axis=(0, 1))[counted]
    z = (observed - expected)[counted] / np.sqrt(variance)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert (z**2).sum() < stats.chi2.ppf(0.9999, counted.sum())


@ALL
def test_calibrated_in_every_decile(spec):
    """Of the words given probability p, a share p came: a filter of the wrong model fails here."""
    world = World(spec)
    words = world.documents("student", 0, 500)
    probs = world.word_probs(words[:, :-1])
    came = np.zeros_like(probs, dtype=bool)
    np.put_along_axis(came, words[:, 1:, None], True, axis=2)
    edges = np.quantile(probs[probs > 0], np.linspace(0, 1, 11))
    bins = np.clip(np.searchsorted(edges, probs, side="right") - 1, 0, 9)
    for decile in range(10):
        chosen = (bins == decile) & (probs > 0)
        z = (came[chosen].sum() - probs[chosen].sum()) / np.sqrt((probs[chosen] * (1 - probs[chosen])).sum())
        assert abs(z) < 4.5


@ALL
def test_first_word_is_distributed_as_any_other(spec):
    """Documents begin in the stationary distribution, so that a reader who begins anywhere knows as much."""
    world = World(spec)
    words = world.documents("student", 0, 4000)
    first, late = (np.bincount(words[:, at], minlength=world.vocab - 1) for at in (0, 39))
    counted = first + late > 10
    assert stats.chi2_contingency(np.stack([first, late])[:, counted]).pvalue > 1e-4


@ALL
def test_entropy_is_the_long_run_mean_of_minus_log_p(spec):
    world = World(spec)
    words = world.documents("student", 0, 400)
    seen = np.concatenate([np.full((400, 1), world.end_of_text), words[:, :-1]], axis=1)
    probs = np.take_along_axis(world.next_probs(seen), words[:, :, None], axis=2)[:, :, 0]
    by_document = -np.log(probs).mean(axis=1)
    measured = world.entropy(documents=400)
    error = np.hypot(by_document.std() / 20, measured.error)
    assert abs(by_document.mean() - measured.value) < 4 * error
    assert measured.error < by_document.std() / 20  # what the exact distribution is for


def test_entropies_are_those_asked_for():
    from distillaw.worlds.language import entropy, stationary

    language = World(HMM).language
    weights = stationary(language.transition_SS)
    assert entropy(language.transition_SS).mean() == pytest.approx(0.7, abs=1e-6)
    assert weights @ entropy(language.emission_SW) == pytest.approx(1.2, abs=1e-6)
    np.testing.assert_allclose(weights @ language.transition_SS, weights, atol=1e-12)
