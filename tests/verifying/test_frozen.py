"""Append-only files: what is changed, dropped or added shows."""

import json

import pytest
from forecasts import SMALL, TAUGHT, freeze_by_hand, predict

from distillaw.errors import RunError
from distillaw.verifying.frozen import chain_problems, document_hash, read_frozen


def rewrite(path, change, *, rehash=False):
    document = json.loads(path.read_text())
    change(document)
    if rehash:
        document["hash"] = document_hash(document)
    path.chmod(0o644)
    path.write_text(json.dumps(document))


def test_a_file_survives_reading_and_holds_what_was_said(tmp_path):
    said = predict(TAUGHT, 3.1, 0.1, quantity="gain", outside={"student_tokens": 1.1}, probability=0.9)
    written, is_new = freeze_by_hand(tmp_path, [said])
    (read,) = read_frozen(tmp_path)
    assert is_new and read.is_intact and read.hash == written.hash
    assert read.predictions == [said]
    assert read.document["previous"] is None
    assert written.path.name.startswith(read.document["frozen_at"][:10]) and written.hash[:10] in written.path.name


def test_the_hash_is_of_the_content_not_of_the_bytes(tmp_path):
    written, _ = freeze_by_hand(tmp_path, [predict(SMALL, 3.1, 0.1)])
    rewrite(written.path, lambda document: None)  # another layout, the same content
    assert read_frozen(tmp_path)[0].is_intact


def test_freezing_the_same_twice_gives_one_file(tmp_path):
    first, _ = freeze_by_hand(tmp_path, [predict(SMALL, 3.1, 0.1)])
    again, is_new = freeze_by_hand(tmp_path, [predict(SMALL, 3.1, 0.1)])
    assert not is_new and again.path == first.path and again.hash == first.hash
    other, is_new = freeze_by_hand(tmp_path, [predict(SMALL, 3.2, 0.1)])
    assert is_new and other.document["previous"] == first.hash
    assert chain_problems(read_frozen(tmp_path)) == []


def test_a_changed_number_is_tampering(tmp_path):
    one, _ = freeze_by_hand(tmp_path, [predict(SMALL, 3.1, 0.1)])
    rewrite(one.path, lambda d: d["predictions"][0].update(mean=3.2))
    (problem,) = chain_problems(read_frozen(tmp_path))
    assert problem.startswith("TAMPERED") and one.path.name in problem
    with pytest.raises(RunError, match="TAMPERED"):
        freeze_by_hand(tmp_path, [predict(TAUGHT, 3.0, 0.1)])


def test_a_changed_file_with_a_fresh_hash_breaks_the_chain(tmp_path):
    one, _ = freeze_by_hand(tmp_path, [predict(SMALL, 3.1, 0.1)])
    freeze_by_hand(tmp_path, [predict(SMALL, 3.2, 0.1)])
    rewrite(one.path, lambda d: d["predictions"][0].update(mean=3.2), rehash=True)
    assert [p.split(":")[0] for p in chain_problems(read_frozen(tmp_path))] == ["BROKEN CHAIN"]


def test_a_dropped_file_shows_unless_it_is_the_last(tmp_path):
    files = [freeze_by_hand(tmp_path, [predict(SMALL, 3.1 + k / 10, 0.1)])[0] for k in range(3)]
    files[2].path.unlink()
    assert chain_problems(read_frozen(tmp_path)) == []  # the hash that was sent away is the only witness
    files[0].path.unlink()
    assert "missing" in chain_problems(read_frozen(tmp_path))[0]


def test_lock_files_are_no_predictions(tmp_path):
    freeze_by_hand(tmp_path, [predict(SMALL, 3.1, 0.1)])
    (tmp_path / ".lock.json").write_text("{}")
    assert len(read_frozen(tmp_path)) == 1
