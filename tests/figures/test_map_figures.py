import numpy as np
import pytest

from distillaw.accounting.scenarios import Scenario
from distillaw.planning.map_grid import Terms, laws_for_map
from distillaw.planning.maps import allocation_map, gain_map, teacher_map

LAWS = laws_for_map([])
N, D, C = np.geomspace(1e8, 1e11, 24), np.geomspace(1e9, 1e13, 20), np.geomspace(1e19, 1e25, 20)


def terms(name, **bounds):
    return Terms(scenario=Scenario[name], **bounds)


LARGE = terms("PRETRAINING", teacher_params=(1e9, 1e12), teacher_tokens=(1e10, 1e14))


MAPS = {
    "gain": lambda: gain_map(LAWS, student_params=N, student_tokens=D),
    "all wins": lambda: gain_map(LAWS, student_params=N, student_tokens=np.geomspace(1e9, 5e9, 20)),
    "all loses": lambda: gain_map(LAWS, student_params=N, student_tokens=D[10:], teacher_loss=4.0),
    "all inside": lambda: gain_map(
        LAWS, student_params=np.geomspace(9e8, 1.1e9, 9), student_tokens=np.geomspace(4e10, 6e10, 9), teacher_loss=2.1
    ),
    "teacher": lambda: teacher_map(LAWS, student_params=N, compute=C, terms=terms("PRETRAINING_INFERENCE")),
    "tokens at their bound": lambda: teacher_map(LAWS, student_params=N, compute=C, terms=terms("INFERENCE")),
    "partly unpaid": lambda: teacher_map(LAWS, student_params=N, compute=np.geomspace(1e18, 1e24, 20), terms=LARGE),
    "nothing paid": lambda: teacher_map(LAWS, student_params=N, compute=np.geomspace(1e15, 1e16, 20), terms=LARGE),
    "allocation": lambda: allocation_map(LAWS, student_params=1e9, compute=C, terms=terms("PRETRAINING")),
}


@pytest.mark.parametrize("name", MAPS)
def test_every_map_can_be_drawn(name, tmp_path):
    from distillaw.figures.maps import save_map

    found = MAPS[name]()
    files = save_map(found, tmp_path)
    assert [f.suffix for f in files] == [".svg", ".png"]
    text = files[0].read_text()
    assert "outside the fitted range" in text and "surrogate-s1" in text
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.glob("[!.]*"))) == 2


def test_the_same_map_gives_the_same_drawing(tmp_path):
    from distillaw.figures.maps import save_map

    first, second = (save_map(MAPS["gain"](), tmp_path / part)[0].read_text() for part in ("a", "b"))
    assert first == second


def test_where_laws_disagree_is_dotted():
    from distillaw.figures.maps import plan_map

    figure = plan_map(MAPS["gain"]())
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "laws disagree on the sign" in words
    agreed = plan_map(MAPS["all inside"]())
    assert "laws disagree on the sign" not in [text.get_text() for text in agreed.legends[0].get_texts()]
