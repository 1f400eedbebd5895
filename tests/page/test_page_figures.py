"""Figures of the page: what is written in them, what a click on them asks, and the files they become."""

import xml.etree.ElementTree as ElementTree

import pytest

from in_browser import saved_file

pytestmark = pytest.mark.slow

FIGURES = ("loss-over-tokens", "loss-over-teacher", "map", "cost")


def text(page, name):
    return page.inner_text(f"[data-testid={name}]")


def downloaded(page, name):
    return saved_file(page, f"[data-testid={name}]")


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_saved_as_svg_and_png(name, open_page, planner):
    page = open_page(planner)
    page.wait_for_selector(f"[data-testid=figure-{name}] svg")
    svg = downloaded(page, f"{name}-svg").decode()
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in svg
    assert (
        len(list(root.iter("{http://www.w3.org/2000/svg}path")))
        + len(list(root.iter("{http://www.w3.org/2000/svg}rect")))
        > 3
    )
    png = downloaded(page, f"{name}-png")
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and len(png) > 10_000


def test_a_click_on_the_map_asks_about_that_point(open_page, planner):
    page = open_page(planner)
    page.wait_for_selector("[data-testid=figure-map] svg")
    page.locator("[data-testid=figure-map] svg").click(position={"x": 120, "y": 100})
    assert page.input_value("#student") != "1B" and page.input_value("#budget") != "20B"
    page.wait_for_function(
        "document.querySelector('[data-testid=sentence]').innerText.includes(document.getElementById('student').value)"
    )


def test_the_map_is_of_equal_tokens_where_the_budget_is_none(open_page, planner):
    page = open_page(planner, "budgetKind=compute&budget=1e21")
    page.wait_for_selector("[data-testid=figure-map] svg")
    figure = page.locator("[data-testid=figure-map]")
    assert "not at your budget" in figure.inner_text() and "distilled student here" in figure.inner_html()
    figure.locator("svg").click(position={"x": 20, "y": 100})  # beside the frame
    assert page.input_value("#student") == "1B"
    figure.locator("svg").click(position={"x": 120, "y": 100})
    assert page.input_value("#student") != "1B" and page.input_value("#budget") == "1e21"
    free = open_page(planner, "student=&maxStudent=1B&budgetKind=compute&budget=1e21")
    free.wait_for_selector("[data-testid=figure-map] svg")
    assert "click" not in free.inner_text("[data-testid=figure-map]").lower()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_title_of_a_saved_figure_lies_inside_it(width, open_page, planner):
    page = open_page(planner, viewport={"width": width, "height": 900})
    page.wait_for_selector("[data-testid=figure-cost] svg")
    for name in FIGURES:
        svg = downloaded(page, f"{name}-svg").decode()
        left, right, drawn = page.evaluate(
            """svg => {
                const file = document.body.appendChild(document.createElement("div"));
                file.innerHTML = svg;
                const box = file.querySelector("svg > text").getBBox();
                return [box.x, box.x + box.width, Number(file.querySelector("svg").getAttribute("width"))];
            }""",
            svg,
        )
        assert 0 <= left < right <= drawn, name


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("question", ["student=310M&budget=230B", "", "budgetKind=money&budget=20000"])
def test_labels_of_the_teacher_figure_lie_apart(question, width, open_page, planner):
    page = open_page(planner, question, viewport={"width": width, "height": 900})
    page.wait_for_selector("[data-testid=figure-loss-over-teacher] svg")
    overlapping = page.evaluate(
        """() => {
            const figure = document.querySelector("[data-testid=figure-loss-over-teacher] svg");
            const names = [...figure.querySelectorAll("g[text-anchor] > text, g > text[stroke], text")]
                .filter(t => /teacher$|chosen|best/.test(t.textContent) && !/parameters/.test(t.textContent));
            const boxes = names.map(t => t.getBoundingClientRect());
            const meet = (a, b) => a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom;
            return [names.length, boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => meet(a, b))).length];
        }"""
    )
    assert overlapping == [3, 0]


def test_the_figure_names_the_crossing_as_the_text_does(open_page, planner):
    page = open_page(planner)
    page.wait_for_selector("[data-testid=figure-loss-over-tokens] svg")
    said = page.locator("[data-testid=reasons] li", has_text="Catching up").inner_text()
    tokens = said.split("at ")[1].split(" tokens")[0]
    figure = page.locator("[data-testid=figure-loss-over-tokens]")
    assert f"catches up: {tokens}" in figure.inner_html() and "90 % band" in figure.inner_text()
