"""`distillaw.figures` as a user of it: names, sizes, units, files, refusals."""

import inspect
import subprocess
import sys

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import distillaw as dl
from distillaw.errors import CacheError, ConfigError, DataError
from distillaw.figures import __all__ as names

STUDY = [name for name in names if "study" in inspect.signature(getattr(dl.figures, name)).parameters]
DRAWN = ("capacity_gap", "token_curves", "pareto", "compute_spent", "searches")
"""What a study as people have it can show."""


def test_names_are_imported_on_first_use_and_matplotlib_with_them():
    code = (
        "import sys, distillaw as dl\n"
        "dl.figures\n"
        "assert not {'matplotlib', 'scipy', 'torch'} & set(sys.modules)\n"
        "dl.figures.capacity_gap\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", names)
def test_every_name_says_what_it_draws_takes_and_refuses(name):
    function = getattr(dl.figures, name)
    text = inspect.getdoc(function)
    assert "Args:" in text and len(text) > 200
    for argument in inspect.signature(function).parameters:
        assert f"{argument}:" in text, argument
    assert "Raises:" in text or name == "plan_map"


@pytest.mark.parametrize("name", STUDY)
def test_a_study_is_drawn_or_the_reason_is_given(name, noisy):
    draw = getattr(dl.figures, name)
    if name not in DRAWN:
        with pytest.raises(DataError, match=r"No |nothing|no law|takes three student sizes"):
            draw(noisy)
        return
    figure = draw(noisy)
    assert isinstance(figure, Figure)
    labels = [ax.get_xlabel() + ax.get_ylabel() for ax in figure.axes if ax.axison]
    assert any("nats/token" in label or "FLOP" in label for label in labels)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(("width", "inches"), [("single", 3.35), ("double", 6.9), (5.0, 5.0)])
def test_widths_and_font_sizes_are_those_asked_for(name, width, inches, noisy):
    figure = getattr(dl.figures, name)(noisy, width=width, font_size=7)
    assert figure.get_figwidth() == inches
    figure.draw_without_rendering()
    sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()}
    assert max(sizes) == 7 and min(sizes) > 4
    edges = [text.get_window_extent() for ax in figure.axes if ax.axison for text in (ax.xaxis.label, ax.yaxis.label)]
    right = figure.get_figwidth() * figure.dpi
    assert all(box.x0 > -0.05 * right and box.x1 < 1.05 * right for box in edges if box.width)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"width": "triple"}, "one of single, double"), ({"width": 0.5}, "inches between"), ({"font_size": 90}, "points")],
)
def test_sizes_that_make_no_sense_are_refused(options, says, noisy):
    with pytest.raises(ConfigError, match=says):
        dl.figures.capacity_gap(noisy, **options)


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(CacheError, match="not a study folder"):
        dl.figures.capacity_gap(tmp_path)
    for name in ("branch", "recipe_arms"):
        with pytest.raises(CacheError, match="no such file"):
            getattr(dl.figures, name)(tmp_path)


@pytest.mark.slow
def test_files_are_the_same_whatever_was_saved_before(noisy, tmp_path):
    first = dl.figures.token_curves(noisy)
    late = {kind: dl.figures.save(first, tmp_path / f"a.{kind}").read_bytes() for kind in ("svg", "png", "pdf")}
    again = {kind: dl.figures.save(first, tmp_path / f"a.{kind}").read_bytes() for kind in ("pdf", "png", "svg")}
    fresh = {
        kind: dl.figures.save(dl.figures.token_curves(noisy), tmp_path / f"a.{kind}").read_bytes()
        for kind in ("pdf", "png", "svg")
    }
    assert late == again == fresh
    assert late["pdf"].startswith(b"%PDF-1.") and b"/CreationDate" not in late["pdf"]
    assert late["png"].startswith(b"\x89PNG") and b"<text" in late["svg"] and b"<dc:date" not in late["svg"]


def test_another_ending_is_refused(noisy, tmp_path):
    with pytest.raises(ConfigError, match=r"'pfd' \(did you mean 'pdf'\?\)"):
        dl.figures.save(dl.figures.capacity_gap(noisy), tmp_path / "gap.pfd")
    assert not list(tmp_path.iterdir())


def test_a_figure_is_the_user_s_own(noisy, tmp_path):
    figure = dl.figures.capacity_gap(noisy)
    figure.axes[0].set_title("ours")
    figure.savefig(tmp_path / "gap.pdf")
    assert (tmp_path / "gap.pdf").read_bytes().startswith(b"%PDF")
    other = dl.figures.capacity_gap(noisy)
    assert other.axes[0].get_title(loc="left") and not other.axes[0].get_title()


def test_settings_of_the_user_s_session_stay(noisy):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    dl.figures.searches(noisy, width="single", font_size=6)
    assert dict(mpl.rcParams) == before
