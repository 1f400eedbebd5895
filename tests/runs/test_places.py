"""What is not ours is never written into, replaced or removed: the rule itself, and that nothing goes round it."""

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import distillaw
from distillaw.errors import ConfigError
from distillaw.runs import places
from distillaw.runs.files import append_json_lines, write_json, write_text
from distillaw.runs.lock import held
from distillaw.runs.places import (
    MARK,
    appending,
    building,
    check_file,
    check_folder,
    check_name,
    claim_folder,
    is_ours,
    move,
    remove_file,
    remove_folder,
    sweep,
)

SOURCE = Path(distillaw.__file__).parent
THESIS = "Chapter 1. Three years of work.\n"


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: bytes of files, targets of links, None for folders."""
    return {
        str(path.relative_to(folder)): (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A folder of somebody else's."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "thesis.txt").write_text(THESIS)
    return folder


# --- folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["new", "new/below", "empty", "ours", "link to empty"])
def test_a_new_an_empty_and_our_own_folder_are_ours(tmp_path, name):
    (tmp_path / "empty").mkdir()
    claim_folder(tmp_path / "ours")
    (tmp_path / "ours" / "study.json").write_text("{}")
    (tmp_path / "link to empty").symlink_to("empty")
    claim_folder(tmp_path / name)
    assert is_ours(tmp_path / name)


def test_a_folder_of_others_a_file_and_a_broken_link_are_refused_and_left_as_they_are(theirs, tmp_path):
    (tmp_path / "file").write_text(THESIS)
    (tmp_path / "link").symlink_to(theirs)
    (tmp_path / "broken").symlink_to("nowhere")
    (theirs / "distillaw").mkdir()
    before = contents(tmp_path)
    names = ["theirs", "link", "file", "file/below", "broken", "broken/below", "theirs/thesis.txt/x"]
    for place in [tmp_path / name for name in names]:
        with pytest.raises(ConfigError, match="--out"):
            claim_folder(place)
    assert contents(tmp_path) == before


def test_the_root_and_a_home_with_anything_in_it_are_refused(theirs, monkeypatch):
    monkeypatch.setenv("HOME", str(theirs))
    for place in (Path("/"), Path("~").expanduser()):
        with pytest.raises(ConfigError, match="nothing is written"):
            check_folder(place)


def test_a_mark_that_is_a_link_or_a_folder_is_none(theirs, tmp_path):
    claim_folder(tmp_path / "ours")
    (theirs / MARK).symlink_to(tmp_path / "ours" / MARK)
    assert not is_ours(theirs)
    (theirs / MARK).unlink()
    (theirs / MARK).mkdir()
    assert not is_ours(theirs)


def test_the_refusal_says_what_is_there_and_what_to_do(theirs):
    with pytest.raises(ConfigError, match=r"thesis\.txt.*a new or empty one.*touch .*\.distillaw"):
        check_folder(theirs)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(places.os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ConfigError, match="cannot be written to"):
        check_folder(tmp_path / "new")


def test_two_calls_may_claim_a_folder_at_once(tmp_path, monkeypatch):
    """The other one marks it between our look and our mark."""
    looked = places.check_folder

    def look(folder):
        looked(folder)
        folder.mkdir()
        (folder / MARK).write_text("the other one\n")

    monkeypatch.setattr(places, "check_folder", look)
    claim_folder(tmp_path / "new")
    assert (tmp_path / "new" / MARK).read_text() == "the other one\n"


def test_a_folder_that_is_claimed_while_we_look_is_ours(tmp_path, monkeypatch):
    """Ranks of one call look at a folder that the first of them has just made."""
    folder, looks = tmp_path / "new", []

    def lists(place):
        looks.append(place)
        (folder / MARK).touch()
        return [MARK, ".lock"]

    folder.mkdir()
    monkeypatch.setattr(places.os, "listdir", lists)
    check_folder(folder)
    assert looks


# --- files ------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_if_it_is_new_empty_in_our_folder_or_says_that_it_is_ours(tmp_path):
    claim_folder(tmp_path / "ours")
    for file in (tmp_path / "new", tmp_path / "empty", tmp_path / "ours" / "state.json"):
        if file.name != "new":
            file.write_text("" if file.name == "empty" else "old")
        write_text(file, "text")
        assert file.read_text() == "text"
    law = tmp_path / "law.json"
    for value in (1, 2):
        write_json(law, {"generator": places.GENERATOR, "value": value})
    assert '"value": 2' in law.read_text()


@pytest.mark.parametrize("says", [THESIS, "a thesis on distillaw, generator of laws\n"])
def test_a_file_of_others_is_not_replaced(tmp_path, says):
    file, link = tmp_path / "report.html", tmp_path / "link"
    file.write_text(says)
    link.symlink_to(file)
    for path in (file, link):
        with pytest.raises(ConfigError, match="not replaced"):
            write_text(path, "text")
        with pytest.raises(ConfigError, match="left as it is"):
            check_file(path)
    assert contents(tmp_path) == {"report.html": says.encode(), "link": str(file)}


def test_a_link_out_of_our_folder_is_not_followed(theirs, tmp_path):
    ours = tmp_path / "ours"
    claim_folder(ours)
    (ours / "state.json").symlink_to(theirs / "thesis.txt")
    (ours / "log.jsonl").symlink_to(theirs / "thesis.txt")
    (ours / "data").symlink_to(theirs)
    before = contents(theirs)
    with pytest.raises(ConfigError):
        write_text(ours / "state.json", "text")
    with pytest.raises(ConfigError):
        append_json_lines(ours / "log.jsonl", [{"a": 1}])
    with pytest.raises(ConfigError), building(ours / "data"):
        pass
    assert not remove_folder(ours / "data")
    remove_file(ours / "data" / "thesis.txt")
    with pytest.raises(ConfigError):
        move(ours / "data" / "thesis.txt", ours / "mine.txt")
    remove_file(ours / "state.json")  # the link, not what it leads to
    assert contents(theirs) == before and not (ours / "state.json").is_symlink()


def test_a_second_name_of_a_log_keeps_its_bytes(tmp_path):
    """A backup by `cp -al` shares the bytes of every file."""
    log, backup = tmp_path / "log.jsonl", tmp_path / "backup.jsonl"
    log.write_text('{"a": 1}\n')
    os.link(log, backup)
    claim_folder(tmp_path / "ours")
    with pytest.raises(ConfigError), appending(log):
        pass
    os.rename(log, tmp_path / "ours" / log.name)
    append_json_lines(tmp_path / "ours" / log.name, [{"a": 2}])
    assert backup.read_text() == '{"a": 1}\n'
    assert (tmp_path / "ours" / log.name).read_text() == '{"a": 1}\n{"a": 2}\n'


# --- making, moving and removing folders ------------------------------------------------------------------------


def test_a_folder_is_built_aside_and_never_takes_the_place_of_a_full_one(tmp_path):
    (tmp_path / "data").mkdir()
    with building(tmp_path / "data") as part:
        (part / "shard").write_text("1")
    assert (tmp_path / "data" / "shard").read_text() == "1" and is_ours(tmp_path / "data")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="shard"), building(tmp_path / "data"):
        pass
    assert contents(tmp_path) == before


def test_what_comes_into_the_place_meanwhile_stays(tmp_path):
    with pytest.raises(ConfigError, match=r"thesis\.txt"), building(tmp_path / "data"):
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "thesis.txt").write_text(THESIS)
    assert contents(tmp_path) == {"data": None, "data/thesis.txt": THESIS.encode()}


def test_only_what_carries_the_mark_is_removed(theirs, tmp_path):
    claim_folder(tmp_path / "ours")
    (tmp_path / "ours" / "below").mkdir()
    assert remove_folder(tmp_path / "ours") and not (tmp_path / "ours").exists()
    assert not remove_folder(theirs)
    remove_file(theirs / "thesis.txt")
    assert (theirs / "thesis.txt").read_text() == THESIS


# --- left-overs of killed calls ---------------------------------------------------------------------------------

KILLED = """
import sys, time
from pathlib import Path
from distillaw.runs.lock import held
from distillaw.runs.places import building, replacing
folder = Path(sys.argv[1])
with held(folder, "the study"), replacing(folder / "runs" / "state.json") as file, building(folder / "data") as data:
    file.write_text("half")
    (data / "shard").write_text("half")
    print("now", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_call_left_goes_with_the_next_one_and_nothing_else(tmp_path):
    study = tmp_path / "study"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(study)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "now\n"
    left = [path for path in study.rglob("*.tmp")]
    assert len(left) == 2 and sweep(study) == []  # its writer lives
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    dead = left[0].name
    for name in ("notes.tmp", ".state.json.17.tmp", ".distillaw-thesis.tmp"):
        (study / name).write_text(THESIS)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / dead).write_text(THESIS)
    (study / "elsewhere").symlink_to(outside)
    with places.replacing(study / "mine.json") as mine:
        mine.write_text("by this process")
        with held(study, "the study"):
            assert not any(path.exists() for path in left)
        assert mine.exists()
    assert (outside / dead).read_text() == THESIS
    kept = {path.name for path in study.iterdir()} - {MARK, ".lock", "runs", "mine.json", "elsewhere"}
    assert kept == {"notes.tmp", ".state.json.17.tmp", ".distillaw-thesis.tmp"}


def test_a_folder_of_others_is_not_swept(theirs):
    left = theirs / ".distillaw-1-0-00000000-0.tmp"
    left.write_text(THESIS)
    assert sweep(theirs) == [] and left.exists()


# --- names ------------------------------------------------------------------------------------------------------

BAD_NAMES = [
    "",
    ".",
    "..",
    "../../escaped",
    "/tmp/escaped",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "\x1b[31mred",
    "c:d",
    "con",
    "NUL.toml",
    "COM1",
    "-rf",
    ".hidden",
    " blank",
    "dot.",
    "x" * 151,
    "語" * 60,
    "\ud800",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_is_one_plain_component_of_a_path(name):
    with pytest.raises(ConfigError) as caught:
        check_name(name, "name =")
    said = str(caught.value)
    assert said.startswith("name = ") and "plain name" in said and said.isprintable() and len(said) < 250


@pytest.mark.parametrize(
    "name", ["quickstart", "7B on 2T, seed 1", "étude-2", "学習", "a.b_c+d=e@f", "console", "x" * 150]
)
def test_plain_names_are_taken(name):
    assert check_name(name, "name =") == name


# --- nothing goes round it --------------------------------------------------------------------------------------

REMOVING = set(
    "rmtree unlink rmdir removedirs rename renames mkdir makedirs touch symlink_to hardlink_to copytree copy2".split()
)
WRITES = re.compile(r"(?=.*[wax+])[rwaxbt+]+")
WRITING = {"write_text", "write_bytes", "tofile"}
ALLOWED = {
    "runs/places.py": "the rule itself",
    "runs/lock.py": "its own record, known by a token",
    "doctor/examination.py": "tries the disk in a temporary folder of its own",
    "data/bpe.py": "a tokenizer in a temporary folder of its own",
    "audit/probes.py": "what ranks say, in a temporary folder of its own",
    "audit/trainers.py": "rows and checkpoints of a trial, in a temporary folder of its own",
}
INTO_PARTS = {  # written under a temporary name, or in a folder that places.py made for it
    "runs/files.py": {"open"},
    "targets/store.py": {"open"},
    "planning/maps.py": {"open"},
    "worlds/oracle.py": {"open"},
    "evaluate/harness.py": {"open"},
    "figures/files.py": {"write_bytes"},
    "models/export.py": {"write_text"},
    "data/shards.py": {"write_bytes"},
    "data/token_files.py": {"open"},
    "cli/app.py": {"open"},  # /dev/null
    "evaluate/sandbox_child.py": {"open"},  # /proc/self/uid_map
}


def _goes_round(tree: ast.AST) -> set[str]:
    """Names by which a module writes or removes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in REMOVING:
            found.add(node.attr)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in {
                ("os", "remove"),
                ("os", "replace"),
                ("shutil", "move"),
                ("shutil", "copy"),
            }:
                found.add(node.attr)
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in WRITING and isinstance(node.func, ast.Attribute):
                known = any(isinstance(each, ast.Name) and each.id == "path" for each in node.args)
                found |= set() if known else {name}
            words = [
                each.value
                for each in (*node.args, *(k.value for k in node.keywords if k.arg == "mode"))
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            if name in ("open", "fdopen") and any(
                set(word) <= set("rwaxbt+") and set(word) & set("wax+") for word in words
            ):
                found.add("open")
            if name == "replace" and len(node.args) == 1 and not node.keywords and isinstance(node.func, ast.Attribute):
                found.add("replace")
    return found


def test_no_other_module_removes_renames_or_opens_for_writing():
    strays = {}
    for file in sorted(SOURCE.rglob("*.py")):
        name = str(file.relative_to(SOURCE))
        if name not in ALLOWED and (
            found := _goes_round(ast.parse(file.read_text(encoding="utf-8"))) - INTO_PARTS.get(name, set())
        ):
            strays[name] = sorted(found)
    assert strays == {}


@pytest.mark.parametrize(
    "code",
    [
        "shutil.rmtree(x)",
        "os.replace(a, b)",
        "path.unlink()",
        "path.rename(x)",
        "path.replace(x)",
        "os.remove(x)",
        "open(x, 'w')",
        "path.open('ab+')",
        "open(x, mode='a')",
        "path.write_text(text)",
        "f = path.mkdir",
    ],
)
def test_the_search_finds_what_it_should(code):
    assert _goes_round(ast.parse(code))
