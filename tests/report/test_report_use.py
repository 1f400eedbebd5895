"""The report as people use it: a real browser, no network, filters, files, screen reader, paper."""

import csv
import io
import json
import struct
import xml.etree.ElementTree as ElementTree

import pytest

from distillaw.report.document import write_report
from in_browser import grave_findings, saved_file

pytestmark = pytest.mark.slow

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def report(reported):
    return reported / "report.html"


@pytest.fixture(scope="module")
def results(reported):
    return [json.loads(path.read_text()) for path in reported.glob("runs/*/result.json")]


def rows_shown(page):
    return page.locator("table[data-facets] tbody tr:visible")


def test_filters_show_the_rows_asked_for_and_count_them(open_file, report, results):
    page = open_file(report)
    assert rows_shown(page).count() == len(results) == 27
    page.get_by_label("role", exact=True).select_option("teacher")
    assert rows_shown(page).count() == sum(r["role"] == "teacher" for r in results) == 3
    assert page.locator(".filters output").inner_text() == "3 of 27 rows shown"
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("tokens", exact=True).select_option("150,000")
    page.get_by_label("seed", exact=True).select_option("1")
    wanted = [r for r in results if (r["tokens"], r["seed"]) == (150_000, 1)]
    assert rows_shown(page).count() == len(wanted) == 4
    page.get_by_label("search", exact=True).fill("from-0.3M 150kt")
    assert rows_shown(page).count() == 1


def test_what_is_filtered_stays_so_when_rows_are_sorted(open_file, report, results):
    page = open_file(report)
    page.get_by_label("teacher", exact=True).select_option("none")
    page.get_by_role("button", name="loss", exact=True).last.click()
    shown = [
        float(text) for text in page.locator("table[data-facets] tbody tr:visible td:nth-child(6)").all_inner_texts()
    ]
    alone = [r["loss"] for r in results if r["teacher_run"] is None]
    assert shown == sorted(round(loss, 4) for loss in alone)


def test_rows_shown_are_saved_with_every_digit(open_file, report, results):
    page = open_file(report)
    page.get_by_label("search", exact=True).fill("from-0.1M")
    rows = list(csv.DictReader(io.StringIO(saved_file(page, "text=Save rows shown as CSV").decode())))
    by_id = {r["run_id"]: r for r in results}
    assert len(rows) == sum("from-0.1M" in run for run in by_id)
    for row in rows:
        assert float(row["loss"]) == by_id[row["run"]]["loss"]
        assert int(row["tokens"]) == by_id[row["run"]]["tokens"]


def test_nothing_found_is_said_and_not_saved(open_file, report):
    page = open_file(report)
    page.get_by_label("search", exact=True).fill("no such run")
    assert page.locator(".filters output").inner_text() == "0 of 27 rows shown"
    assert page.get_by_role("button", name="Save rows shown as CSV").is_disabled()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_is_saved_as_svg_png_and_pdf(theme, open_file, report):
    page = open_file(report, color_scheme=theme)
    names = page.evaluate("[...document.querySelectorAll('figure[id]')].map(f => f.id)")
    assert {"capacity-gap", "token-curves", "pareto", "flop", "tuning"} <= set(names)
    for name in names:
        svg = saved_file(page, f"#{name} button:text('Save as SVG')").decode()
        root = ElementTree.fromstring(svg)
        assert root.tag == f"{SVG}svg" and "var(" not in svg and "DejaVu Sans" in svg
        assert "#1a1a1a" in svg, "ink of the light palette, also from a dark page"
        assert len(list(root.iter(f"{SVG}text"))) > 5
        png = saved_file(page, f"#{name} button:text('Save as PNG')")
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        shown = page.locator(f"#{name} svg").bounding_box()
        assert struct.unpack(">I", png[16:20])[0] >= 2 * shown["width"]
        assert saved_file(page, f"#{name} a.save").startswith(b"%PDF-1.")


def test_a_saved_png_is_on_white_and_not_empty(open_file, report, tmp_path):
    image = pytest.importorskip("PIL.Image")
    page = open_file(report, color_scheme="dark")
    png = image.open(io.BytesIO(saved_file(page, "#flop button:text('Save as PNG')"))).convert("RGB")
    colors = dict((color, count) for count, color in png.getcolors(1 << 24))
    assert max(colors, key=colors.get) == (255, 255, 255)
    assert any(blue > red + 60 for red, _, blue in colors), "the bars"


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "light"), (1280, "dark"), (390, "dark")])
def test_axe_finds_nothing_serious(width, theme, open_file, report):
    page = open_file(report, viewport={"width": width, "height": 900}, color_scheme=theme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert grave_findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_narrow_screen_shows_what_a_strategy_gives_and_that_there_is_more(open_file, report):
    page = open_file(report, viewport={"width": 390, "height": 900})
    table = page.get_by_role("region", name="Strategies")
    assert table.get_by_text("loss, nats/token").bounding_box()["x"] < 390
    style = "e => getComputedStyle(e).backgroundAttachment"
    assert table.evaluate(style) == "local, local, scroll, scroll"


def test_a_desktop_shows_the_losses_of_all_runs(open_file, report):
    page = open_file(report, viewport={"width": 1440, "height": 900})
    scroll = page.locator(".scroll:has(table[data-facets])")
    box, loss = (scroll.bounding_box(), page.locator("table[data-facets] th").filter(has_text="s.e.").bounding_box())
    assert loss["x"] + loss["width"] < box["x"] + box["width"] / 1.5


def test_filters_are_reached_by_keyboard_and_spoken(open_file, report):
    page = open_file(report)
    page.get_by_label("role", exact=True).focus()
    page.keyboard.press("t")
    assert rows_shown(page).count() == 3
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent || document.activeElement.type"))
    assert {"search", "Show all", "Save rows shown as CSV"} <= reached
    assert page.get_by_role("search", name="Rows of the table").count() == 1


def test_paper_gets_the_rows_shown_without_the_controls(open_file, report):
    page = open_file(report)
    page.get_by_label("role", exact=True).select_option("teacher")
    page.emulate_media(media="print")
    assert rows_shown(page).count() == 3
    assert page.locator(".filters select").first.is_hidden() and page.locator(".saves").first.is_hidden()
    assert page.pdf().startswith(b"%PDF")


def test_run_ids_and_headings_are_readable_on_paper(open_file, report):
    page = open_file(report, viewport={"width": 718, "height": 1046})  # A4 in pixels, less its margins
    page.emulate_media(media="print")
    heights = page.evaluate("""[...document.querySelectorAll('table[data-facets] tbody td:first-child')]
        .map(td => td.clientHeight / parseFloat(getComputedStyle(td).lineHeight))""")
    assert max(heights) < 4
    displays = page.evaluate("""[...document.querySelectorAll('table.sortable th button')]
        .map(button => getComputedStyle(button).display)""")
    assert set(displays) == {"contents"}, "a button's text is lost in a head that is repeated on the next sheet"


def test_without_scripts_every_row_and_the_pdfs_are_there(open_file, report):
    page = open_file(report, java_script_enabled=False)
    assert page.locator("table[data-facets] tbody tr").count() == 27
    assert saved_file(page, "#capacity-gap a.save").startswith(b"%PDF-1.")


def test_a_page_without_a_verdict_opens_as_well(open_file, tmp_path):
    from synthetic_study import World, write_study

    write_study(tmp_path, World(), skip=("student",))
    page = open_file(write_report(tmp_path))
    assert "No verdict yet" in page.inner_text("h1")
