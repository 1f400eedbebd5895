"""Templates that fit a law: the three protocols of the distillation law, a supervised grid, a cheap L.

Source of the protocols: arXiv 2502.08606v2; of the L: ours (docs/protocols.md). What they
share: at least one axis moves L_T at fixed (N_S, D_S), one moves D_S, one moves N_S.
"""

from distillaw.protocols.scale import Scale
from distillaw.protocols.sheet import ALONE, AS_NAMED, Sheet, all_controls, holdout, seeds, size_name


def isoflop_students(scale: Scale) -> Sheet:
    """Teachers of one ratio of tokens to size; students along lines of equal compute."""
    sheet = Sheet(scale=scale)
    sheet.grid(scale.students, scale.tokens[:1])
    _fixed_ratio_teachers(sheet)
    largest = scale.students[-1]
    for size in scale.students:
        budgets = [scale.whole(tokens * largest / size) for tokens in scale.tokens]
        why = (
            "" if size > scale.students[0] else f"lines of equal compute: {size_name(size)} reads most tokens"
        )
        _within_text(sheet, why, budgets, size)
    sheet.aim(largest, scale.tokens[-1])
    all_controls(sheet)
    holdout(sheet, largest, scale.whole(2 * scale.tokens[-1]))
    return sheet


def isoflop_teachers(scale: Scale) -> Sheet:
    """Teachers along lines of equal compute; students of one ratio of tokens to size."""
    sheet = Sheet(scale=scale)
    sheet.grid(scale.students, scale.tokens[:1])
    middle = scale.teachers[len(scale.teachers) // 2]
    for share in (1 / 16, 1 / 4, 1):
        for size in scale.teachers:
            tokens = share * scale.teacher_tokens * middle / size
            if scale.tokens[0] <= tokens <= scale.teacher_tokens * 1.001:
                sheet.teacher(
                    size,
                    tokens,
                    "lines of equal compute; either side of the best size has equal losses"
                    if not sheet.teachers
                    else "",
                )
    why = "students of one ratio of tokens to size"
    for size in scale.students:
        budgets = [scale.whole(t * size / scale.students[0]) for t in scale.tokens]
        if budgets != list(sheet.students.tokens):  # else the grid has them
            _within_text(sheet, why, budgets, size)
            why = ""
    largest = scale.students[-1]
    tokens = scale.whole(scale.tokens[-1] * largest / scale.students[0])
    sheet.aim(largest, tokens if scale.fits(tokens) else scale.tokens[0])
    all_controls(sheet)
    holdout(sheet, largest, scale.whole(2 * tokens))
    return sheet


def fixed_ratio(scale: Scale) -> Sheet:
    """Teachers of one ratio; every student size at several ratios of its own."""
    sheet = Sheet(scale=scale)
    sheet.grid(scale.students, scale.tokens[:1])
    _fixed_ratio_teachers(sheet)
    for size in scale.students:
        budgets = [scale.whole(tokens * size / scale.students[0]) for tokens in scale.tokens]
        why = f"ratios of tokens to size of {_ratios(scale)}" if size == scale.students[0] else ""
        _within_text(sheet, why, budgets, size)
    sheet.aim(scale.students[0], scale.tokens[-1])
    all_controls(sheet)
    holdout(
        sheet,
        scale.students[-1],
        scale.whole(1.5 * scale.tokens[-1] * scale.students[-1] / scale.students[0]),
    )
    return sheet


def supervised(scale: Scale) -> Sheet:
    """Sizes by budgets, without teachers."""
    sheet = Sheet(scale=scale)
    sheet.grid(scale.students, scale.tokens)
    sheet.aim(scale.students[-1], scale.tokens[-1])
    seeds(sheet)
    holdout(sheet, scale.students[-1], scale.whole(4 * scale.tokens[-1]))
    return sheet


def l_shaped(scale: Scale) -> Sheet:
    """Three arms that meet in one corner: size, tokens, teacher; never the expensive corner."""
    sheet = Sheet(scale=scale)
    small, large = scale.students[0], scale.students[-1]
    sheet.grid((small, large), scale.tokens[:2])
    sheet.ladder(5, beside=(large, scale.tokens[1]))
    sheet.pairs(1)
    labels = sheet.labels()
    middle, strong = labels[len(labels) // 2], labels[-1]
    sheet.add(
        "the arm of sizes: one middle teacher, few tokens",
        scale.tokens[:1],
        sizes=scale.students[1:-1],
        teachers=[ALONE, middle],
    )
    sheet.add(
        "the arm of tokens: the smallest size, two teachers",
        scale.tokens[2:],
        sizes=[small],
        teachers=[ALONE, middle, strong],
    )
    sheet.add(
        "two points inside, to see whether the arms add up",
        scale.tokens[2:3],
        sizes=[scale.students[1]],
        teachers=[ALONE, middle, strong],
    )
    sheet.aim(large, scale.tokens[1])
    seeds(sheet)
    holdout(sheet, large, scale.tokens[3])
    sheet.left_out |= {
        "union": "cheap: use it where the teacher's text is your own",
        "seen-text": "cheap: one more teacher",
        "equal-flop": "cheap: the verdict prices the teacher by accounting",
        "lambda": "cheap: lambda and temperature stay at 1",
    }
    return sheet


def _fixed_ratio_teachers(sheet: Sheet) -> None:
    """Teachers with the tokens per parameter that the longest run allows the largest, a weak one, and a pair."""
    scale = sheet.scale
    ratio = scale.teacher_tokens / scale.teachers[-1]
    for size in scale.teachers:
        why = f"{ratio:.3g} tokens per parameter" if size == scale.teachers[0] else ""
        sheet.teacher(size, ratio * size, why)
    if scale.are_teachers_named:
        sheet.left_out |= AS_NAMED
        return
    loss = 1.04 * float(sheet.law(params=scale.students[-1], tokens=scale.tokens[-1]))
    weak = float(sheet.law.tokens_for_loss(params=scale.teachers[0], loss=loss))
    if weak < 0.8 * ratio * scale.teachers[0]:
        sheet.teacher(
            scale.teachers[0], weak, "weaker than the best student alone: where a teacher must not help"
        )
    sheet.pairs(1)


def _within_text(sheet: Sheet, why: str, budgets: list[int], size: float) -> None:
    """A size's own budgets, those aside that the text does not hold."""
    kept = [tokens for tokens in dict.fromkeys(budgets) if sheet.scale.fits(tokens)]
    if len(kept) < len(set(budgets)):
        why += f"{'; ' if why else ''}the text has not enough for {_listed(sorted(set(budgets) - set(kept)))} tokens"
    if kept:
        sheet.add(why, kept, sizes=[size])


def _listed(tokens: tuple[int, ...] | list[int]) -> str:
    return ", ".join(f"{t:,}" for t in tokens)


def _ratios(scale: Scale) -> str:
    return ", ".join(f"{tokens / scale.students[0]:.2g}" for tokens in scale.tokens)
