"""A truncated, altered, missing, swapped or foreign file is found and named; a build makes just that one anew."""

import json
import shutil

import pytest

from distillaw.errors import CacheError, ConfigError, RunError
from distillaw.runs.lock import locked
from distillaw.targets.build import ask_again, build_shards, opened_for_building
from distillaw.targets.manifest import Scheme, read_manifest
from distillaw.targets.store import TargetStore, check_files
from left_over import of_a_dead_process

SMALL = Scheme(samples=8)


@pytest.fixture
def store(build):
    """(folder, maker, plan) of a finished store of three shards."""
    folder, maker, plan = build(scheme=SMALL, tokens=150 * 32)
    assert plan.num_shards == 3
    return folder, maker, plan


def _problems(folder):
    return [problem for problem in check_files(folder, read_manifest(folder)) if problem]


def _bytes(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix == ".bin" or path.name == "manifest.json"
    }


def _read_all(folder, maker, plan):
    TargetStore.open(folder).read_arrays(plan.windows(maker.split))


def _rebuild(folder, maker, plan):
    notes = []
    with opened_for_building(folder, plan) as begun:
        build_shards(folder, begun, maker, say=notes.append)
    return notes


def test_a_sound_store_has_no_problems_and_the_same_teacher(store):
    folder, maker, _ = store
    assert _problems(folder) == []
    compared = ask_again(TargetStore.open(folder), maker, 150)
    assert compared.agrees and compared.identical_windows == compared.windows == 150
    assert compared.loss_difference == 0


@pytest.mark.parametrize("keep", [0, 10, 300, -1])
def test_truncation(store, keep):
    folder, maker, plan = store
    before = _bytes(folder)
    path = folder / "targets-00001.bin"
    path.write_bytes(path.read_bytes()[:keep])
    [problem] = _problems(folder)
    assert "targets-00001.bin" in problem and "truncated" in problem
    with pytest.raises(CacheError, match=r"targets-00001\.bin.*truncated"):
        _read_all(folder, maker, plan)
    [note] = _rebuild(folder, maker, plan)
    assert "made anew" in note and "targets-00001.bin" in note
    assert _bytes(folder) == before


def test_every_flipped_bit_is_found(store):
    """One bit at fifty places: magic, identity, sums, index, first and last block."""
    folder, maker, plan = store
    path = folder / "targets-00000.bin"
    sound = path.read_bytes()
    places = [*range(0, 60, 4), *range(60, len(sound), len(sound) // 34), len(sound) - 1]
    for place in places:
        path.write_bytes(sound[:place] + bytes([sound[place] ^ (1 << place % 8)]) + sound[place + 1 :])
        problems = _problems(folder)
        assert len(problems) == 1 and "targets-00000.bin" in problems[0], place
        with pytest.raises(CacheError, match=r"targets-00000\.bin"):
            _read_all(folder, maker, plan)


def test_a_damaged_block_names_its_window_and_spares_the_others(store):
    folder, maker, plan = store
    path = folder / "targets-00002.bin"
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 16]))
    windows = plan.windows(maker.split)
    with pytest.raises(CacheError, match=rf"block of window {windows[-1]} is damaged"):
        TargetStore.open(folder).read_arrays([windows[-1]])
    TargetStore.open(folder).read_arrays(windows[:-1])


def test_a_missing_shard(store):
    folder, maker, plan = store
    (folder / "targets-00001.bin").unlink()
    [problem] = _problems(folder)
    assert "targets-00001.bin" in problem and "missing" in problem
    with pytest.raises(CacheError, match="missing"):
        _read_all(folder, maker, plan)
    _rebuild(folder, maker, plan)
    assert _problems(folder) == []


def test_swapped_shards(store):
    folder, maker, plan = store
    before = _bytes(folder)
    first, second, aside = folder / "targets-00000.bin", folder / "targets-00001.bin", folder / "aside"
    first.rename(aside), second.rename(first), aside.rename(second)
    assert len(_problems(folder)) == 2 and "swapped" in _problems(folder)[0]
    with pytest.raises(CacheError, match="other windows"):
        _read_all(folder, maker, plan)
    assert len(_rebuild(folder, maker, plan)) == 2
    assert _bytes(folder) == before


def test_a_shard_of_another_store(store, build):
    folder, maker, plan = store
    other, _, _ = build("other", scheme=SMALL, tokens=150 * 32, seed=1)
    shutil.copy(other / "targets-00001.bin", folder)
    [problem] = _problems(folder)
    assert "targets-00001.bin" in problem and "belongs to another store" in problem
    with pytest.raises(CacheError, match="belongs to another store"):
        _read_all(folder, maker, plan)


def test_a_manifest_of_another_store(store, build):
    folder, _, _ = store
    other, _, _ = build("other", scheme=SMALL, tokens=150 * 32, seed=1)
    shutil.copy(other / "manifest.json", folder)
    assert len(_problems(folder)) == 3 and "another store" in _problems(folder)[0]


def test_an_extra_shard(store):
    folder, _, _ = store
    shutil.copy(folder / "targets-00000.bin", folder / "targets-00009.bin")
    [problem] = _problems(folder)
    assert "targets-00009.bin" in problem and "not in the manifest" in problem


@pytest.mark.parametrize("key", ["teacher_fingerprint", "data_hash", "context", "seed", "num_windows"])
def test_an_edited_manifest(store, key):
    folder, _, _ = store
    table = json.loads((folder / "manifest.json").read_text())
    del table["checksum"]  # the plan has a hash of its own
    table[key] = table[key] + (1 if isinstance(table[key], int) else "0")
    (folder / "manifest.json").write_text(json.dumps(table))
    with pytest.raises(CacheError, match="altered since it was written"):
        TargetStore.open(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "not JSON"), ("[]", "list"), ('{"format": 9}', "format 9"), ('{"format": 1}', "missing")],
)
def test_a_damaged_manifest(store, content, message):
    folder, _, _ = store
    (folder / "manifest.json").write_text(content)
    with pytest.raises(CacheError, match=message):
        TargetStore.open(folder)


def test_another_teacher_on_the_same_text_is_noticed(store, tmp_path, text):
    """Fingerprints would refuse it first; asking again finds it even then."""
    from distillaw.data.tokenizer import load_tokenizer
    from distillaw.models.teacher import load_teacher

    folder, maker, _ = store
    path = tmp_path / "changed"
    maker.teacher.model.save_pretrained(path)
    tokenizer = load_tokenizer(str(text.tokenizer_folder))
    tokenizer.save_pretrained(str(path))
    maker.teacher = load_teacher(path, tokenizer)
    maker.teacher.model.get_output_embeddings().weight.data.mul_(1.1)
    assert not ask_again(TargetStore.open(folder), maker, 8).agrees


def test_a_folder_begun_for_something_else_is_left_alone(store, build, tmp_path):
    before = _bytes(store[0])
    with pytest.raises(CacheError, match="seed is 0 there, 1 here"):
        build(scheme=SMALL, tokens=150 * 32, seed=1)
    with pytest.raises(CacheError, match="num_windows is 150 there, 151 here"):
        build(scheme=SMALL, tokens=151 * 32)
    with pytest.raises(CacheError, match="scheme is"):
        build(scheme=Scheme(samples=9), tokens=150 * 32)
    assert _bytes(store[0]) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        build("mine")


def test_two_builders_exclude_each_other(store):
    folder, _, plan = store
    with (
        locked(folder / ".lock", "it"),
        pytest.raises(RunError, match="another process"),
        opened_for_building(folder, plan),
    ):
        pass


def test_what_a_killed_writer_left_is_cleared(store):
    folder, maker, plan = store
    left = of_a_dead_process(folder)
    left.write_bytes(b"half")
    assert _rebuild(folder, maker, plan) == [] and not left.exists()


def test_no_store_and_an_unfinished_one_are_told_apart(store, tmp_path):
    folder, _, _ = store
    (folder / "manifest.json").unlink()
    (folder / "targets-00002.bin").unlink()
    with pytest.raises(CacheError, match="unfinished \\(2 of 3 shards\\)"):
        TargetStore.open(folder)
    with pytest.raises(CacheError, match="no target store there"):
        TargetStore.open(tmp_path / "nowhere")
