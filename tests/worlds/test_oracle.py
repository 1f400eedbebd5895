"""Teachers made of the exact distribution: their names, their losses, and what is refused."""

import numpy as np
import pytest

from distillaw.errors import ConfigError
from distillaw.worlds.oracle import WAYS, Oracle, OracleSpec, find_oracle, oracle_hash, parse_oracle
from distillaw.worlds.spec import PRESETS, HmmSpec, WorldSpec, load_world
from distillaw.worlds.world import World

WORLD = World(
    WorldSpec(vocab=33, document_tokens=64, hmm=HmmSpec(states=24, branching=3, transition_nats=0.6, emission_nats=1.8))
)


def loss(**settings) -> float:
    return Oracle(WORLD, OracleSpec(**settings)).loss(context=32).value


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_chosen_loss_is_met_on_text_that_was_not_searched(by, share):
    worst = loss(window=0)
    target = loss() + share * (worst - loss())
    oracle = find_oracle(WORLD, OracleSpec(loss=target, by=by), 32)
    fresh = oracle.loss(documents=200, context=32, first=10_000)
    assert fresh.value == pytest.approx(target, abs=4 * fresh.error + 0.01)
    assert fresh.error < 0.02


def test_the_loss_expected_under_the_truth_is_the_loss_on_words():
    oracle = Oracle(WORLD, OracleSpec(window=2, blend=0.3, temperature=1.4, noise=0.5, uniform=0.05))
    words = WORLD.documents("measure", 0, 300)
    seen = np.concatenate([np.full((300, 1), WORLD.end_of_text), words[:, :-1]], axis=1)
    came = -np.log(np.take_along_axis(oracle.probs(seen), words[:, :, None], axis=2)[:, :, 0]).mean(axis=1)
    expected = oracle.loss(documents=300)
    assert abs(came.mean() - expected.value) < 4 * came.std() / np.sqrt(300)


def test_every_way_of_getting_worse_does():
    for settings in ("window", "temperature", "noise", "uniform"):
        known = {"window": (None, 4, 3, 2, 1, 0), "temperature": (1.0, 1.5, 3.0, 20.0)}
        values = known.get(settings, (0, 0.3, 0.6, 0.9))
        losses = [loss(**{settings: value}) for value in values]
        assert losses == sorted(losses)
        assert losses[0] == pytest.approx(loss())
    blends = [loss(window=1, blend=share) for share in (0, 0.5, 1)]
    assert blends == sorted(blends, reverse=True)
    assert blends[-1] == pytest.approx(loss(window=2))


def test_a_teacher_is_a_function_of_what_it_sees():
    """Also with noise: the same tokens give the same answer wherever they stand; a window ignores what is before it."""
    oracle = Oracle(WORLD, OracleSpec(window=3, noise=1.0))
    text = WORLD.tokens(0, 60)
    one = oracle.probs(text[None, 10:40])
    other = oracle.probs(np.stack([text[12:42], text[20:50]]))
    np.testing.assert_allclose(one[0, 12:28], other[0, 10:26], rtol=1e-12)
    np.testing.assert_array_equal(oracle.probs(text[None, 10:40]), one)
    assert np.abs(oracle.probs(text[None]) - Oracle(WORLD, OracleSpec(window=3)).probs(text[None])).max() > 0.01


def test_names_give_the_teacher_and_back():
    several = ("oracle:window=3,blend=0.4,noise=0.5", "oracle:temperature=2.0,uniform=0.1")
    for name in ("oracle", "oracle:window=3", *several):
        assert parse_oracle(name).name == name
    wanted = parse_oracle("oracle:loss=2.5")
    assert wanted == OracleSpec(loss=2.5, by="window")
    assert parse_oracle(wanted.name) == wanted
    assert oracle_hash(WORLD, wanted, 32) != oracle_hash(WORLD, wanted, 64)
    assert oracle_hash(WORLD, OracleSpec(), 32) == oracle_hash(WORLD, OracleSpec(), 64)
    assert oracle_hash(WORLD, OracleSpec(), 32) != oracle_hash(World(PRESETS["tiny"]), OracleSpec(), 32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("oracle:windw=3", "did you mean 'window'"),
        ("oracle:window=x", "is no int"),
        ("oracle:window=-1", "0 or more"),
        ("oracle:temperature=0", "lie in"),
        ("oracle:noise=nan", "lie in"),
        ("oracle:blend=0.5", "none is given"),
        ("oracle:loss=3,window=2", "give loss and by alone"),
        ("oracle:by=noise", "add loss=NATS"),
        ("oracle:loss=3,by=luck", "be one of"),
        ("oracle:loss=-1", "above 0"),
    ],
)
def test_names_that_are_no_teacher_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        parse_oracle(name)


@pytest.mark.parametrize("by", WAYS)
def test_a_loss_that_no_teacher_has_is_refused_with_the_range(by):
    for target in (0.5, 5000.0):
        with pytest.raises(ConfigError, match=f"nats by {by}: on this world it lies between"):
            find_oracle(WORLD, OracleSpec(loss=target, by=by), 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("seed = 1\n", "one kind, got none"),
        ("[hmm]\n[grammar]\n", "got hmm and grammar"),
        ("[hmm]\nstates = 0\n", r"hmm.states = 0 must lie in \[1, 4096\]"),
        ("[hmm]\nbranching = 300\n", "hmm.branching"),
        ("[hmm]\nemission_nats = 9\n", "ln 255"),
        ("[hmm]\nsates = 9\n", "did you mean 'states'"),
        ("vocab = 2\n[hmm]\n", "world.vocab"),
        ("seed = -1\n[hmm]\n", "world.seed"),
        ("[grammar]\nnest = 0.6\nclose = 0.5\n", "no word is left"),
        ("[grammar]\ndepth = 9\n", "lower kinds or depth"),
        ("vocab = 30\n[grammar]\n", "raise vocab"),
        ("vocab = 30\n[ngram]\n", "raise vocab"),
        ("[ngram]\ntopics = 60\n", "lower topics"),
        ("[ngram]\nswitch = 0\n", "ngram.switch"),
        ("[ngram]\nword_nats = 2.9\n", "ln 16"),
        ("[data]\ncorpus = 'sotu'\n", "no world"),
    ],
)
def test_worlds_that_cannot_be_are_refused(tmp_path, text, message):
    file = tmp_path / "world.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_world(str(file))


def test_every_named_world_can_be_read_back_from_its_toml(tmp_path):
    for name, spec in PRESETS.items():
        (tmp_path / "alone.toml").write_text(spec.to_toml())
        (tmp_path / "run.toml").write_text("name = 'x'\n" + spec.to_toml("data.world"))
        assert load_world(name) == load_world(str(tmp_path / "alone.toml")) == load_world(str(tmp_path / "run.toml"))
