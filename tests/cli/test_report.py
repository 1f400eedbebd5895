import base64
import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "planning"))

from synthetic_study import write_study

from distillaw.runs.files import read_json
from in_process import answer as in_process

run = partial(in_process, "report")


def test_the_report_is_written_where_asked(tmp_path):
    write_study(tmp_path / "study")
    answer = json.loads(run(tmp_path / "study", "--out", tmp_path / "elsewhere" / "page.html", "--json", code=0).stdout)
    assert answer["schema_version"] == 1
    assert Path(answer["report"]).read_text().startswith("<!doctype html>")
    assert answer["verdict"]["verdict"] == "distil"
    assert read_json(tmp_path / "elsewhere" / "page.verdict.json") == answer["verdict"]


def test_a_missing_folder_is_one_clear_line(tmp_path):
    done = run(tmp_path / "nowhere", code=1)
    assert "no such folder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_every_figure_of_the_page_is_written_as_the_file_that_the_page_holds(tmp_path):
    write_study(tmp_path / "study")
    (tmp_path / "study" / "tuning.json").unlink()  # whose picture has the most panels
    words = (tmp_path / "study", "--figures", tmp_path / "figures", "--format", "svg,pdf", "--json")
    answer = json.loads(run(*words, drawn=True, code=0).stdout)
    assert answer["figures"] == str(tmp_path / "figures")
    shown = re.findall(r'<figure id="([^"]+)">', Path(answer["report"]).read_text())
    written = sorted(path.name for path in (tmp_path / "figures").glob("[!.]*"))
    assert written == sorted(f"{name}.{kind}" for name in shown for kind in ("svg", "pdf"))
    assert {"capacity-gap", "token-curves", "pareto"} <= set(shown)
    assert (tmp_path / "figures" / "pareto.pdf").read_bytes().startswith(b"%PDF-1.")
    page = (tmp_path / "study" / "report.html").read_text()
    inside = dict(re.findall(r'download="([^"]+)\.pdf"[^>]*base64,([^"]+)"', page))
    assert inside.keys() == {*shown}
    for name, text in inside.items():
        assert base64.b64decode(text) == (tmp_path / "figures" / f"{name}.pdf").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--figures", "f", "--format", "svg,pfd"], "did you mean 'pdf'"), (["--format", "svg"], "--figures FOLDER")],
)
def test_formats_that_cannot_be_written_are_refused_before_anything_is(tmp_path, arguments, says):
    write_study(tmp_path / "study")
    done = run(tmp_path / "study", *arguments)
    assert done.returncode != 0 and says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "study" / "report.html").exists()
