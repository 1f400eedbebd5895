"""What a user keeps is never touched: a thesis stands wherever a command would write, and every byte of it stays."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from distillaw.runs.places import MARK
from in_process import answer
from tiny import DATA, RUN

THESIS = "Chapter 1. Three years of work.\n"
FOLDERS = tuple("data runs trunks laws cache checkpoints model parts predictions state text".split())
FILES = tuple(
    (
        "report.html verdict.json study.json settle.json runs.parquet manifest.json config.json spec.json result.json "
        "build.json train.toml branch.json recipe.json large_batch.json kernel.csv pareto.svg import.json README.md "
        "thesis.txt .lock .lock.json"
    ).split()
)

STUDY = f"""
name = "tiny"
peak_lr = 0.01
batch_tokens = 64
{DATA}
[students]
params = ["0.03M"]
tokens = [12800]
"""
SETTLE = f'{DATA}\n[[teachers]]\npath = "oracle:window=3"\n[target]\nparams = "0.3M"\ntokens = 5000000\n'

INTO_A_FOLDER = {
    "study run": "study run study.toml --out OUT",
    "train": "train run.toml --out OUT",
    "settle": "settle settle.toml --budget 1e13 --out OUT",
    "settle, dry": "settle settle.toml --budget 1e13 --dry-run --out OUT",
    "distil": "distil model --teacher model --corpus text.txt --tokens 1M --out OUT",
    "branch": "branch run.toml --out OUT",
    "large-batch run": "large-batch run batches.toml --data images.npz --out OUT",
    "prune": "prune model --keep 0.5 --out OUT",
    "upcycle": "upcycle model --out OUT",
    "vocabulary trim": "vocabulary trim model --text text.txt --out OUT",
    "vocabulary extend": "vocabulary extend model --text text.txt --out OUT",
    "recipe minima": "recipe minima --teacher model --corpus text.txt --tokens 1M --out OUT",
    "instruct sft": "instruct sft model --data chats.jsonl --out OUT",
    "instruct dpo": "instruct dpo model --pairs pairs.jsonl --out OUT",
    "cache build, of a run": "cache build --teacher model --data run.toml --out OUT",
    "cache build, of tokens": "cache build --teacher model --data tokens --out OUT",
    "evaluate": "evaluate model --text text.txt --out OUT",
    "scout": "scout model --text text.txt --out OUT",
    "worlds make": "worlds make hmm --tokens 10k --out OUT",
    "toys kernel": "toys kernel --size 40 --students 20 --out OUT",
    "toys mapping": "toys mapping --out OUT",
    "map": "map gain --size 5x5 --out OUT",
    "pareto": "pareto --out OUT",
    "study import": "study import runs.csv --out OUT",
    "report --figures": "report study --figures OUT",
}
INTO_A_FILE = {
    "fit --out": "fit runs.csv --law supervised --bootstrap 20 --columns params=N,tokens=D,loss=loss --out OUT.json",
    "page --out": "page --out OUT.html",
    "report --out": "report study --out OUT.html",
    "study new": "study new --kind teacher-choice --out OUT.toml",
    "study next": "study next study --budget 1e13 --out OUT.toml",
    "study import": "study import runs.csv --out OUT.parquet",
    "completion": "--install-completion --shell bash --out OUT.bash",
}


def contents(folder: Path) -> dict[str, object]:
    """Everything below a folder: bytes and inode of files, targets of links."""
    return {
        str(path.relative_to(folder)): (
            os.readlink(path)
            if path.is_symlink()
            else (path.stat().st_ino, path.read_bytes())
            if path.is_file()
            else None
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A user's folder: inputs, and a thesis under every name that a command would use."""
    monkeypatch.chdir(tmp_path)
    inputs = {
        "study.toml": STUDY,
        "run.toml": 'name = "one"' + RUN.format(tokens=6400),
        "settle.toml": SETTLE,
        "runs.csv": "N,D,loss\n1e6,1e7,3.0\n2e6,2e7,2.9\n4e6,2e7,2.8\n",
        "text.txt": "words " * 400,
        "chats.jsonl": "",
        "pairs.jsonl": "",
        "batches.toml": "",
        "study/study.json": "{}",
    }
    for name, text in inputs.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    theirs = tmp_path / "theirs"
    for name in FOLDERS:
        (theirs / name).mkdir(parents=True)
        (theirs / name / "thesis.txt").write_text(THESIS)
    for name in FILES:
        (theirs / name).write_text(THESIS)
    return tmp_path


def _refused(line: str, home: Path) -> str:
    """The one line with which a call is refused that leaves everything as it was."""
    return _refused_words(line.split(), home)


def _refused_words(line: Sequence[str], home: Path) -> str:
    before = contents(home)
    said = answer(*line)
    assert contents(home) == before, line
    assert said.returncode in (1, 2) and not said.stdout, (line, said)
    errors = said.stderr.splitlines()
    assert len(errors) == 1 and errors[0].startswith("distillaw: "), (line, said.stderr)
    return errors[0]


@pytest.mark.parametrize("command", INTO_A_FOLDER)
def test_a_folder_of_others_is_left_as_it_is(home, command):
    line = INTO_A_FOLDER[command]
    (home / "link").symlink_to("theirs")
    (home / "file").write_text(THESIS)
    (home / "broken").symlink_to("nowhere")
    for place in ("theirs", ".", "link", "file", "broken", "file/below"):
        said = _refused(line.replace("OUT", place), home)
        assert "--out" in said or "--figures" in said


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", INTO_A_FOLDER)
def test_no_single_name_makes_a_folder_look_like_ours(home, command, every):
    """Each name alone; in the fast suite every command has its share of them."""
    line, only = INTO_A_FOLDER[command], home / "only"
    for name in (*FOLDERS, *FILES)[list(INTO_A_FOLDER).index(command) % every :: every]:
        only.mkdir()
        (only / name).mkdir() if name in FOLDERS else None
        (only / name / "thesis.txt" if name in FOLDERS else only / name).write_text(THESIS)
        _refused(line.replace("OUT", "only"), home)
        (only / name / "thesis.txt" if name in FOLDERS else only / name).unlink()
        (only / name).rmdir() if name in FOLDERS else None
        only.rmdir()


@pytest.mark.parametrize("command", INTO_A_FILE)
def test_a_file_of_others_is_left_as_it_is(home, command):
    line = INTO_A_FILE[command]
    name = next(word for word in line.split() if word.startswith("OUT"))
    place = home / name.replace("OUT", "thesis")
    place.write_text(THESIS)
    (home / name.replace("OUT", "link")).symlink_to(place)
    (home / name.replace("OUT", "folder")).mkdir()
    for stem in ("thesis", "link", "folder"):
        _refused(line.replace("OUT", stem), home)


@pytest.mark.parametrize("command", ["study run", "train", "cache build, of a run", "settle"])
def test_nothing_is_written_into_the_text_that_is_read(home, command):
    corpus = home / "corpus"
    corpus.mkdir()
    (corpus / "thesis.txt").write_text(THESIS)
    for name in ("study.toml", "run.toml", "settle.toml"):
        (home / name).write_text((home / name).read_text().replace("[data]", '[data]\ncorpus = "corpus"'))
    said = _refused(INTO_A_FOLDER[command].replace("OUT", "corpus/out"), home)
    assert "corpus" in said


@pytest.mark.parametrize("name", ["../../../escaped", "/tmp/escaped", "", "a\\u0000b", "NUL", "x" * 300])
@pytest.mark.parametrize(
    "line", ["study run study.toml", "settle settle.toml --budget 1e13", "train run.toml --out new"]
)
def test_a_name_does_not_leave_its_folder(home, line, name):
    for file in ("study.toml", "run.toml", "settle.toml"):
        text = (home / file).read_text()
        body = "\n".join(row for row in text.splitlines() if not row.startswith("name ="))
        (home / file).write_text(f'name = "{name}"\n{body}')
    assert "name = " in _refused(line, home)


def test_a_new_study_has_a_plain_name(home):
    assert "--name" in _refused("study new --kind teacher-choice --name ../escaped", home)


def test_what_is_ours_is_replaced_and_gone_on_with(home):
    """The same command twice: what it wrote the first time is no stranger."""
    for line in (
        "page --out new.html",
        "worlds make hmm --tokens 10k --out world",
        "map gain --size 5x5 --out map",
        "toys kernel --size 400 --students 100 --out toys",
    ):
        for _ in range(2):
            answer(*line.split(), code=0)
    assert (home / "world" / MARK).is_file()


def test_a_folder_of_an_earlier_version_goes_on_after_the_command_that_is_named(tmp_path, monkeypatch):
    """It has no mark: refused with one line, whose command makes it usable; nothing is trained anew."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('name = "one"' + RUN.format(tokens=1280))
    line = ("train", "run.toml", "--out", "my run")
    assert answer(*line).returncode == 0
    (tmp_path / "my run" / MARK).unlink()
    said = _refused_words(line, tmp_path)
    command = re.search(r"becomes usable by: (.*)\)", said)[1]
    subprocess.run(command, shell=True, check=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("my run/runs/*/result.json")}
    answer(*line, code=0)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("my run/runs/*/result.json")} != {}
