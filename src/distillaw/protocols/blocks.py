"""Controls as blocks of a study file: each function adds one to a sheet, with the reason as its comment.

The names are those that the controls of a finished study look for.
"""

from distillaw.protocols.sheet import ALONE, Sheet, size_name
from distillaw.quantities import format_count, parse_count
from distillaw.sweep.spec import ReplicateSpec, TeacherSpec

SEEDS = 5


def more_than_text(sheet: Sheet, *, bill: bool = True) -> None:
    """The arms without which a teacher may be no more than extra text: union, seen, and (`bill`) equal FLOP."""
    assert sheet.target is not None
    size, tokens, teacher = parse_count(sheet.target.params), sheet.target.tokens, sheet.middle_teacher()
    sheet.add(f"is the teacher more than its text? The student's tokens and {teacher.label}'s, without a teacher",
              (tokens + teacher.tokens,), sizes=[size], teachers=[ALONE], name="union", split="union")  # fmt: skip
    if sheet.scale.fits(teacher.tokens):
        seen = sheet.teacher(parse_count(teacher.params), teacher.tokens,
                             f"{teacher.label} once more, on the students' own text", split="student")  # fmt: skip
        sheet.add("the same student from a teacher that has read the student's own text",
                  (sheet.scale.tokens[0], tokens), sizes=[size], teachers=[seen], name="seen")  # fmt: skip
    if bill:
        _equal_flop(sheet, size, tokens, teacher)


def _equal_flop(sheet: Sheet, size: float, tokens: int, teacher: TeacherSpec) -> None:
    """The student alone for the FLOP of its distillation and its teacher's training, if the text has so many tokens."""
    bill = sheet.scale.whole(sheet.tokens_for_bill(size, tokens, teacher))
    if sheet.scale.fits(bill):
        sheet.add(f"equal total FLOP: distilling {size_name(size)} from {teacher.label} and training that teacher cost "
                  f"as much as {format_count(bill)} tokens alone", (bill,), sizes=[size], teachers=[ALONE])  # fmt: skip
    else:
        sheet.left_out["equal-flop"] = (
            f"it takes {format_count(bill)} tokens of the students' text, which has fewer"
        )


def seeds(sheet: Sheet, *, count: int = SEEDS) -> None:
    """Further seeds at the smallest and the largest size on the shortest budget; of one size at both ends."""
    teachers = (sheet.middle_teacher().label,) if sheet.labels() else ()
    first, last = sheet.students.tokens[0], sheet.students.tokens[-1]
    sizes = sheet.students.params
    places = dict.fromkeys([(sizes[0], first), (sizes[-1], last if len(sizes) == 1 else first)])
    why = "the noise floor: initialisation and data order"
    for params, tokens in places:
        sheet.replicates.append(
            (why, ReplicateSpec(params=params, seeds=count, tokens=(tokens,), teachers=teachers))
        )


def knobs(sheet: Sheet) -> None:
    """Settings lambda and temperature beside 1 on two cells: they may move what the grid calls the best teacher."""
    sizes, strongest = _ends(sheet), sheet.labels()[-1]
    tokens = (
        (sheet.students.tokens[0],)
        if len(sizes) > 1
        else (sheet.students.tokens[0], sheet.students.tokens[-1])
    )
    for name, training in (("lambda 0.5", {"distill_weight": 0.5}), ("temperature 2", {"temperature": 2.0}),
                           ("temperature 0.5", {"temperature": 0.5})):  # fmt: skip
        sheet.add("lambda and temperature on two cells" if name.startswith("lambda") else "", tokens, sizes=sizes,
                  teachers=[strongest], name=name, training=training)  # fmt: skip


def holdout(sheet: Sheet, size: float, tokens: int) -> None:
    """One expensive corner, trained last, against predictions frozen before."""
    labels = sheet.labels()
    arms = [ALONE, labels[len(labels) // 2], labels[-1]] if labels else [ALONE]
    if not sheet.scale.fits(tokens):
        sheet.left_out["hold-out"] = (
            f"it takes {format_count(tokens)} tokens of the students' text, which has fewer"
        )
        return
    sheet.add("held out: trained when predictions of it are frozen (distillaw verify freeze)", (tokens,), sizes=[size],
              teachers=list(dict.fromkeys(arms)), holdout=True)  # fmt: skip


def all_controls(sheet: Sheet) -> None:
    """Everything that a study needs before a law of it means something."""
    more_than_text(sheet)
    seeds(sheet)
    knobs(sheet)


def _ends(sheet: Sheet) -> list[float]:
    sizes = [parse_count(name) for name in sheet.students.params]
    return [sizes[0], sizes[-1]] if len(sizes) > 1 else sizes
