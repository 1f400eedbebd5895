"""Figures of a law by itself: a student's loss against tokens, against its teacher's size, against its teacher's loss.

A law is a published name, the file of a fitted one, or the object. Bands are what is known of its error: the interval
of a new run for a fitted law, the stated error for a published one (`published_band`), the span from the lowest to the
highest where several laws are drawn together. Outside the fitted range curves are dashed and bands hatched.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from distillaw.errors import ConfigError
from distillaw.figures.losses import LINE
from distillaw.figures.style import (
    DASHED,
    INK,
    SERIES,
    Z90,
    draw_band,
    in_style,
    label_ends,
    new_figure,
    note,
    set_title,
)
from distillaw.fitting.query import load_law
from distillaw.fitting.result import FitResult
from distillaw.laws.base import Array, Mask
from distillaw.laws.published import PublishedLaw, published_band
from distillaw.planning.map_grid import Laws, laws_for_map
from distillaw.planning.teacher_curve import (
    FLAT,
    TeacherCurve,
    TeacherLossCurve,
    Valley,
    teacher_curve,
    teacher_loss_curve,
)
from distillaw.quantities import format_count

LawLike = str | FitResult | PublishedLaw
_POINTS = 120
"""Of a curve: smooth at the width of a page."""
_TOKENS_PER_PARAM = (2.0, 2000.0)
"""Range of tokens drawn where none is given."""


@in_style
def loss_over_tokens(
    law: LawLike,
    *,
    student_params: float,
    teacher_loss: float | Sequence[float],
    tokens: tuple[float, float] | None = None,
) -> Figure:
    """A student's loss against its training tokens, without a teacher and distilled.

    Abscissa: tokens, logarithmic; ordinate: loss, nats/token. Black: supervised; colours: distilled from a teacher of
    the loss written at the end of the curve. Bands: the 90 % interval of a new run (fitted law) or the stated error
    (published law); without either, none. Dashed and hatched outside the range in which the law was fitted.

    Args:
        law: a published name, the file of a fitted law, or either as an object; with both halves.
        student_params: N_S, in the law's own convention (non-embedding unless it says otherwise).
        teacher_loss: L_T, nats/token; several give a curve each.
        tokens: first and last; by default 2 to 2,000 tokens per parameter.

    Raises:
        ConfigError: an unknown law, or one that lacks a half.
        DataError: a number is not positive.

    Example:
        >>> import distillaw as dl
        >>> figure = dl.figures.loss_over_tokens("surrogate-s1", student_params=1e9, teacher_loss=[2.3, 2.0])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['no teacher', 'teacher 2.3', 'teacher 2']
    """
    found = load_law(law) if isinstance(law, str) else law
    low, high = tokens or tuple(ratio * student_params for ratio in _TOKENS_PER_PARAM)
    at = np.geomspace(low, high, _POINTS)
    teachers = [float(loss) for loss in np.atleast_1d(teacher_loss)]
    curves = [("no teacher", INK, _values(found, "supervised", params=student_params, tokens=at))]
    for place, loss in enumerate(teachers):
        curve = _values(found, "distillation", student_params=student_params, student_tokens=at, teacher_loss=loss)
        curves.append((f"teacher {loss:.4g}", SERIES[place % len(SERIES)], curve))
    figure, [[ax]] = new_figure(1, 1, width=5.4, height=3.6)
    for _, color, (mean, lower, upper, inside) in curves:
        draw_band(ax, at, mean=mean, lower=lower, upper=upper, inside=inside, color=color)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: format_count(value))
    ax.set_xlim(at[0], at[-1])
    ax.set_xlabel("training tokens")
    ax.set_ylabel("student loss, nats/token")
    outside = "" if all(c[3].all() for *_, c in curves) else "; hatched: outside the fitted range"
    set_title(ax, f"{format_count(student_params)} student{outside}")
    label_ends(ax, [(name, color, float(at[-1]), float(c[0][-1])) for name, color, c in curves], gap=LINE)
    return figure


_Curve = tuple[Array, Array, Array, Mask]
"""Mean, lower and upper end (nan where the law states no error), inside the fitted range; each (p,)."""


def _values(law: FitResult | PublishedLaw, part: str, **coords: ArrayLike) -> _Curve:
    if isinstance(law, FitResult):
        wanted = "params" if part == "supervised" else "student_params"
        if part == "supervised" and "student_params" in law.fitted_range.as_dict():
            return _behind(law, coords)
        if wanted not in law.fitted_range.as_dict():
            raise ConfigError(
                f"this fit of {law.family} has no {part} half; fit a distillation family with supervised rows"
            )
        found = law.predict(level=0.9, **coords)
        return found.mean, found.lower, found.upper, found.inside_range
    half = law.supervised if part == "supervised" else law.distillation
    if half is None:
        raise ConfigError(f"law {law.name!r} has no {part} half; `distillaw laws` lists those that have")
    mean, inside = np.asarray(half(**coords)), half.range.inside(coords)
    ends = np.array([_band(law, part, coords, i, bool(inside[i])) for i in range(len(mean))])
    return mean, ends[:, 0], ends[:, 1], inside


def _behind(law: FitResult, coords: dict[str, ArrayLike]) -> _Curve:
    """The supervised law behind a distillation fit, by its replicates."""
    draws = law.supervised_draws(params=coords["params"], tokens=coords["tokens"])
    box = law.fitted_range.inside({f"student_{name}": value for name, value in coords.items()})
    low, mean, high = np.log(np.percentile(draws, [5, 50, 95], axis=0))
    noise = Z90 * law.noise
    lower, upper = mean - np.hypot(mean - low, noise), mean + np.hypot(high - mean, noise)
    return np.exp(mean), np.exp(lower), np.exp(upper), box


def _band(law: PublishedLaw, part: str, coords: dict[str, ArrayLike], i: int, is_inside: bool) -> tuple[float, float]:
    """The stated error, as wide outside the range as at its edge: hatched there."""
    at = {name: float(np.broadcast_to(value, (_POINTS,))[i]) for name, value in coords.items()}
    interval = published_band(law, part=part, coords=at, is_inside=is_inside)[0]
    return interval or (math.nan, math.nan)


@in_style
def loss_over_teacher_size(
    laws: str | Sequence[str] = (),
    *,
    student_params: float,
    student_tokens: float,
    teacher_tokens_per_param: float = 20.0,
    sizes: tuple[float, float] | None = None,
) -> Figure:
    """A student's loss against the size of its teacher, with the stretch of teachers that are as good as the best.

    Abscissa: teacher parameters, logarithmic; ordinate: student loss, nats/token. Blue: mean of the laws, band from the
    lowest to the highest; thin: each law; dashed: without a teacher; shaded: within 0.5 % of the best loss; hatched:
    outside the fitted range.

    Args:
        laws: published names together, or the file of one fitted law; by default the three surrogates.
        student_params: N_S, non-embedding.
        student_tokens: D_S.
        teacher_tokens_per_param: of every teacher.
        sizes: first and last teacher size; by default 1/8 to 300 times the student's.

    Raises:
        ConfigError: an unknown law, or one without a distillation half.

    Example:
        >>> import distillaw as dl
        >>> figure = dl.figures.loss_over_teacher_size(student_params=1e9, student_tokens=2e10, width="double")
        >>> figure.axes[0].get_ylabel()
        'student loss, nats/token'
    """
    found = _laws(laws)
    low, high = sizes or (student_params / 8, 300 * student_params)
    curve = teacher_curve(
        found.ensemble,
        student_params=student_params,
        student_tokens=student_tokens,
        sizes=np.geomspace(low, high, 200),
        teacher_tokens_per_param=teacher_tokens_per_param,
    )
    inside = found.inside(np.asarray(student_params), np.asarray(student_tokens), curve.teacher_loss.mean(0))
    figure, ax = _over_teachers(curve, curve.sizes, inside, ends=(low, high), scale="log", show=format_count)
    if 1 < found.ensemble.size == len(found.names):
        for color, name, loss in zip(SERIES[1:], found.names, curve.student_loss, strict=False):
            ax.plot(curve.sizes, loss, color=color, linewidth=0.9, label=name)
        ax.legend(fontsize="small", loc="upper right")
    ax.xaxis.set_major_formatter(lambda value, _: format_count(value))
    ax.set_xlabel(f"teacher parameters, {teacher_tokens_per_param:g} tokens to each")
    set_title(ax, f"{format_count(student_params)} student, {format_count(student_tokens)} tokens")
    return figure


@in_style
def loss_over_teacher_loss(
    laws: str | Sequence[str] = (),
    *,
    student_params: float,
    student_tokens: float,
    losses: tuple[float, float] | None = None,
) -> Figure:
    """A student's loss against the loss of its teacher: the capacity gap as the laws have it.

    Abscissa: teacher loss, nats/token, better to the right; ordinate: student loss, nats/token. Blue: mean of the laws,
    band from the lowest to the highest; black dashed: without a teacher, and its band; shaded: within 0.5 % of the
    best loss; dashed and hatched outside the fitted range.

    Args:
        laws: as in `loss_over_teacher_size`.
        student_params: N_S, non-embedding.
        student_tokens: D_S.
        losses: lowest and highest teacher loss; by default up to half again the student's own.

    Raises:
        ConfigError: as of `loss_over_teacher_size`, or losses below the irreducible one.

    Example:
        >>> import distillaw as dl
        >>> figure = dl.figures.loss_over_teacher_loss(student_params=1e9, student_tokens=2e10)
        >>> figure.axes[0].xaxis_inverted()
        True
    """
    found = _laws(laws)
    at = None if losses is None else np.linspace(*losses, 200)
    curve = teacher_loss_curve(found.ensemble, student_params=student_params, student_tokens=student_tokens, losses=at)
    inside = found.inside(np.asarray(student_params), np.asarray(student_tokens), curve.teacher_loss)
    ends = float(curve.teacher_loss[-1]), float(curve.teacher_loss[0])
    figure, ax = _over_teachers(curve, curve.teacher_loss, inside, ends=ends, scale="linear", show=lambda v: f"{v:.3g}")
    ax.set_xlabel("teacher loss, nats/token  (better →)")
    set_title(ax, f"{format_count(student_params)} student, {format_count(student_tokens)} tokens")
    return figure


def _over_teachers(
    curve: TeacherCurve | TeacherLossCurve,
    x: Array,
    inside: Mask,
    *,
    ends: tuple[float, float],
    scale: Literal["linear", "log"],
    show: Callable[[float], str],
) -> tuple[Figure, Axes]:
    """A student's loss along its teachers `x`, (p,), beside its own without one, with the best teacher in words.

    `inside`, (p,): whether student and teacher lie in the laws' range; `ends`: the left and the right end of x.
    """
    figure, [[ax]] = new_figure(1, 1, width=5.4, height=3.6)
    ax.set_xscale(scale)
    ax.set_xlim(*ends)
    lower, upper = curve.student_loss.min(0), curve.student_loss.max(0)
    draw_band(ax, x, mean=curve.mean, lower=lower, upper=upper, inside=inside, color=SERIES[0])
    own = curve.supervised_loss
    alone = float(own.mean())
    ax.axhline(alone, color=INK, linestyle=DASHED, linewidth=1.0)
    ax.axhspan(float(own.min()), float(own.max()), color=INK, alpha=0.06, linewidth=0)
    note(ax, "no teacher", (0.01, alone), (0, 3), clip=None, xycoords=("axes fraction", "data"))
    _mark_best(ax, curve.best, show)
    flat = (x >= curve.best.flat.lower) & (x <= curve.best.flat.upper)
    low = float(curve.student_loss[:, flat & inside].min(initial=curve.best.student_loss))
    ax.set_ylim(low - 0.5 * (alone - low), alone + 0.4 * (alone - low))
    ax.set_ylabel("student loss, nats/token")
    return figure, ax


def _mark_best(ax: Axes, best: Valley, show: Callable[[float], str]) -> None:
    """The best teacher and the stretch of those as good, in words; the axis has its limits already."""
    flat = best.flat
    ax.axvspan(flat.lower, flat.upper, color=SERIES[4], alpha=0.18, linewidth=0)
    ax.plot([best.at], [best.student_loss], "o", color=SERIES[0], markersize=6, clip_on=False, zorder=5)
    low = "the smallest here" if flat.is_open_below else show(flat.lower)
    high = "the largest here" if flat.is_open_above else show(flat.upper)
    place = ax.transAxes.inverted().transform(ax.transData.transform((best.at, best.student_loss)))[0]
    side = "left" if place < 0.2 else "right" if place > 0.8 else "center"
    said = f"best {show(best.at)}\n{low} to {high} within {100 * FLAT:g} %"
    ax.text(best.at, 0.03, said, transform=ax.get_xaxis_transform(), ha=side, fontsize="small", color=INK)


def _laws(names: str | Sequence[str]) -> Laws:
    return laws_for_map((names,) if isinstance(names, str) else tuple(names))
