import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "planning"))

from synthetic_study import write_study

BIN = [sys.executable, "-m", "distillaw", "report"]


def run(*arguments):
    return subprocess.run([*BIN, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_report_is_written_where_asked(tmp_path):
    write_study(tmp_path / "study")
    done = run(tmp_path / "study", "--out", tmp_path / "elsewhere" / "page.html", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["schema_version"] == 1
    assert Path(answer["report"]).read_text().startswith("<!doctype html>")
    assert answer["verdict"]["verdict"] == "distil"
    assert (tmp_path / "elsewhere" / "verdict.json").exists()


def test_a_missing_folder_is_one_clear_line(tmp_path):
    done = run(tmp_path / "nowhere")
    assert done.returncode == 1
    assert "no such folder" in done.stderr
    assert "Traceback" not in done.stderr
