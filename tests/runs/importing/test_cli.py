"""`distillaw study import` from outside: what it prints, and that fit, plan and report read what it wrote."""

import json
import subprocess
import sys

from tracked import THEIRS, write_csv

WORDS = (*"--columns params=size,tokens=toks,teacher_run=teacher,lambda=kd --params-convention non-embedding".split(),)


def theirs(tmp_path, pocket):
    return write_csv(tmp_path / "theirs.csv", [{t: row[ours] for t, ours in THEIRS.items()} for row in pocket])


def test_import_then_plan_and_report(tmp_path, pocket, cli):
    file = theirs(tmp_path, pocket)
    code, text, _ = cli("study", "import", file, *WORDS, "--out", "out")
    assert code == 0
    assert (
        f"71 rows of 26 independent runs, {sum(bool(row['teacher_run']) for row in pocket)} of them distilled" in text
    )
    assert "loss         val_loss  (a usual name; nats per token" in text
    assert "next: distillaw fit out --law distillation-auto" in text
    code, text, _ = cli("plan", "--study", "out", "--student", "0.2M", "--tokens", "600k", "--json")
    assert (code, json.loads(text)["verdict"]) == (0, "distil")
    code, text, _ = cli("report", "out")
    assert code == 0
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


def test_json_and_dry_run(tmp_path, pocket, cli):
    file = theirs(tmp_path, pocket)
    code, text, _ = cli("study", "import", file, *WORDS, "--dry-run", "--json")
    answer = json.loads(text)
    assert (code, answer["schema_version"], answer["rows"], answer["out"]) == (0, 1, 71, None)
    assert answer["sources"][0]["columns"]["run"] == {"column": "name", "why": "a usual name"}
    code, text, _ = cli("study", "import", file, *WORDS, "--out", "o.parquet", "--json")
    assert json.loads(text)["added"] == 71


def test_wrong_usage(tmp_path, pocket, cli):
    file = theirs(tmp_path, pocket)
    for words, message in (
        ((file,), "--out FOLDER"),
        (("--out", "o"), "name at least one file"),
        ((file, *WORDS, "--out", "o.csv"), "ending in .parquet"),
        ((file, *WORDS, "--at", "soon", "--out", "o"), "last, all, or token counts"),
    ):
        code, _, error = cli("study", "import", *words)
        assert (code, message in error) == (2, True), error


def test_the_package_is_light():
    modules = "import sys, distillaw.runs.importing.api\n"
    done = subprocess.run([sys.executable, "-c", modules + "print(*sys.modules)"], capture_output=True, text=True)
    heavy = {"torch", "scipy", "tensorboard", "google.protobuf", "pyarrow", "wandb", "trackio"}
    assert done.returncode == 0
    assert not heavy & set(done.stdout.split())
