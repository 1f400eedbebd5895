"""Generated programs: what they are kept from, and that right ones pass."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distillaw.errors import ConfigError
from distillaw.evaluate.sandbox import ALL_WALLS, Limits, check_sample, pass_at_k, run_program

QUICK = Limits(seconds=1.0)
"""For what would go on for ever."""
PATIENT = Limits(seconds=20.0, memory_bytes=1 << 28)
"""For what ends by itself, which a busy machine is slow to; what fills the memory has it full sooner."""
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="namespaces, landlock and seccomp are Linux's")


def walls():
    return run_program("pass", limits=PATIENT).walls


@LINUX
def test_what_this_machine_has_of_walls():
    """On the machines this project is made on all walls stand; elsewhere `limits` always does."""
    assert set(walls()) <= set(ALL_WALLS)
    assert "limits" in walls()


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("assert sorted([2, 1]) == [1, 2]", "passed"),
        ("assert 1 == 2", "failed"),
        ("def f(:", "failed"),
        ("while True: pass", "timeout"),
        ("import time; time.sleep(60)", "timeout"),
        ("import sys; sys.exit(0)\nassert False", "exited"),
        ("import os; os._exit(0)", "exited"),
        ("raise SystemExit", "exited"),
        ("while True: print('x' * 10_000)", "output"),
        ("x = bytearray(8 << 30)", "failed"),
        ("x = []\nwhile True: x.append('x' * 10_000_000)", "failed"),
        ("input()", "failed"),
        ("import os; assert os.listdir('.') == [] and set(os.environ) <= {'LC_CTYPE'}", "passed"),
        ("open('mine', 'w').write('x'); assert open('mine').read() == 'x'", "passed"),
    ],
)
def test_verdicts(program, verdict):
    limits = QUICK if verdict == "timeout" else PATIENT
    outcome = run_program(program, limits=limits)
    assert outcome.verdict == verdict, outcome
    assert verdict != "timeout" or outcome.seconds < 60  # of one that was granted
    assert len(outcome.output) <= 2000


@LINUX
@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['true'], check=True)",
        "import os; os.setsid()",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.kill(-1, 9)",
        "import socket; socket.socket()",
    ],
)
def test_no_processes_no_signals_no_sockets(program):
    if not {"calls", "processes"} <= set(walls()):
        pytest.skip("this kernel has no seccomp or no namespaces for us")
    outcome = run_program(program, limits=PATIENT)
    assert outcome.verdict == "failed"
    assert "not permitted" in outcome.output


ALL_REFUSED = """
import os
succeeded = []
for act in {acts}:
    try:
        exec(act)
    except OSError:
        continue
    succeeded.append(act)
assert not succeeded, succeeded
"""


@LINUX
def test_no_file_beyond_its_folder_is_read_or_changed(tmp_path):
    if "files" not in walls():
        pytest.skip("this kernel has no landlock")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    mode = victim.stat().st_mode
    home = Path.home() / ".distillaw-sandbox-test"
    acts = [
        f"open({str(victim)!r}, 'w')",
        f"open({str(victim)!r}).read()",
        f"os.remove({str(victim)!r})",
        f"os.rename({str(victim)!r}, 'x')",
        f"os.symlink({str(victim)!r}, 'x'); open('x').read()",
        f"os.chmod({str(victim)!r}, 0)",
        f"os.truncate({str(victim)!r}, 0)",
        f"os.listdir({str(tmp_path)!r})",
        f"os.mkdir({str(tmp_path / 'new')!r})",
        f"open({str(home)!r}, 'w').write('x')",
    ]
    outcome = run_program(ALL_REFUSED.format(acts=acts), limits=PATIENT)
    assert outcome.verdict == "passed", outcome.output
    assert not home.exists() and not (tmp_path / "new").exists()
    assert (victim.read_text(), victim.stat().st_mode) == ("precious", mode)


def test_the_disk_is_not_filled():
    program = "for i in range(10 ** 6): open(str(i), 'w').write('x' * 1_000_000)"
    if "disk" not in walls():
        pytest.skip("no file system of its own here; each file is limited, their number only by time")
    assert "No space left" in run_program(program, limits=PATIENT).output


def test_nothing_is_left_of_a_program_that_was_cut_off(tmp_path):
    before = {each.name for each in Path("/tmp").glob("distillaw-sandbox-*")}
    run_program("import time\ntry:\n  time.sleep(60)\nexcept BaseException:\n  time.sleep(60)", limits=QUICK)
    assert {each.name for each in Path("/tmp").glob("distillaw-sandbox-*")} <= before
    left = subprocess.run(["pgrep", "-f", "sandbox_child.py"], capture_output=True, text=True, check=False).stdout
    mine = [pid for pid in left.split() if _parent(int(pid)) == os.getpid()]
    assert mine == []


def _parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_program_cannot_send_a_signal_that_ends_us():
    """Were it in our group or allowed to kill, this test would end here."""
    caught = []
    old = signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
    run_program(f"import os, signal; os.kill({os.getpid()}, signal.SIGTERM)", limits=PATIENT)
    signal.signal(signal.SIGTERM, old)
    if {"calls"} <= set(walls()):
        assert caught == []


def test_pass_at_k_is_the_share_of_draws_of_k_with_one_that_passes():
    from itertools import combinations

    for n, c in ((6, 2), (5, 0), (5, 5), (7, 1)):
        for k in range(1, n + 1):
            draws = list(combinations(range(n), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(min(d) < c for d in draws) / len(draws))
    with pytest.raises(ConfigError, match="between 1 and"):
        pass_at_k(3, 1, 4)


@pytest.fixture(scope="module")
def problems(shared_data):
    file = shared_data / "evals" / "humaneval" / "HumanEval.jsonl.gz"
    return [json.loads(line) for line in gzip.open(file, "rt")]


def test_canonical_solutions_pass_and_wrong_ones_do_not(problems):
    some = problems[::40]
    assert all(check_sample(p, p["canonical_solution"]).passed for p in some)
    answers = ("    return None\n", "    import sys; sys.exit(0)\n", some[0]["canonical_solution"])
    assert [check_sample(some[0], each).verdict for each in answers] == ["failed", "exited", "passed"]


@pytest.mark.slow
def test_all_canonical_solutions_pass(problems):
    failed = [p["task_id"] for p in problems if not check_sample(p, p["canonical_solution"]).passed]
    assert (failed, len(problems)) == ([], 164)
