"""`distillaw laws` through the console script."""

import json

import numpy as np

import distillaw as dl
from distillaw.laws.published import published
from in_process import answer as distillaw


def test_list_marks_the_doubtful_sets():
    done = distillaw("laws", code=0)
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "do not plan with it" in lines["busbridge2025"]
    assert "NOT PUBLISHED" in lines["surrogate-s1"]
    assert "refitted by us" in lines["gemstones-hot"] and "refitted" not in lines["busbridge2025"]
    assert done.stdout.rstrip().splitlines()[-1].startswith("next: distillaw laws show")


def test_show_as_json_has_provenance():
    answer = json.loads(distillaw("laws", "show", "busbridge2025", "--json").stdout)
    assert answer["schema_version"] == 1
    assert answer["coefficients"]["supervised"]["gamma"] == {"value": 0.452, "interval": [0.442, 0.461]}
    assert "Table 6" in answer["source"] and answer["known_problems"] and answer["refuse_plan"] is True


def test_show_says_what_is_identified_and_how_wrong_it_may_be():
    text = distillaw("laws", "show", "busbridge2025").stdout
    for words in (
        "WARNING: The printed distillation coefficients",
        "Table 6",
        "effective break, not d1",
        "what is identified",
        "[2.425, 2.615]",
        "valid for teacher loss 1.85 to 2.8",
        "error of supervised predictions: 1 %",
        "L_T^(-c0)",
    ):
        assert words in text, words
    answer = json.loads(distillaw("laws", "show", "busbridge2025", "--json").stdout)
    assert round(answer["derived"]["distillation"]["break"], 2) == 0.93
    assert round(answer["derived"]["distillation"]["kappa"], 3) == 2.244


def test_every_law_is_shown_and_its_next_command_works():
    for entry in json.loads(distillaw("laws", "--json").stdout)["laws"]:
        shown = distillaw("laws", "show", entry["name"]).stdout
        command = shown.rstrip().splitlines()[-1].removeprefix("next: distillaw ").split()
        assert distillaw(*command).returncode == 0, command


def test_unknown_law_is_wrong_usage():
    done = distillaw("laws", "show", "busbridge")
    assert done.returncode == 2 and "did you mean 'busbridge2025'" in done.stderr


def test_fitted_laws_are_listed_beside_the_published_ones(tmp_path):
    law = published("besiroglu2024").supervised
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(3e9, 5e11, 5)))
    fit = dl.fit({"params": N, "tokens": D, "loss": law(params=N, tokens=D)}, family="chinchilla", bootstrap=9)
    (tmp_path / "laws").mkdir()
    file = fit.save(tmp_path / "laws/chinchilla.json")
    for place in (tmp_path, file):
        *_, last = json.loads(distillaw("laws", "--study", place, "--json").stdout)["laws"]
        assert last["name"] == str(file) and last["coefficients"]["chinchilla"]["E"]["value"] == fit.params["E"]
    said = distillaw("laws", "--study", tmp_path).stdout
    assert "besiroglu2024" in said and "chinchilla, CONVERGED: 25 rows" in said
    assert distillaw(*said.rstrip().splitlines()[-1].removeprefix("next: distillaw ").split()).returncode == 0
    for place, words in ((tmp_path / "laws", "no fitted law there"), (tmp_path / "none.json", "none.json")):
        done = distillaw("laws", "--study", place)
        assert done.returncode in (1, 2) and words in done.stderr and not done.stdout
