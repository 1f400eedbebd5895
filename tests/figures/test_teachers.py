"""One look for each teacher, in every figure of a study."""

from dataclasses import replace

from synthetic_study import World, write_study

from distillaw.figures.losses import draw_isoflop, draw_tokens, iso_budgets, teacher_styles
from distillaw.figures.style import INK, SERIES
from distillaw.planning.measured import design_points
from distillaw.report.students import repeated_colors
from distillaw.runs.record import read_study


def named_colors(figure):
    """Names at the ends of lines with their colours."""
    return {(text.get_text(), text.get_color()) for ax in figure.axes for text in ax.texts}


def test_a_teacher_has_one_colour_in_all_figures(grid_record):
    styles = teacher_styles(grid_record)
    shown = [replace(b, curves=[b.curves[0], b.curves[-1]]) for b in iso_budgets(grid_record)]
    isoflop = named_colors(draw_isoflop(shown, styles))
    assert 1 < len(isoflop) < 1 + len(styles), "fewer teachers than the study has"
    assert isoflop <= named_colors(draw_tokens(design_points(grid_record), styles))
    assert ("no teacher", INK) in isoflop


def test_worse_teachers_come_first_and_more_than_the_colours_have_other_markers(tmp_path):
    sizes = [1e5 * 1.5**i for i in range(len(SERIES) + 2)]
    write_study(
        tmp_path,
        World(students=(5e4,), budgets=(150_000,), seeds=1, documents=5, teachers=tuple((size, 2e6) for size in sizes)),
    )
    record = read_study(tmp_path)
    styles = teacher_styles(record)
    losses = [record.teachers[run].loss for run in styles]
    assert losses == sorted(losses, reverse=True) and len(losses) == len(SERIES) + 2
    assert len({(style.color, style.marker) for style in styles.values()}) == len(styles)
    assert [style.marker for style in styles.values()][-3:] == ["o", "s", "s"]
    assert "another marker" in repeated_colors(styles)
    markers = {line.get_marker() for line in draw_tokens(design_points(record), styles).axes[0].lines}
    assert {"o", "s"} <= markers
