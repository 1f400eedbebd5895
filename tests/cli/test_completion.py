"""Tab in a real bash; the scripts of the other shells where those are installed."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from distillaw.accounting.families import named_models
from distillaw.accounting.hardware import hardware_presets
from distillaw.cli.verbs import VERBS
from distillaw.laws.published import laws_available
from distillaw.protocols.catalogue import KINDS
from distillaw.worlds.spec import PRESETS
from in_process import answer
from thinned import one_in


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The bash script, as it is printed."""
    done = answer("completion", "bash", code=0)
    path = tmp_path_factory.mktemp("bash") / "distillaw.bash"
    path.write_text(done.stdout, encoding="utf-8")
    return path


def tab(script, line, cwd):
    """What bash offers after `line`, which ends where Tab is pressed."""
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    code = (
        f"source '{script}'; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _distillaw distillaw; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, cwd=cwd, check=True)
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("distillaw ", {name for name in VERBS if not name.startswith("-")}),
        ("distillaw pr", {"predict", "prune"}),
        ("distillaw study st", {"status"}),
        ("distillaw plan --sce", {"--scenario"}),
        ("distillaw plan --scenario inf", {"inference"}),
        ("distillaw fit runs.csv --law distillation-r", {"distillation-reduced", "distillation-reduced-q"}),
        ("distillaw predict --law surr", {name for name in laws_available() if name.startswith("surr")}),
        ("distillaw cost --hardware h", {name for name in hardware_presets() if name.startswith("h")}),
        ("distillaw plan --teacher pythia-1", {m.name for m in named_models() if m.name.startswith("pythia-1")}),
        ("distillaw study new --kind iso", {kind.name for kind in KINDS if kind.name.startswith("iso")}),
        ("distillaw worlds show h", {name for name in PRESETS if name.startswith("h")}),
        ("distillaw train sp", {"spec.toml"}),
        ("distillaw scout --text te", {"text.jsonl"}),
        ("distillaw predict --law fit", {"fitted.json"}),
    ],
)
def test_tab_in_bash(script, tmp_path, line, offered):
    for name in ("spec.toml", "text.jsonl", "fitted.json"):
        (tmp_path / name).touch()
    assert set(tab(script, line, tmp_path)) == offered


@pytest.mark.parametrize("shell", one_in(3, ["bash", "zsh", "fish"]))
def test_scripts_parse(shell, tmp_path):
    document = json.loads(answer("completion", shell, "--json").stdout)
    assert document["schema_version"] == 1 and document["shell"] == shell and "doctor" in document["script"]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; its script was only generated")
    path = tmp_path / "script"
    path.write_text(document["script"], encoding="utf-8")
    checked = subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_install_into_a_home_of_its_own(tmp_path):
    env = os.environ | {"HOME": str(tmp_path), "SHELL": "/bin/bash"}
    env.pop("XDG_DATA_HOME", None)
    command = [sys.executable, "-m", "distillaw", "--install-completion", "--shell", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    installed = tmp_path / ".local/share/bash-completion/completions/distillaw"
    assert "_distillaw" in installed.read_text(encoding="utf-8")
    assert str(installed) in done.stdout and done.stdout.splitlines()[-1].startswith("next: ")


def test_a_script_written_elsewhere_is_not_called_installed(tmp_path):
    file = tmp_path / "comp.bash"
    done = answer("--install-completion", "--shell", "bash", "--out", file)
    assert done.returncode == 0 and file.exists()
    assert "start a new" not in done.stdout and done.stdout.splitlines()[-1] == f"next: source {file}"


def test_an_unknown_shell_is_refused():
    done = answer("completion", "tcsh")
    assert done.returncode == 2 and "zsh" in done.stderr and "Traceback" not in done.stderr
