"""benchmarks/README.md names every script and every result there is, and every script can still be imported."""

import ast
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.result_file import save

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
README = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
ALONE = {"peers_task", "peers_variants"}  # run by their path, by the interpreters of other tools
MODULES = {
    ".".join(path.relative_to(BENCHMARKS).with_suffix("").parts): path for path in sorted(BENCHMARKS.glob("*/*.py"))
}


def test_the_table_names_what_can_be_run():
    commands = set(re.findall(r"^\| `(\w+\.\w+)", README, re.MULTILINE))
    assert commands == {name for name, path in MODULES.items() if "__main__" in path.read_text()} - {
        "engine.peers_variants"
    }


def test_the_table_names_every_result():
    files = [path for path in (BENCHMARKS / "results").rglob("*") if path.is_file()]
    results = {path.name for path in files if not path.name.startswith(".") and path.parent.name != "gpu"}
    assert results == set(re.findall(r"`(\w+\.(?:json|csv|npz))`", README))
    of_parts = {path.stem for path in files if path.parent.name == "gpu"}
    assert of_parts <= set(re.findall(r"`(\w+)`: ", README))


def test_a_result_is_written_over_the_one_before(tmp_path):
    """Those of the tree say of themselves nothing by which they could be known as ours."""
    (tmp_path / "found.json").write_text('{"rows": [1]}')
    save(tmp_path / "found.json", "python -m benchmarks.x", rows=[np.float64(2.0)])
    assert json.loads((tmp_path / "found.json").read_text())["rows"] == [2.0]
    calls = [
        (name, call)
        for name, path in MODULES.items()
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "write_text"
    ]
    assert calls
    refused = [f"{name}:{c.lineno}" for name, c in calls if "known" not in {k.arg for k in c.keywords}]
    assert not refused, "refused after hours of work, since the file is there"


def test_scripts_import():
    for name in MODULES:
        if name.split(".")[1] not in ALONE:
            importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize(("name", "arguments"), [("sequential.run", ()), ("settle.run", (0,)), ("verdict.run", ((),))])
def test_results_are_marked_with_the_code_that_gave_them(name, arguments):
    """Of files that are there: partial results of another state are not continued."""
    fingerprint = importlib.import_module(f"benchmarks.{name}").fingerprint
    assert fingerprint(*arguments) == fingerprint(*arguments) != ""
