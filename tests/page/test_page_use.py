"""The page as people use it: inputs, links, files, keyboard, screen reader, paper."""

import csv
import io
import json
import re
import shlex
import tomllib

import pytest
from synthetic_study import World, write_study

from distillaw.page.bundle import write_planner_page
from in_browser import grave_findings, saved_file
from in_process import answer
from typeset import people

pytestmark = pytest.mark.slow


def text(page, name):
    return page.inner_text(f"[data-testid={name}]")


def downloaded(page, name):
    return saved_file(page, f"[data-testid={name}]")


def test_a_change_of_input_changes_verdict_and_figures(open_page, planner):
    page = open_page(planner)
    page.wait_for_selector("[data-testid=figure-map] svg")
    before, drawn = text(page, "sentence"), page.inner_html("[data-testid=figure-loss-over-tokens] .frame")
    page.fill("#budget", "200B")
    page.wait_for_function("old => document.querySelector('[data-testid=sentence]').innerText !== old", arg=before)
    page.wait_for_function(
        "old => document.querySelector('[data-testid=figure-loss-over-tokens] .frame').innerHTML !== old", arg=drawn
    )
    assert "200B tokens" in text(page, "sentence") and "200B" in text(page, "command")


def test_a_slider_moves_the_verdict(open_page, planner):
    page = open_page(planner)
    before = text(page, "sentence")
    page.focus("[data-testid=budget-slider]")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.input_value("#budget") != "20B"
    page.wait_for_function("old => document.querySelector('[data-testid=sentence]').innerText !== old", arg=before)


def test_wrong_input_is_said_and_the_last_answer_is_marked_old(open_page, planner):
    page = open_page(planner)
    page.fill("#budget", "20Q")
    assert "cannot read '20Q'" in text(page, "problem")
    assert page.get_attribute("[data-testid=answer]", "aria-busy") == "true"
    page.fill("#budget", "1M")
    assert "tokens per parameter" in text(page, "problem")
    page.fill("#budget", "20B")
    assert page.locator("[data-testid=problem]").count() == 0


def test_an_emptied_field_stays_and_is_no_free_size(open_page, planner):
    page = open_page(planner)
    page.fill("#student", "")
    assert "student: cannot read ''" in text(page, "problem")
    assert page.locator("#student").is_visible() and not page.is_checked("[data-testid=student-free]")
    assert "Searching" not in text(page, "answer") and "student=" not in page.url
    page.fill("#student", "2B")
    assert page.locator("[data-testid=problem]").count() == 0 and "2B student" in text(page, "sentence")
    page.check("[data-testid=student-free]")
    assert page.locator("#student").count() == 0 and page.url.split("#")[1].startswith("student=&")
    assert open_page(planner, page.url.split("#")[1]).is_checked("[data-testid=student-free]")


def test_a_link_holds_the_whole_question(open_page, planner):
    page = open_page(planner)
    page.select_option("#budget-kind", "money")
    page.fill("#budget", "500000")
    page.select_option("#device", "a100-80gb")
    page.fill("#price", "1.25")
    page.select_option("#named", "Llama-3.1-8B")
    page.click("[data-testid=add-own]")
    page.fill("[data-testid=own-loss-0]", "1.9")
    page.select_option("#scenario", "pretraining-inference")
    page.check("[data-testid=logits-stored]")
    page.fill("#students-served", "6")
    page.uncheck("[data-testid=may-train]")
    sentence, command = text(page, "sentence"), text(page, "command")
    again = open_page(planner, page.url.split("#")[1])
    assert text(again, "sentence") == sentence and text(again, "command") == command
    again.evaluate("location.hash = ''")
    again.wait_for_function("old => document.querySelector('[data-testid=command]').innerText !== old", arg=command)
    assert text(again, "command").startswith("distillaw plan --student 1B --tokens 20B")


def test_the_command_shown_gives_the_same_sentence(open_page, planner):
    page = open_page(planner)
    page.fill("#student", "300M")
    page.fill("#budget", "6B")
    [name, *words] = shlex.split(text(page, "command"))
    assert name == "distillaw"
    done = answer(*words)
    verdict, rest = text(page, "sentence").rstrip(".").split(" ", 1)
    assert done.returncode == 0
    assert people(done.stdout.replace("\n", " ")).startswith(f"{verdict.upper()} {rest}")


def test_tables_are_saved_as_csv(open_page, planner):
    page = open_page(planner)
    page.wait_for_selector("[data-testid=figure-loss-over-tokens] svg")
    rows = list(csv.DictReader(io.StringIO(downloaded(page, "save-csv").decode())))
    ours = page.evaluate("distillaw.plan({})")
    assert [row["strategy"] for row in rows] == [row["name"] for row in ours["strategies"]]
    assert float(rows[0]["loss_mean"]) == ours["strategies"][0]["loss"]["mean"]
    curve = list(csv.DictReader(io.StringIO(downloaded(page, "loss-over-tokens-csv").decode())))
    field = list(csv.DictReader(io.StringIO(downloaded(page, "map-csv").decode())))
    here = min(field, key=lambda r: abs(float(r["student_tokens"]) - 2e10) + 10 * abs(float(r["student_params"]) - 1e9))
    assert len(field) > 1000 and float(here["gain_mean"]) == pytest.approx(ours["gain"]["mean"], abs=0.02)
    assert len(curve) > 20 and all(
        float(r["alone_lower"]) < float(r["alone_mean"]) < float(r["alone_upper"]) for r in curve
    )


def test_the_question_is_saved_as_toml(open_page, planner):
    page = open_page(planner)
    page.select_option("#named", "pythia-1.4b")
    found = tomllib.loads(downloaded(page, "save-toml").decode())
    assert found == {"plan": {"student": "1B", "tokens": "20B", "teacher": ["pythia-1.4b"]}}
    page.click("[data-testid=add-own]")
    both = tomllib.loads(downloaded(page, "save-toml").decode())
    assert both == {"plan": {**found["plan"], "teacher-params": ["3B"], "teacher-tokens": ["1T"]}}


@pytest.mark.parametrize(
    "question",
    [
        "teacher=pythia-1.4b&level=0.8",
        "student=&budgetKind=money&budget=5000&price=1.5&device=a100-80gb&scenario=pretraining&serveMemory=6e9"
        "&weightBytes=0.5&own=3B~60B~2.1_7B~1T~2.0&trainOwn=true&logits=stored&studentsServed=4&inferenceTokens=1e11",
    ],
)
def test_the_command_reads_the_toml_of_the_page(question, open_page, planner, tmp_path, monkeypatch):
    """Page to file to command: the same JSON as that of the command shown, and the page's own sentence."""
    monkeypatch.setattr("distillaw.planning.api.switching_values", lambda *args, **words: [])
    page = open_page(planner, question)
    path = tmp_path / "plan.toml"
    path.write_bytes(downloaded(page, "save-toml"))
    from_file, typed = (
        answer(*words, "--json") for words in (["plan", "--question", path], shlex.split(text(page, "command"))[1:])
    )
    assert from_file.returncode == 0 and from_file.stdout == typed.stdout
    assert text(page, "sentence") == f"{people(json.loads(from_file.stdout)['sentence'])}."


def test_the_light_says_where_the_law_holds(open_page, planner):
    page = open_page(planner)
    assert page.get_attribute("[data-testid=light]", "data-state") == "inside"
    page.fill("#student", "50M")
    page.fill("#budget", "1B")
    page.wait_for_selector("[data-testid=light][data-state=edge]")
    page.fill("#student", "0.1M")
    page.fill("#budget", "2M")
    page.wait_for_selector("[data-testid=light][data-state=outside]")
    assert page.locator("figure").count() == 0 and "unknown" in text(page, "strategies")


def test_where_no_law_reaches_nothing_is_called(open_page, planner):
    page = open_page(planner, "student=0.1M&budget=2M", viewport={"width": 390, "height": 900})
    page.wait_for_selector("[data-testid=steps]")
    assert text(page, "verdict") == "Unknown" and text(page, "glance").startswith("Unknown")
    assert "P(gain > margin)" not in text(page, "steps")


@pytest.mark.parametrize(
    "question", ["student=1M&budget=20B", "student=1M&budget=6T", "budgetKind=compute&budget=1e25"]
)
def test_numbers_and_names_are_written_for_people(question, open_page, planner):
    page = open_page(planner, question)
    page.wait_for_selector("[data-testid=evidence]")
    for name in ("light", "strategies", "evidence", "answer"):
        assert not re.search(r"\de[+-]?\d", text(page, name)), name
    for name in ("light", "strategies", "evidence"):
        assert "_" not in text(page, name), name


def test_the_equations_name_a_loss_on_both_texts(open_page, planner):
    page = open_page(planner, "own=8B~2T~2.4")
    page.wait_for_selector("[data-testid=steps]")
    assert "= 2.4000 given, 2.004" in text(page, "steps") and "on the law's text" in text(page, "steps")


def test_a_study_brings_its_law_its_runs_and_its_paired_verdicts(open_page, tmp_path):
    from distillaw.page.bundle import study_laws, study_on_page
    from distillaw.planning.api import plan
    from distillaw.runs.record import is_near, read_study

    write_study(tmp_path / "study", World())
    record = read_study(tmp_path / "study")
    path = write_planner_page(tmp_path / "planner.html", study_laws(record), study_on_page(record))
    page = open_page(path)
    cells = study_on_page(record)["cells"]
    params, tokens = record.target
    here = next(c for c in cells if is_near(c["params"], params) and is_near(c["tokens"], tokens, within=0.01))
    assert text(page, "sentence") == f"{people(here['sentence'])}."
    assert "your own paired runs" in text(page, "probability") and text(page, "laws-alone").startswith("Laws alone: ")
    check_takes_away_the_runs_verdict(page, here, tmp_path / "plan.toml")
    page.wait_for_selector("[data-testid=figure-measured] svg")
    page.locator("[data-testid=study] td button").first.click()
    page.wait_for_function(
        "said => document.querySelector('[data-testid=sentence]').innerText === said",
        arg=f"{people(cells[0]['sentence'])}.",
    )
    page.select_option("#scenario", "best-case")  # not what the cells were asked: laws again
    page.wait_for_function("!document.querySelector('[data-testid=probability]').innerText.includes('runs')")
    page.locator("[data-testid=study] td button").first.click()  # asks what the cell was asked, scenario and all
    page.wait_for_function("document.querySelector('[data-testid=probability]').innerText.includes('runs')")
    assert text(page, "sentence") == f"{people(cells[0]['sentence'])}."
    phone = open_page(path, viewport={"width": 390, "height": 900}, color_scheme="dark")
    phone.wait_for_selector("[data-testid=figure-measured] svg")
    check_access(phone, 390)
    run = min(record.students, key=lambda run: (run.params, run.tokens))
    theirs = plan(run.params, student_tokens=run.tokens, study=record, with_flips=False)
    assert cells[0]["sentence"] == theirs.sentence and cells[0]["probability"] == theirs.probability


def check_takes_away_the_runs_verdict(page, cell, path):
    """The command shown and the file saved are answered by the runs, as the verdict on top is."""
    assert text(page, "command") == cell["command"] and "by laws alone" in page.inner_text("#strategies-title")
    teacher = cell["sentence"].split(":")[0].split("the ")[1]
    assert f"distil from the {teacher}" in text(page, "strategies"), "named as the study names it"
    path.write_bytes(downloaded(page, "save-toml"))
    comment, command, *_ = path.read_text().splitlines()
    assert comment == f"# {cell['sentence']}." and command == f"# {cell['command']}"
    for words in (shlex.split(cell["command"])[1:], ["plan", "--question", path]):
        assert json.loads(answer(*words, "--json").stdout)["sentence"] == cell["sentence"]


@pytest.mark.parametrize(
    ("width", "theme"), [(width, theme) for width in (1440, 820, 390) for theme in ("light", "dark")]
)
def test_axe_finds_nothing_serious(width, theme, open_page, planner):
    page = open_page(planner, viewport={"width": width, "height": 900}, color_scheme=theme)
    page.wait_for_selector("[data-testid=figure-cost] svg")
    check_access(page, width)


def check_access(page, width):
    """Axe with everything open, and nothing that makes the page wider than the window."""
    pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert grave_findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_wide_table_scrolls_past_its_first_column(open_page, planner):
    page = open_page(planner, viewport={"width": 390, "height": 900})
    first = page.locator("[data-testid=strategies] tbody th").first
    assert first.bounding_box()["width"] <= 14 * 16 + 1
    assert "gradient" in page.locator(".scroll").first.evaluate("e => getComputedStyle(e).backgroundImage")


def test_everything_is_reached_by_keyboard(open_page, planner):
    page = open_page(planner)
    reached = set()
    for _ in range(90):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.testid || document.activeElement.id || ''"))
    for name in "student budget named scenario logits-online map-svg save-toml copy-command".split():
        assert name in reached, name


def test_a_question_is_asked_and_taken_away_by_keyboard_alone(open_page, planner):
    page = open_page(planner)

    def tab_to(name):
        for _ in range(90):
            if page.evaluate("document.activeElement.dataset.testid || document.activeElement.id || ''") == name:
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{name} is not reached")

    before = text(page, "sentence")
    tab_to("student")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("300M")
    tab_to("budget-kind")
    page.keyboard.type("compute")
    tab_to("logits-online")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash.includes('stored')")
    assert text(page, "sentence") != before and "--student 300M --compute 1e21" in text(page, "command")
    tab_to("save-toml")
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    assert tomllib.loads(waiting.value.path().read_text())["plan"]["logits"] == "stored"


def test_paper_gets_the_answer_without_the_inputs(open_page, planner):
    page = open_page(planner)
    page.wait_for_selector("[data-testid=figure-map] svg")
    page.emulate_media(media="print")
    assert page.locator(".inputs").is_hidden() and page.locator("[data-testid=sentence]").is_visible()
    style = page.evaluate(
        """[...document.querySelectorAll(".chances .distil, .lamp, section")]
             .map(e => getComputedStyle(e)).map(s => [s.printColorAdjust, s.breakInside])"""
    )
    assert style and all(row == ["exact", "auto"] for row in style)
    assert page.pdf().startswith(b"%PDF")
