"""What is embedded: complete, plain JSON, nothing that could end the script it stands in."""

import gzip
import json
import math
import re
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

import pytest

from distillaw.laws import search
from distillaw.laws.published import laws_available, published
from distillaw.page.bundle import planner_bundle, planner_page
from distillaw.planning import crossover, optimum, options, sensitivity, teacher_curve
from distillaw.planning.phrases import PHRASES
from in_process import answer

WEB = Path(__file__).parents[2] / "web"


def embedded(text):
    start = text.index('id="distillaw-data">') + len('id="distillaw-data">')
    return json.loads(text[start : text.index("</script>", start)])


def test_every_law_comes_with_its_coefficients_and_their_source():
    bundle = planner_bundle()
    records = [published(name).record for name in laws_available()]
    tables = [voice["coefficients"] for voice in bundle["published"] if voice["ensemble"]]
    assert all(t["source"] and t["rows"] and len(t["rows"][0]["values"]) == len(t["members"]) for t in tables)
    embedded_laws = {name: t for t in tables for name in t["members"]}
    of_teachers = {r.name for r in records if "distillation" in dict(r.coefficients) and not r.by_name_only}
    assert set(embedded_laws) == of_teachers
    for law in records:
        if law.name in embedded_laws:
            assert f"{law.name}: {law.source}; {law.obtained}." in embedded_laws[law.name]["source"]
    first = bundle["published"][0]
    assert first["coefficients"]["members"] == ["surrogate-s1", "surrogate-s2", "surrogate-s3"]
    assert math.exp(first["ensemble"]["plain"]["log_A"][0]) == pytest.approx(3355, rel=1e-12)
    [row] = [row for row in first["coefficients"]["rows"] if row["symbol"] == "A"]
    assert row["values"] == ["3355"] * 3


def _words(folder, *suffixes):
    """All text of the files that may say a phrase."""
    return "\n".join(
        path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes and path.name != "phrases.py"
    )


def test_the_page_is_given_every_phrase_that_it_says_and_none_is_said_by_nobody():
    """A phrase that the command no longer has would leave a hole in a sentence of the page."""
    page = _words(WEB / "src", ".ts", ".svelte")
    calls = re.findall(r"\b(?:say|refuse)\((.*?)(?:, [{]|[)];|[)]$)", page, re.MULTILINE)
    said = {name for call in calls for name in re.findall(r'(?:^|[?:] )"([^"]+)"', call)}
    assert {"decided by", "shown", "stronger", "weaker", "bill with"} <= said <= set(PHRASES)  # of choices too
    text = page + _words(WEB.parent / "src" / "distillaw", ".py")
    made = {re.sub(r"[$]?[{].*?[}]", "*", name) for name in re.findall(r'\bsay\(f?["`](.*?)["`]', text)}
    assert not [p for p in PHRASES if f'"{p}"' not in text and not any(fnmatch(p, name) for name in made)]


def test_every_device_and_teacher_says_where_its_numbers_come_from():
    bundle = planner_bundle()
    assert all(h["peak_source"] and h["mfu_source"] for h in bundle["hardware"])
    assert all(t["source"] and t["tokens"] > 0 for t in bundle["teachers"])
    assert len(bundle["teachers"]) > 20


def test_the_page_holds_the_data_once_and_nothing_that_ends_its_script():
    text = planner_page()
    found = embedded(text)
    assert found == json.loads(json.dumps(planner_bundle()))
    body = text[text.index('id="distillaw-data">') :]
    assert "<" not in body[: body.index("</script>")].split(">", 1)[1]


def test_the_page_names_no_address_to_load_from():
    text = planner_page()
    for what in ('src="http', "src='http", 'href="http', "@import", "fetch(", "XMLHttpRequest", "WebSocket("):
        assert what not in text, what


def test_the_command_writes_the_page_and_says_so(tmp_path):
    path = tmp_path / "planner.html"
    done = answer("page", "--out", path)
    assert done.returncode == 0 and "no network" in done.stdout
    assert embedded(path.read_text(encoding="utf-8"))["study"] is None
    again = json.loads(answer("page", "--out", path, "--law", "busbridge2025", "--json").stdout)
    assert again["bytes"] == path.stat().st_size and again["laws"] == ["busbridge2025"]


def test_wrong_input_is_refused_with_what_to_do(tmp_path):
    unknown = answer("page", "--out", tmp_path / "p.html", "--law", "busbrige2025")
    assert unknown.returncode == 2 and "did you mean 'busbridge2025'" in unknown.stderr
    missing = answer("page", "--out", tmp_path / "p.html", "--study", tmp_path / "none")
    assert missing.returncode == 1 and "no such folder" in missing.stderr
    assert not (tmp_path / "p.html").exists()


SEARCHES = {
    "plan/options.ts": {"TEACHERS": options._TEACHERS, "ZOOMS": options._ZOOMS, "SKETCH_ZOOMS": options._SKETCH_ZOOMS},
    "plan/crossover.ts": {
        "SPAN": crossover._SPAN,
        "POINTS": crossover._POINTS,
        "MEMBERS": crossover._MEMBERS,
        "SIZES": teacher_curve._POINTS,
        "SIZE_SPAN": teacher_curve._SPAN,
        "EDGE": teacher_curve._EDGE,
    },
    "plan/flips.ts": {
        "STEPS": sensitivity._STEPS,
        "NATS": sensitivity._NATS,
        "HALVINGS": sensitivity._HALVINGS,
        "ONWARDS": sensitivity._ONWARDS,
    },
    "plan/optimum.ts": {
        "SPACING": optimum._GRID_SPACING,
        "ODDS": optimum._ODDS,
        "VALLEYS": optimum._VALLEYS,
        "SCOUTS": optimum._SCOUTS,
        "EDGE_POINTS": optimum._EDGE_POINTS,
        "NEAR": optimum._NEAR,
        "UNPAID": optimum._UNPAID,
        "BEYOND": optimum._BEYOND,
        "AT_BOUND": optimum._AT_BOUND,
        "STENCIL": search.STENCIL,
        "STEPS": search._STEPS,
        "LONGEST": search._LONGEST,
    },
}
"""Constant of a source of the page -> what the command has."""


@pytest.mark.parametrize("source", SEARCHES)
def test_the_page_searches_where_the_command_does(source):
    text = (WEB / "src" / source).read_text()
    found = dict(re.findall(r"^const (\w+) = ([^;]+?)(?: as const)?;", text, re.MULTILINE))
    for name, value in SEARCHES[source].items():
        read = eval(found[name], {"__builtins__": {}})
        assert read == pytest.approx(list(value) if isinstance(value, tuple) else value), name


def test_the_page_weighs_what_its_page_says():
    built = files("distillaw.page").joinpath("built", "planner.html").read_bytes()
    whole = len(planner_page().encode())
    found = [len(built), len(gzip.compress(built)), whole - len(built), whole]
    text = (WEB.parent / "docs" / "page.md").read_text()
    said = re.search(r"one file of (\d+) kB \((\d+) kB gzipped\); data add\s+(\d+) kB", text).groups()
    said += re.search(r"planner\.html \((\d+) kB\)", text).groups()
    assert [1000 * int(kilo) for kilo in said] == pytest.approx(found, rel=0.02)
