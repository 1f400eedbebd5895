import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from synthetic_study import World, write_study

from distillaw.errors import CacheError
from distillaw.planning.api import plan
from distillaw.report.document import key_numbers, write_report
from distillaw.runs.record import read_study
from undrawn import undrawn

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Ids, references, text and whether tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.references, self.stack, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.references += [v for k, v in attrs.items() if k in ("src", "href", "xlink:href", "action") and v]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def html(reported):
    return (reported / "report.html").read_text()


@pytest.fixture
def noisy_verdict(reported):
    record = read_study(reported)
    return plan(1e5, student_tokens=150_000, study=record, with_flips=False), record


def test_the_page_is_one_file_that_asks_for_nothing(html):
    page = Page(html)
    assert not page.stack
    assert all(r.startswith(("#", "data:")) for r in page.references)
    assert "http" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert len(html) < 3_000_000


def test_ids_are_unique_and_every_reference_has_its_target(html):
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    wanted = {r[1:] for r in page.references if r.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", html))
    assert wanted <= set(page.ids)


def test_losses_on_the_page_equal_the_results(reported, html):
    text = " ".join(Page(html).text)
    results = [json.loads(p.read_text()) for p in reported.glob("runs/*/result.json")]
    assert len(results) == 27
    for result in results:
        row = re.search(rf"<tr><td[^>]*>{re.escape(result['run_id'])}</td>.*?</tr>", html)[0]
        assert f">{result['loss']:.4f}<" in row
        assert f'data-sort="{result["loss"]}"' in row
        assert f">{result['loss_se']:.4f}<" in row
    alone = np.mean(
        [
            r["loss"]
            for r in results
            if "0.1M-alone" in r["run_id"] and "student" in r["run_id"] and r["run_id"].endswith("150kt")
        ]
    )
    assert f"{alone:.3f} without a teacher" in text


def test_the_verdict_comes_first_and_equals_verdict_json(reported, html):
    verdict = json.loads((reported / "verdict.json").read_text())
    text = re.sub(r"\s+", " ", " ".join(Page(html[html.index("<main>") : html.index("</main>") + 7]).text))
    assert verdict["schema_version"] == 1
    assert verdict["verdict"] == "distil"
    assert verdict["sentence"] in text[:600]
    assert f"{verdict['gain']['mean']:+.3f} nats/token" in text


def test_figures_have_words_for_those_who_cannot_see_them(html):
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', html)
    assert len(labels) == html.count("<figure") >= 4
    assert all(len(label) > 60 for label in labels)
    assert html.count("<figcaption>") == len(labels)


def written(*arguments):
    """A report whose words are read."""
    with undrawn():
        return write_report(*arguments)


def test_the_same_study_gives_the_same_page(reported, tmp_path):
    """That pictures are drawn alike: tests/cli/test_report.py."""
    first, second = (written(reported, tmp_path / name / "report.html").read_text() for name in "ab")
    assert first == second


def test_reports_in_one_folder_keep_their_own_verdicts(tmp_path):
    for name, world in (("a", World()), ("b", World(gain_scale=0.0))):
        write_study(tmp_path / name, world)
        assert f"{name}.verdict.json" in written(tmp_path / name, tmp_path / f"{name}.html").read_text()
    first, second = (json.loads((tmp_path / f"{name}.verdict.json").read_text()) for name in "ab")
    assert first["gain"] != second["gain"]
    assert not (tmp_path / "verdict.json").exists()


def test_light_dark_and_print_are_provided_for(html):
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    figure = html[html.index("<figure") : html.rindex("</figure>")]
    assert "var(--ink, #1a1a1a)" in figure
    assert not re.search(r"(?<!, )#1a1a1a", figure), "a colour that would not follow the theme"
    assert "#000000" not in figure
    texts = re.findall(r"<text [^>]*>", figure)
    assert texts and all("fill: var(" in text for text in texts), "text in matplotlib's own black"


def test_failed_and_missing_runs_are_listed_and_the_rest_is_used(tmp_path):
    write_study(tmp_path, World(), skip=("0.02M-from-0.1M",), fail=("0.1M-from-0.3M-s0-600kt",))
    text = " ".join(Page(written(tmp_path).read_text()).text)
    assert "1 runs failed" in text
    assert "RunError: loss is NaN at step 7" in text
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] == "distil"


def test_an_unknown_answer_has_no_numbers_to_take_away(noisy_verdict):
    verdict, record = noisy_verdict
    assert {"Probability", "Best teacher"} <= {one.label for one in key_numbers(verdict, [], record)}
    unknown = replace(verdict, headline=replace(verdict.headline, is_decisive=False))
    assert key_numbers(unknown, [], record)[0].value == "not known"
    assert not {"Probability", "Best teacher"} & {one.label for one in key_numbers(unknown, [], record)}


def test_a_study_with_teachers_only_has_a_report_without_a_verdict(tmp_path):
    write_study(tmp_path, World(), skip=("student",))
    text = " ".join(Page(written(tmp_path).read_text()).text)
    assert "No verdict yet" in text
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] is None


def test_a_damaged_result_is_named_and_left_out(tmp_path):
    write_study(tmp_path, World())
    (tmp_path / "runs" / "student-0.02M-alone-s0-150kt" / "result.json").write_text("{torn")
    text = " ".join(Page(written(tmp_path).read_text()).text)
    assert "damaged, not JSON" in text


def test_a_study_without_tuning_target_or_table_still_reports(tmp_path):
    write_study(tmp_path, World())
    (tmp_path / "tuning.json").unlink()
    (tmp_path / "runs.parquet").unlink()
    info = json.loads((tmp_path / "study.json").read_text()) | {"target": None}
    (tmp_path / "study.json").write_text(json.dumps(info))
    text = " ".join(Page(written(tmp_path).read_text()).text)
    assert "names no target" in text
    assert "ran no search" in text


def test_a_search_whose_record_did_not_come_along_is_not_denied(tmp_path):
    write_study(tmp_path, World())
    (tmp_path / "tuning.json").unlink()
    (tmp_path / "runs.parquet").unlink()
    for seed in (1, 2):
        found = tmp_path / "runs" / f"student-0.1M-alone-s{seed}-150kt" / "result.json"
        found.write_text(json.dumps(json.loads(found.read_text()) | {"purpose": "tuning"}))
    text = " ".join(Page(written(tmp_path).read_text()).text)
    assert "tuning.json, did not come along; its 2 runs" in text
    assert "ran no search" not in text


def test_runs_that_were_not_paired_are_not_called_so(tmp_path, html):
    write_study(tmp_path, World())
    for path in tmp_path.glob("runs/*/heldout.parquet"):
        path.unlink()
    text = " ".join(Page(written(tmp_path).read_text()).text)
    claims = ("paired difference", "paired runs", "paired gain", " in pairs")
    assert not [words for words in claims if words in text]
    assert "Decided by measured runs of this study" in text and "unpaired: measured" in text
    assert all(words in html for words in claims)


def test_names_from_outside_are_escaped(tmp_path):
    write_study(tmp_path, World())
    info = json.loads((tmp_path / "study.json").read_text()) | {"name": "<script>alert(1)</script>"}
    (tmp_path / "study.json").write_text(json.dumps(info))
    assert "<script>alert" not in written(tmp_path).read_text()


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(CacheError, match="not a study folder"):
        write_report(tmp_path)


def test_a_study_too_small_for_a_law_draws_none_of_another(html):
    assert "No law is drawn through this study" in html
    assert '<figure id="fit">' not in html and "ocket study" not in html
