"""What can be answered without a heavy library never imports one.

The calls run in forks of one process that has imported the command line alone.
"""

import json
import subprocess
import sys

import pytest

from tiny import STUDY

HEAVY = "torch transformers scipy matplotlib pyarrow pandas jinja2 trl datasets distillaw.sweep.scheduler".split()
CALLS = """\
--help
__complete predict --law b
cache build --help
cost --params 1B --tokens 20B --json
doctor --no-measure --json --out .
fit --help
gap --student 1B --explain
instruct sft --help
laws
map gain --size 4
page --out planner.html
plan --student 1B --tokens 20B --explain
predict --law busbridge2025 --student 1B --tokens 20B --json
regime --params 3M --tokens 6B
study --help
study show tiny.toml
toys kernel
toys mapping --help
worlds list
worlds show tiny --documents 2
dl.published('busbridge2025').supervised(params=1e9, tokens=1e10)
v = dl.plan(money=3000, max_params='3B', teachers=['pythia-6.9b'], students_served=3); v._repr_html_(); v.to_json()
""".splitlines()
MAY = {
    "map gain --size 4": {"scipy"},  # its lines are splines
    "page --out planner.html": {"scipy"},
    "study show tiny.toml": {"distillaw.sweep.scheduler"},  # ours, and no other verb's before it trains
    "worlds show tiny --documents 2": {"scipy"},
}
MOST = {"gap --student 1B --explain": 95, "laws": 50, "plan --student 1B --tokens 20B --explain": 105}
MOST["study show tiny.toml"] = 100
"""Modules of our own, a tenth more than they bring: one import at the top of a command can bring a room of fifty."""
IN_A_FORK = """
import json, os, sys
import distillaw as dl
from distillaw.cli.app import app

calls, heavy = json.loads(sys.argv[1])
for call in calls:
    if os.fork() == 0:
        error = ""
        null = open(os.devnull, "w")
        sys.stdout = sys.stderr = null
        try:
            sys.argv = ["distillaw", *call.split()]
            exec(call) if "dl." in call else app(sys.argv[1:], exit_on_error=False, result_action="return_value")
        except SystemExit as ended:
            error = f"exit {ended.code}" if ended.code else ""
        except BaseException as raised:
            error = repr(raised)
        ours = sum(name.partition(".")[0] == "distillaw" for name in sys.modules)
        found = [call, error, [name for name in heavy if name in sys.modules], ours]
        os.write(1, (json.dumps(found) + "\\n").encode())
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list]:
    """What each call raised and imported."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "tiny.toml").write_text(STUDY)
    asked = json.dumps([CALLS, HEAVY])
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FORK, asked], capture_output=True, text=True, cwd=folder, check=True
    )
    return {call: rest for call, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("call", CALLS)
def test_nothing_heavy_is_imported(call, found):
    error, imported, ours = found[call]
    assert not error and set(imported) <= MAY.get(call, set())
    assert ours <= MOST.get(call, ours)
