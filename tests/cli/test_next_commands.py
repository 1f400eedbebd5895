"""What stands behind `next: ` runs as it is printed; what it lacks is named instead."""

import json
import re
import shlex
import sys
from importlib import resources
from pathlib import Path

import pytest
from families import chatml_tokenizer, save_model, sums
from synthetic_study import World, write_study
from tiny_images import tiny_data, write_npz

from distillaw.accounting.families import named_models
from distillaw.cli.app import app
from distillaw.protocols.catalogue import KINDS
from distillaw.runs.files import read_json, write_json
from distillaw.runs.places import claim_folder
from hostile.place import IMAGES
from in_process import answer
from small_teacher import write_speeches, write_teacher
from tests.cli.test_streams import ANSWERS
from tests.cli.test_study_next import make_folder
from tests.settling.test_cli_run import FILE as SETTLE
from tiny import RUN

ROOT = Path(__file__).parents[2]

TRAINS = {
    "study run",
    "train",
    "distil",
    "recipe minima",
    "instruct sft",
    "instruct dpo",
    "worlds make",
    "settle",
    "branch",
    "large-batch run",
}
"""Not run but parsed, and asked for their dry run where they have one."""
QUESTION = ("--student-params", "300M", "--student-tokens", "6B")
MORE = [
    ("predict", "--law", "surrogate-s2", *QUESTION, "--teacher-loss", "2.2"),
    ("gap", "--student", "1B", "--explain"),
    ("plan", "--student", "1B", "--compute", "1e21", "--teacher", "pythia-1.4b"),
    ("plan", "--student", "0.1M", "--tokens", "1M"),
    ("teachers", "llama"),
    ("fit", "runs.csv", "--law", "supervised", "--bootstrap", "20"),
    ("fit", "runs.csv", "--law", "supervised", "--bootstrap", "20", "--out", "law.json"),
    ("fit", "few.csv", "--law", "supervised", "--bootstrap", "20"),
    ("study", "next", "runs.csv", *QUESTION, "--budget", "1e20", "--bootstrap", "20"),
    ("study", "next", "out", "--budget", "3e13"),
    ("study", "next", "out", "--budget", "1e15"),
    ("study", "check", "out"),
    ("plan", "--study", "out"),
    ("toys", "kernel", "--out", "drawn"),
    ("study", "new", KINDS[0].name),
    *(pytest.param(("study", "new", kind.name), marks=pytest.mark.slow) for kind in KINDS[1:]),
    ("study", "new", "supervised", "--corpus", "sotu"),
]


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    """A folder with what the commands read."""
    (tmp_path / "studies").mkdir()
    for name in ("quickstart.toml",):
        (tmp_path / "studies" / name).write_text((ROOT / "studies" / name).read_text())
    _write_tables(tmp_path)
    claim_folder(tmp_path / "out")
    info = read_json(make_folder(tmp_path / "out") / "study.json")
    write_json(
        tmp_path / "out" / "study.json", info | {"command": "distillaw study run studies/quickstart.toml --out out"}
    )
    monkeypatch.chdir(tmp_path)


def _write_tables(folder: Path) -> None:
    rows = [(N, D, 1.9 + 400 / N**0.34 + 410 / D**0.28) for N in (1e8, 2e8, 4e8) for D in (2e9, 4e9, 8e9, 16e9)]
    for name, count in (("runs.csv", 12), ("few.csv", 3)):
        lines = [f"{N:.0f},{D:.0f},{loss}" for N, D, loss in rows[:count]]
        (folder / name).write_text("\n".join(["params,tokens,loss", *lines]) + "\n")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with models, texts, chats, a study and files, under the names that WORK and OWN call them by."""
    folder = tmp_path_factory.mktemp("workshop")
    write_speeches(folder / "speeches.jsonl")
    write_teacher(folder / "teacher", batches=2)
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = resources.files("distillaw.instruct").joinpath("templates/chatml.jinja").read_text()
    save_model(folder / "chat", tokenizer)
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums()))
    pairs = [{"prompt": f"{a}?", "chosen": f"{a + 1}.", "rejected": f"{a + 2}, thank you"} for a in range(24)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (folder / "prompts.txt").write_text("".join(f"What is {i}?\n" for i in range(5)))
    data = '[data]\ncorpus = "speeches.jsonl"\ntokenizer = "teacher"'
    (folder / "run.toml").write_text(RUN.format(tokens=4096).replace("[data]", 'name = "one"\n' + data))
    (folder / "settle.toml").write_text(SETTLE.format(budget="20%"))
    (folder / "images.toml").write_text(IMAGES)
    write_npz(folder / "images.npz", tiny_data())
    _write_tables(folder)
    write_study(folder / "study", World(seeds=2, documents=20))
    return folder


OWN = {
    "YOUR_TEXT": "speeches.jsonl",
    "MODEL": "chat",
    "DIR": "elsewhere",
    "STUDY": "study",
    "STUDY.toml": "tiny.toml",
    "SPEC.toml": "run.toml",
}
"""What the user fills in."""
TEXT = "--text speeches.jsonl"
WORK = [
    f"prune teacher --out cut --keep 0.5 {TEXT} --context 64 --tokens 1k --heldout-tokens 1k --dry-run",
    "cache build --teacher teacher --data run.toml --out cache --tokens 2k --dry-run",
    "instruct sft chat --data chats.jsonl --out sft --epochs 1 --dry-run",
    "instruct sft chat --data chats.jsonl --out chatty --epochs 1",
    "instruct dpo chat --pairs pairs.jsonl --out dpo --dry-run",
    "instruct generate chat --prompts prompts.txt --out answers.jsonl --max-new-tokens 8",
    "instruct generate chat --student chat --prompts prompts.txt --out pairs-made.jsonl --max-new-tokens 4 ",
    "verify freeze runs.csv --law besiroglu2024 --cells params=8e8,tokens=3e10",
    "verify freeze runs.csv --law besiroglu2024 --cells params=4e8,tokens=16e9 --after-the-fact",
    "settle settle.toml --out settled --dry-run",
    "recipe minima --teacher teacher --corpus speeches.jsonl --tokens 4096 --batch 256 --context 64 --keep 0.5 "
    "--chats chats.jsonl --template zephyr --out cooked --dry-run",
    "report study",
    "page --out planner.html --study study",
    "page --out planner.html",
    "branch run.toml --out branched --dry-run",
    pytest.param("branch run.toml --out tested", marks=pytest.mark.slow),
    "large-batch run images.toml --data images.npz --out batches --dry-run",
    pytest.param("large-batch run images.toml --data images.npz --out small", marks=pytest.mark.slow),
    f"evaluate teacher {TEXT} --out scores --dry-run",
    f"scout teacher chat {TEXT} --max-bytes 20k --out scouted",
    f"vocabulary trim teacher {TEXT} --max-bytes 50k --heldout-bytes 4k --keep 280 --out trimmed --dry-run",
    "upcycle teacher --experts 2 --out mixture --dry-run",
    "study import runs.csv --params-convention non-embedding --dry-run",
    "train run.toml --out one",
    "worlds make tiny --tokens 20k --out world",
]


def _call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["distillaw", *words])  # what some answers suggest to call again
    return answer(*words)


def _next(done) -> list[str]:
    """The words behind `next: distillaw`, with what is the user's own filled in."""
    last = done.stdout.rstrip("\n").splitlines()[-1]
    label, colon, command = last.partition(": distillaw ")
    assert colon, done.stderr or last
    blanks = label.removeprefix("next").removeprefix(", with your own ").split(", ")
    following = shlex.split(command)
    assert {word for word in following if re.fullmatch(r"[A-Z_]{2,}(\.toml)?", word)} == {*filter(None, blanks)}
    return [OWN[word] if word in blanks else word for word in following]


def _follow(monkeypatch, words):
    """Run what is cheap; of what trains or asks the hub that the words parse, and the dry run where there is one."""
    chain, _, _ = app.parse_commands(words)
    if " ".join(chain) not in TRAINS and not {each.repo for each in named_models()} & {*words}:
        return _call(monkeypatch, *words)
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    return _call(monkeypatch, *words, "--dry-run") if "dry_run" in bound.signature.parameters else None


@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize("words", [*ANSWERS, *MORE], ids=" ".join)
def test_the_next_command_runs_as_printed(words, monkeypatch):
    done = _call(monkeypatch, *words)
    following = _next(done)
    assert done.stdout.rstrip("\n").splitlines()[-1].startswith("next: ")  # nothing is left to fill in
    if following[:2] == ["study", "run"]:  # runs of the folder here are made by hand: nothing goes on from them
        following = [word if word != "out" else "elsewhere" for word in following]
    after = _follow(monkeypatch, following)
    assert after is None or after.returncode == 0, after.stderr


@pytest.mark.parametrize("line", WORK)
def test_next_commands_run_one_after_the_other(line, workshop, monkeypatch):
    """From the first that is given until one comes again, or one trains."""
    monkeypatch.chdir(workshop)
    monkeypatch.setattr("webbrowser.open", lambda address: None)
    monkeypatch.setattr("distillaw.large_batch.images.study.TIMED_SECONDS", 0.02)
    words = line.split()
    done, seen = _call(monkeypatch, *words), []
    while done is not None and words not in seen and words[-1] != "--help":
        assert done.returncode == 0, (words, done.stderr)
        seen.append(words)
        if len(seen) > 1 and "\nnext" not in done.stdout:
            break
        words = _next(done)
        done = _follow(monkeypatch, words)


@pytest.mark.slow
def test_every_next_line_of_the_golden_calls_runs(tmp_path, monkeypatch):
    """Each call in a folder of its own, where what it wrote is found by the one that it suggests."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "golden")
    import record

    monkeypatch.setattr("webbrowser.open", lambda address: None)
    followed: set[str] = set()
    for number, line in enumerate(record.invocations()):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        done = _call(monkeypatch, *shlex.split(line.format(**record.places())))
        if done.returncode or "\nnext: distillaw" not in done.stdout:
            continue
        following = _next(done)
        if (key := " ".join(following)) not in followed:
            followed.add(key)
            after = _follow(monkeypatch, following)
            assert after is None or after.returncode == 0, (line, key, after.stderr)
    assert len(followed) >= 50


def test_what_only_the_user_has_is_named_beside_the_command(capsys):
    from distillaw.cli.output import Output

    Output().suggest("distillaw train SPEC.toml --out out/x --text YOUR_TEXT --start /data/A/SPEC.tomlx -N 3")
    assert capsys.readouterr().out.startswith("\nnext, with your own SPEC.toml, YOUR_TEXT: distillaw train SPEC.toml")
    Output().suggest("distillaw plan --study /data/RUNS --student 300M")
    assert capsys.readouterr().out.startswith("\nnext: distillaw plan")
