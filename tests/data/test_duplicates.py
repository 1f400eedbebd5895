"""No text stands on two sides: copies but for white space, near copies, and text that spells a special token."""

import json

import numpy as np
import pytest

from distillaw.data.documents import SLOTS, content_digest, drop_near_copies, sketch
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.data.tokenizer import END_OF_TEXT, load_tokenizer

WORDS = [f"{a}{b}{c}" for a in ("ta", "mo", "ri", "ke") for b in ("na", "lu", "so") for c in ("", "th", "ve", "ps")]


def write(generator, words=120):
    return " ".join(generator.choice(WORDS, words))


def edited(text, generator, words):
    """The text with some words replaced, in other case and with other line breaks."""
    parts = text.split()
    for place in generator.choice(len(parts), words, replace=False):
        parts[place] = "else"
    return "\n".join(" ".join(parts[i : i + 9]) for i in range(0, len(parts), 9)).upper()


def prepare(tmp_path, documents, name="corpus", **settings):
    file = tmp_path / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    spec = DataSpec(
        **{"corpus": str(file), "vocab_size": 300, "validation_documents": 10, "validation_tokens_per_document": 4096}
        | settings
    )
    said = []
    return prepare_data(spec, tmp_path / name, say=said.append), said


def texts(store):
    """The documents of every split as they were tokenised."""
    tokenizer = load_tokenizer(str(store.tokenizer_folder))
    found = {"validation": [tokenizer.decode(ids[1:]) for ids in store.heldout_documents()]}
    for side in ("teacher", "student"):
        stream = np.concatenate(store.split(side, context=1).shards)
        parts = np.split(stream, np.flatnonzero(stream == tokenizer.eos_token_id) + 1)
        found[side] = [tokenizer.decode(part[:-1]) for part in parts if len(part)]
    return found


def everything(store):
    return [text for split in texts(store).values() for text in split]


def runs(text):
    kept = "".join(c for c in text.casefold() if c.isalnum())
    return {kept[i : i + 24] for i in range(len(kept) - 23)}


def similarity(a, b):
    return len(runs(a) & runs(b)) / len(runs(a) | runs(b))


def test_copies_that_differ_by_white_space_are_one_document(tmp_path):
    generator = np.random.default_rng(0)
    originals = [write(generator) for _ in range(30)]
    copies = [f"{text} \n" for text in originals[:20]] + [text.replace(" ", "\n\n") for text in originals[:5]]
    store, said = prepare(tmp_path, originals + copies)
    whole = everything(store)
    assert sorted(whole) == sorted(originals)
    assert (store.manifest["documents"], store.manifest["duplicates"]["exact"]) == (30, 25)
    assert store.manifest["characters"] == sum(map(len, originals))
    assert any("25 exact" in line for line in said)


def test_near_copies_of_held_out_text_leave_the_training_text_and_are_counted(tmp_path):
    generator = np.random.default_rng(1)
    originals = [write(generator) for _ in range(40)]
    copies = [edited(text, generator, 1) for text in originals]
    store, said = prepare(tmp_path, originals + copies)
    found = texts(store)
    assert len(found["validation"]) == 10
    for side, others in (("validation", ("teacher", "student")), ("teacher", ("student",))):
        for other in others:
            assert max(similarity(a, b) for a in found[side] for b in found[other]) < 0.5
    duplicates = store.manifest["duplicates"]
    assert duplicates["version"] >= 1
    near = duplicates["near"]
    from_heldout = near["teacher"]["validation"] + near["student"]["validation"]
    assert from_heldout == 10 - sum(
        similarity(a, b) > 0.7 for a in found["validation"] for b in found["validation"] if a != b
    )
    dropped = sum(sum(others.values()) for others in near.values())
    assert store.manifest["documents"] == 80 - dropped
    assert duplicates["words"] in said


def test_documents_that_share_half_their_text_stay(tmp_path):
    generator = np.random.default_rng(2)
    shared = write(generator, 60)
    store, _ = prepare(tmp_path, [f"{shared} {write(generator, 30)}" for _ in range(30)])
    assert store.manifest["documents"] == 30
    assert not any(sum(others.values()) for others in store.manifest["duplicates"]["near"].values())


def test_text_without_blanks_is_compared_too():
    generator = np.random.default_rng(3)
    first = "".join(chr(c) for c in generator.integers(0x4E00, 0x9FA5, 2000))
    second, other = first[:1000] + "。" + first[1000:], first[1000:] + first[1000:][::-1]
    sketches = np.stack([sketch(text) for text in (first, second, other)])
    assert drop_near_copies(sketches, np.array(["teacher", "validation", "student"]), "validation") == {0: 1}


def test_the_estimate_is_that_of_the_sets():
    generator = np.random.default_rng(4)
    text = write(generator, 400)
    for words in (0, 2, 8, 30):
        other = edited(text, generator, words)
        assert np.mean(sketch(text) == sketch(other)) == pytest.approx(similarity(text, other), abs=4 / SLOTS**0.5 / 2)


def test_a_thousand_copies_leave_one_side(tmp_path):
    generator = np.random.default_rng(5)
    text = write(generator, 200)
    sketches = np.stack([sketch(edited(text, generator, 1)) for _ in range(300)])
    sides = np.array(["teacher", "student", "validation"] * 100)
    gone = drop_near_copies(sketches, sides, "validation")
    assert set(gone) == set(np.flatnonzero(sides != "validation"))
    sides = np.array(["teacher", "student"] * 150)
    assert set(drop_near_copies(sketches, sides, "validation")) == set(range(1, 300, 2))


def test_digests_see_letters_and_order_alone():
    assert content_digest("a b\n") == content_digest("ab") == content_digest("\ta\u2003b")
    assert content_digest("e\u0301") == content_digest("é")
    assert len({content_digest(text) for text in ("ab", "ba", "Ab", "a-b", "a")}) == 5


def test_text_that_spells_the_end_of_text_is_text(tmp_path):
    generator = np.random.default_rng(6)
    documents = [f"{write(generator, 30)} {END_OF_TEXT} {write(generator, 30)}" for _ in range(30)]
    store, _ = prepare(tmp_path, documents)
    assert sorted(everything(store)) == sorted(documents)


def test_data_of_an_earlier_version_stay_and_it_is_said(tmp_path):
    generator = np.random.default_rng(7)
    store, _ = prepare(tmp_path, [write(generator) for _ in range(30)])
    manifest = {key: value for key, value in store.manifest.items() if key != "duplicates"}
    (store.folder / "manifest.json").write_text(json.dumps(manifest))
    said = []
    again = prepare_data(DataSpec(**manifest["spec"]), store.folder, say=said.append)
    assert (again.manifest, again.data_hash) == (manifest, store.data_hash)
    assert any("near copies" in line and "not looked for" in line for line in said)
