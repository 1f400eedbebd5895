"""The campaign for a GPU (benchmarks/gpu), rehearsed on the CPU: every part runs, resumes and says what it skipped."""

import json
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import run
from benchmarks.gpu.place import Place, SkippedError

QUICK = ["correct", "loss", "step", "published", "stacked", "fsdp"]


def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), is_rehearsal=True, corpus="", work=tmp_path / "work")


@pytest.mark.parametrize("name", QUICK)
def test_a_part_is_rehearsed(name, tmp_path):
    assert run.perform(name, place(tmp_path), tmp_path)
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert {"command", "date", "machine", "torch", "transformers", "trl"} <= found.keys()
    assert [row["cell"] for row in found["rows"]] == list(run.PARTS[name](place(tmp_path)))
    for row in found["rows"]:
        assert "failed" not in row and row.get("is_right", True) and row.get("is_the_same", True), row
        assert "skipped" in row or "is_right" in row or row["seconds"] > 0
    skipped = {row["cell"]: row["skipped"] for row in found["rows"] if "skipped" in row}
    assert all("liger" in why or "compiling" in why or "GB by our own formula" in why for why in skipped.values())
    if name == "published":  # on an H100 a teacher beside float32 states is refused before it is tried
        assert "states 38.6, teacher 16.1" in skipped["teacher beside, float32 states"]
    if name == "loss":
        assert ("Liger chunked JSD, 32k" in skipped) == (find_spec("liger_kernel") is None)


def test_what_was_measured_is_kept_and_what_was_not_is_tried_again(tmp_path, monkeypatch):
    calls = []

    def cell(name: str, error: Exception | None = None):
        def act() -> dict:
            calls.append(name)
            if error is not None:
                raise error
            return {"seconds": 1.0, "left": name == "slices" and calls.count(name) < 3}

        return act

    cells = {
        "wrong": cell("wrong", RuntimeError("no kernel image")),
        "fine": cell("fine"),
        "absent": cell("absent", SkippedError("trl is not installed")),
        "slices": cell("slices"),
    }
    monkeypatch.setitem(run.PARTS, "made", lambda place: cells)
    assert not run.perform("made", place(tmp_path), tmp_path)
    file = tmp_path / "made.json"
    table = json.loads(file.read_text())
    table["rows"].append({"cell": "fine", "device": "NVIDIA H200", "attempts": 1, "seconds": 0.1})
    file.write_text(json.dumps(table))
    assert not run.perform("made", place(tmp_path), tmp_path)
    assert run.perform("made", place(tmp_path), tmp_path)
    assert calls == ["wrong", "fine", "absent", "slices", "wrong", "slices", "slices"]
    rows = json.loads(file.read_text())["rows"]
    assert {(row["cell"], row["device"]) for row in rows} >= {("fine", "NVIDIA H200"), ("fine", "cpu, rehearsal")}
    assert {row["cell"]: row.get("failed") for row in rows}["wrong"] == "RuntimeError: no kernel image"
    assert run.perform("made", place(tmp_path), tmp_path) and len(calls) == 7


def test_a_part_that_was_cut_off_is_known_by_its_file(tmp_path, monkeypatch):
    def cut_off() -> dict:
        raise KeyboardInterrupt

    monkeypatch.setitem(run.PARTS, "made", lambda place: {"hangs": cut_off, "next": lambda: {"seconds": 1.0}})
    for left in (["next", "hangs"], ["hangs"]):
        if left[0] == "hangs":
            assert not json.loads((tmp_path / "made.json").read_text())["rows"][0]["attempts"] > 1
        with pytest.raises(KeyboardInterrupt):
            run.perform("made", place(tmp_path), tmp_path)
    rows = {row["cell"]: row for row in json.loads((tmp_path / "made.json").read_text())["rows"]}
    assert rows["hangs"]["failed"] == "cut off" and rows["next"]["seconds"] == 1.0


def test_the_command_says_what_it_wants(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, said in ((["correct"], "sees no GPU here"), (["speed"], "no part speed")):
        with pytest.raises(SystemExit):
            run.main([*arguments, "--out", str(tmp_path)])
        assert said in capsys.readouterr().err


def test_the_larger_table_is_what_it_says():
    study = tomllib.loads((Path(__file__).parents[2] / "studies" / "open-large.toml").read_text())
    assert len(study["teachers"]) == 12
    held_out = [cell for cell in study["cells"] if cell.get("holdout")]
    assert [cell["params"] for cell in held_out] == [["30M"]] and "30M" not in study["students"]["params"]


@pytest.mark.slow
def test_the_study_goes_on_slice_by_slice(tmp_path):
    there = place(tmp_path)
    assert run.perform("study", there, tmp_path)
    (row,) = json.loads((tmp_path / "study.json").read_text())["rows"]
    assert row["exit_code"] == 0 and row["done"] == row["known"] and not row["left"]
    assert (there.work / "open-large.tar.xz").exists()


@pytest.mark.slow
def test_the_command_itself(tmp_path):
    arguments = ["correct", "fsdp", "--rehearse", "--out", str(tmp_path), "--work", str(tmp_path / "work")]
    assert run.main(arguments) == 0
    assert {path.name for path in tmp_path.glob("*.json")} == {"correct.json", "fsdp.json"}
