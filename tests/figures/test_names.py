"""Names in figures are names: no formulas, nothing that an SVG cannot hold."""

from xml.etree import ElementTree

import pytest

from distillaw.figures.files import figure_bytes
from distillaw.figures.style import in_style, new_figure


@pytest.mark.parametrize("name", ["$x^2$", r"cost $\frac{1}$", "a\x1b]0;own\x07b", "half \ud800", "<b>&amp;"])
def test_any_name_can_stand_anywhere_in_a_figure(name):
    @in_style
    def draw():
        figure, ((ax,),) = new_figure(1, 1, width=3, height=2)
        ax.plot([0, 1], [0, 1], label=name)
        ax.set_xlabel(name)
        ax.set_yticks([0, 1], [name, "b"])
        ax.legend()
        return figure

    root = ElementTree.fromstring(figure_bytes(draw(), "svg", name="x"))
    shown = [element.text for element in root.iter() if element.text and element.text.strip()]
    plainly = name.replace("\x1b", "\\x1b").replace("\x07", "\\x07").replace("\ud800", "\\ud800")
    assert shown.count(plainly) == 3
