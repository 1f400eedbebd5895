"""`distillaw laws` through the console script."""

import json
import subprocess


def distillaw(*args):
    return subprocess.run(["distillaw", *args], capture_output=True, text=True, timeout=60)


def test_list_marks_the_doubtful_sets():
    done = distillaw("laws")
    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "do not plan with it" in lines["busbridge2025"]
    assert "NOT PUBLISHED" in lines["surrogate-s1"]
    assert done.stdout.rstrip().splitlines()[-1].startswith("next: distillaw laws show")


def test_show_as_json_has_provenance():
    answer = json.loads(distillaw("laws", "show", "busbridge2025", "--json").stdout)
    assert answer["schema_version"] == 1
    assert answer["coefficients"]["supervised"]["gamma"] == {"value": 0.452, "interval": [0.442, 0.461]}
    assert "Table 6" in answer["source"] and answer["known_problems"] and answer["refuse_plan"] is True


def test_unknown_law_is_wrong_usage():
    done = distillaw("laws", "show", "busbridge")
    assert done.returncode == 2 and "did you mean 'busbridge2025'" in done.stderr
