"""`distillaw teachers` through the console script."""

import json
import re

from in_process import answer as distillaw
from in_terminal import in_terminal


def test_the_table_and_a_filter():
    done = distillaw("teachers", code=0)
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "1.21B" in lines["pythia-1.4b"] and "300B" in lines["pythia-1.4b"]
    assert "< 18T" in lines["Qwen2.5-7B"] and "> 15T" in lines["Llama-3.1-8B"] and " - " in lines["gpt2-xl"]
    assert "[distilled]" in lines["Llama-3.2-1B"] and "[distilled]" not in lines["Llama-3.1-8B"]
    assert "[instruction-tuned]" in lines["Phi-4"]
    some = distillaw("teachers", "smollm").stdout
    assert "SmolLM2-360M" in some and "pythia" not in some


def test_rows_are_whole_in_a_pipe_and_fit_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    piped = distillaw("teachers", "pythia")
    assert not [line for line in piped.stdout.splitlines() if line.startswith(" ")]
    for columns in (60, 90, 120):
        shown = in_terminal("teachers", "pythia", "--quiet", columns=columns)
        assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines())) <= columns
        assert " ".join(shown.split()).count("143,000 steps of 2,097,152 tokens") > 3
        if columns < 100:  # the source has lines of its own
            assert len([line for line in shown.splitlines() if line.startswith("    ")]) > 8


def test_one_model_shows_its_sources():
    text = distillaw("teachers", "pythia-1b").stdout
    assert "805,736,448 non-embedding" in text and "exact 299,892,736,000" in text and "2304.01373" in text
    assert "recalled, not read again" in text  # the tokenizer
    assert "16 layers, width 2048" in text


def test_json():
    answer = json.loads(distillaw("teachers", "Qwen2.5-7B", "--json").stdout)
    assert answer["schema_version"] == 1
    (teacher,) = answer["teachers"]
    assert teacher["params"] == 6525621760 and teacher["tokens_bound"] == "at most"
    assert teacher["sources"]["tokens"]["certainty"] == "seen"
    assert len(json.loads(distillaw("teachers", "--json").stdout)["teachers"]) == 52


def test_an_unknown_name_is_wrong_usage():
    done = distillaw("teachers", "qwen2.5-8b")
    assert done.returncode == 2 and "near it: Qwen2.5-" in done.stderr
