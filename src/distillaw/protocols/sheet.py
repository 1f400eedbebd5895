"""What a template fills in: teachers, cells and replicates of one study, each with the reason it is there.

A sheet knows the guessed law of its scale, so that templates can ask for teachers by their loss. It judges nothing
(`statement.py`). Blocks add controls under the names that the controls of a finished study look for; `study_file`
writes it all down.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distillaw.controls.control import LEAST_SEEDS
from distillaw.data.prepare import DataSpec
from distillaw.fitting.expected import prior_laws
from distillaw.laws.supervised import SupervisedLaw
from distillaw.protocols.scale import Scale, shape_of, tokens_alone
from distillaw.quantities import format_count, parse_count
from distillaw.runs.config import to_table, toml_value
from distillaw.sweep.spec import NONE as ALONE
from distillaw.sweep.spec import DesignSpec, ReplicateSpec, StudentsSpec, StudySpec, TargetSpec, TeacherSpec, TuningSpec

YOURS = "(yours)"
"""Stands for a corpus that was not named, so that a study can be priced before its text is there."""
TOKENS_SCORED = 1024
"""Of each held-out document."""
PEAK_LR = 0.011
"""Where the search for the rate starts, at width 64."""
STRONGEST = 0.65
"""Loss of the strongest teacher over what the smallest student reaches alone on the shortest budget, where size and
text allow: far enough below that a gap would show. A choice."""
AS_NAMED = dict.fromkeys(("pairs", "strong-teachers"), "the teachers are those that were named")
"""Controls that named teachers may lack."""


def size_name(params: float) -> str:
    """A size as study files write it, none of its digits lost: 0.1M, 1.6M, 2.5B."""
    return f"{params / 1e6:.12g}M" if params < 1e9 else f"{params / 1e9:.12g}B"


@dataclass(slots=True, kw_only=True)
class Sheet:
    """A study in the making."""

    scale: Scale
    students: StudentsSpec
    """The grid."""
    teachers: list[tuple[str, TeacherSpec]] = field(default_factory=list)
    """Why, and the teacher."""
    replicates: list[tuple[str, ReplicateSpec]] = field(default_factory=list)
    cells: list[tuple[str, DesignSpec]] = field(default_factory=list)
    target: TargetSpec | None = None
    batch_search: bool = True
    left_out: dict[str, str] = field(default_factory=dict)
    """Control -> why this template does without it."""

    @classmethod
    def of_grid(
        cls, scale: Scale, tokens: Sequence[int], *, sizes: Sequence[float] = (), batch_search: bool = True
    ) -> "Sheet":
        """Every size (those of the scale unless given) to every budget, alone and from every teacher, in every arm."""
        names = tuple(map(size_name, sizes or scale.students))
        students = StudentsSpec(params=names, tokens=tuple(tokens), starts=scale.starts)
        return cls(scale=scale, students=students, batch_search=batch_search)

    def teacher(self, params: float, tokens: float, why: str = "", *, split: str = "teacher") -> str:
        """Adds a teacher, unless it is there; returns its label."""
        whole = min(self.scale.whole(tokens), self.scale.teacher_tokens)
        one = TeacherSpec(params=size_name(params), tokens=whole, split=split)
        if one.label not in self.labels(control=True):
            self.teachers.append((why, one))
        return one.label

    def labels(self, *, control: bool = False) -> list[str]:
        """Labels of the teachers, weakest first by the guessed law."""
        kept = [t for _, t in self.teachers if control or not t.is_control]
        return [t.label for t in sorted(kept, key=lambda t: -self.teacher_loss(t))]

    def add(
        self,
        why: str,
        tokens: Sequence[int],
        *,
        sizes: Sequence[float] = (),
        teachers: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        """Adds a [[cells]] entry; `settings` are its further keys."""
        cells = DesignSpec(
            tokens=tuple(dict.fromkeys(tokens)),
            params=tuple(dict.fromkeys(map(size_name, sizes))),
            teachers=tuple(dict.fromkeys(teachers)),
            **settings,
        )
        self.cells.append((why, cells))

    def longest(self, size: float) -> int:
        """Longest budget of a size among the grid and the cells that share its settings."""
        name = size_name(size)
        plain = [c for _, c in self.cells if not (c.is_control or c.holdout)]
        own = [c.tokens for c in plain if name in (c.params or self.students.params)]
        return max(max(tokens) for tokens in (self.students.tokens, *own))

    def aim(self, size: float, tokens: int) -> None:
        """The student that the verdict is about."""
        self.target = TargetSpec(params=size_name(size), tokens=tokens)

    # --- the guess ------------------------------------------------------------------------------------------

    @property
    def law(self) -> SupervisedLaw:
        """The guess of what a model reaches alone."""
        supervised = prior_laws(np.array(self.scale.students))["surrogate-s2"].supervised
        assert supervised is not None
        return supervised

    def teacher_loss(self, teacher: TeacherSpec) -> float:
        """The guessed loss of a teacher."""
        return float(self.law(params=parse_count(teacher.params), tokens=teacher.tokens))

    def middle_teacher(self) -> TeacherSpec:
        """The teacher of middle loss, with which controls are run and the distilled rate is tuned."""
        labels = self.labels()
        return next(t for _, t in self.teachers if t.label == labels[len(labels) // 2])

    def ladder(self, count: int, *, worst: float = 1.05, beside: tuple[float, int] | None = None) -> None:
        """Teachers evenly spaced in ln loss, weak ones small and strong ones large, as far as size and text allow.

        Where the user named teachers, those instead.

        Args:
            worst: loss of the weakest over what the largest student reaches alone on the longest budget.
            beside: size and budget of the best student alone; by default the largest on the longest.
        """
        scale, law = self.scale, self.law
        if scale.are_teachers_named:
            self.family("as named, all on the same tokens")
            return
        size, tokens = beside or (scale.students[-1], scale.tokens[-1])
        weakest = float(law(params=scale.teachers[0], tokens=scale.tokens[0]))
        high = min(worst * float(law(params=size, tokens=tokens)), weakest)
        reachable = float(law(params=scale.teachers[-1], tokens=scale.teacher_tokens))
        low = max(STRONGEST * float(law(params=scale.students[0], tokens=scale.tokens[0])), reachable)
        for place, loss in enumerate(np.geomspace(high, low * (1 + 1e-9), count)):
            first = min(place * len(scale.teachers) // count, len(scale.teachers) - 1)
            size, tokens = self._affordable(float(loss), first)
            why = "" if place else "weakest to strongest, evenly in ln loss by the guessed law"
            self.teacher(size, tokens, why)

    def family(self, why: str) -> None:
        """Every size once, all on as many tokens."""
        for size in self.scale.teachers:
            self.teacher(size, self.scale.teacher_tokens, why if size == self.scale.teachers[0] else "")

    def _affordable(self, loss: float, first: int) -> tuple[float, float]:
        """The smallest size from `first` on that reaches a loss within the teachers' tokens, and its tokens."""
        scale = self.scale
        for size in scale.teachers[first:]:
            tokens = float(self.law.tokens_for_loss(params=size, loss=loss))
            if tokens <= scale.teacher_tokens:
                return size, tokens
        return scale.teachers[-1], scale.teacher_tokens

    def pairs(self, count: int) -> None:
        """Adds larger teachers on fewer tokens with the losses of teachers that are there."""
        scale, added = self.scale, 0
        if scale.are_teachers_named:
            self.left_out |= AS_NAMED
            return
        for label in self.labels()[1:]:
            twin = next(t for _, t in self.teachers if t.label == label)
            larger = next((size for size in scale.teachers if size > 1.5 * parse_count(twin.params)), None)
            if larger is None:
                continue
            tokens = float(self.law.tokens_for_loss(params=larger, loss=self.teacher_loss(twin)))
            if added < count and scale.tokens[0] <= tokens <= 0.8 * twin.tokens:
                self.teacher(larger, tokens, f"the loss of {twin.label} by the guessed law, from another size")
                added += 1

    # --- the study ------------------------------------------------------------------------------------------

    def spec(self, name: str) -> StudySpec:
        """The study as its file will describe it."""
        scale = self.scale
        tuned = self.middle_teacher().label if self.labels() else ""
        data = DataSpec(
            corpus=scale.corpus or YOURS,
            vocab_size=scale.vocab,
            validation_documents=scale.held_out,
            validation_tokens_per_document=TOKENS_SCORED,
        )
        spec = StudySpec(
            name=name,
            students=self.students,
            teachers=tuple(t for _, t in self.teachers),
            replicates=tuple(r for _, r in self.replicates),
            cells=tuple(c for _, c in self.cells),
            data=data,
            training=scale.recipe,
            tuning=TuningSpec(teacher=tuned, batch=self.batch_search),
            target=self.target,
            batch_tokens=scale.batch,
            peak_lr=PEAK_LR,
        )
        if "fixed" not in scale.starts:
            return spec
        # where pruned students' rates are searched, so that one search serves both arms
        cuts = replace(spec, students=replace(self.students, starts=("pruned",))).tuned_lessons("pruned")
        reference = cuts[0].source if cuts else ""
        return replace(spec, students=replace(self.students, reference=reference))

    def tokens_for_bill(self, size: float, tokens: int, teacher: TeacherSpec) -> float:
        """Tokens of a student alone that cost what distilling it and training its teacher cost together."""
        vocab, recipe = self.scale.vocab, self.scale.recipe
        own, other = shape_of(size, vocab, recipe), shape_of(parse_count(teacher.params), vocab, recipe)
        return tokens_alone(tokens, own, other, teacher.tokens)


# --- controls as blocks: each function adds one, with the reason as its comment -----------------------------


def more_than_text(sheet: Sheet, *, bill: bool = True) -> None:
    """The arms without which a teacher may be no more than extra text: union, seen, and (`bill`) equal FLOP."""
    assert sheet.target is not None
    size, tokens, teacher = parse_count(sheet.target.params), sheet.target.tokens, sheet.middle_teacher()
    why = f"is the teacher more than its text? The student's tokens and {teacher.label}'s, without a teacher"
    union = {"name": "union", "split": "union"}
    sheet.add(why, (tokens + teacher.tokens,), sizes=[size], teachers=[ALONE], **union)
    if sheet.scale.fits(teacher.tokens):
        why = f"{teacher.label} once more, on the students' own text"
        seen = sheet.teacher(parse_count(teacher.params), teacher.tokens, why, split="student")
        why = "the same student from a teacher that has read the student's own text"
        sheet.add(why, (sheet.scale.tokens[0], tokens), sizes=[size], teachers=[seen], name="seen")
    if not bill:
        return
    alone = sheet.scale.whole(sheet.tokens_for_bill(size, tokens, teacher))
    if sheet.scale.fits(alone):
        why = f"equal total FLOP: distilling {size_name(size)} from {teacher.label} and training that teacher cost "
        why += f"as much as {format_count(alone)} tokens alone"
        sheet.add(why, (alone,), sizes=[size], teachers=[ALONE])
    else:
        sheet.left_out["equal-flop"] = _too_long(alone)


def _too_long(tokens: int) -> str:
    return f"it takes {format_count(tokens)} tokens of the students' text, which has fewer"


def seeds(sheet: Sheet, *, count: int = LEAST_SEEDS) -> None:
    """Further seeds at the smallest and the largest size on the shortest budget; of one size at both ends."""
    teachers = (sheet.middle_teacher().label,) if sheet.labels() else ()
    first, last = sheet.students.tokens[0], sheet.students.tokens[-1]
    sizes = sheet.students.params
    places = dict.fromkeys([(sizes[0], first), (sizes[-1], last if len(sizes) == 1 else first)])
    why = "the noise floor: initialisation and data order"
    for params, tokens in places:
        one = ReplicateSpec(params=params, seeds=count, tokens=(tokens,), teachers=teachers)
        sheet.replicates.append((why, one))


def knobs(sheet: Sheet) -> None:
    """Settings lambda and temperature beside 1 on two cells: they may move what the grid calls the best teacher."""
    sizes, tokens = [parse_count(name) for name in sheet.students.params], sheet.students.tokens
    if len(sizes) > 1:
        sizes, tokens = [sizes[0], sizes[-1]], tokens[:1]
    else:
        tokens = (tokens[0], tokens[-1])
    why = "lambda and temperature on two cells"
    for name, training in (
        ("lambda 0.5", {"distill_weight": 0.5}),
        ("temperature 2", {"temperature": 2.0}),
        ("temperature 0.5", {"temperature": 0.5}),
    ):
        sheet.add(why, tokens, sizes=sizes, teachers=[sheet.labels()[-1]], name=name, training=training)
        why = ""


def holdout(sheet: Sheet, size: float, tokens: int) -> None:
    """One expensive corner, trained last, against predictions frozen before."""
    labels = sheet.labels()
    arms = [ALONE, labels[len(labels) // 2], labels[-1]] if labels else [ALONE]
    if not sheet.scale.fits(tokens):
        sheet.left_out["hold-out"] = _too_long(tokens)
        return
    why = "held out: trained when predictions of it are frozen (distillaw verify freeze)"
    sheet.add(why, (tokens,), sizes=[size], teachers=arms, holdout=True)


def all_controls(sheet: Sheet) -> None:
    """Everything that a study needs before a law of it means something."""
    more_than_text(sheet)
    seeds(sheet)
    knobs(sheet)


# --- the commented file: only what differs from the defaults, each table with its reason --------------------


_WIDTH = 110
"""Of the lines of comments."""
_GRID = "the grid: every size to every budget, alone and from every teacher"
_ARMS = ", by first weights: random, cut out of the teacher under test, cut out of one reference for all"


def study_file(sheet: Sheet, spec: StudySpec, heading: Iterable[str]) -> str:
    """The TOML text of a study, with its reasons; reading it gives `spec` back."""
    data, tuning = spec.data, spec.tuning
    corpus = toml_value(data.corpus) if data.corpus != YOURS else '""   # yours: give it with --corpus'
    top = (
        f"name = {toml_value(spec.name)}\n"
        f"batch_tokens = {toml_value(spec.batch_tokens)}   # the search for the batch starts here\n"
        f"peak_lr = {spec.peak_lr:g}   # at width 64; the search for the rate starts here\n"
    )
    text = (
        f"[data]\ncorpus = {corpus}\n"
        f"vocab_size = {data.vocab_size}   # its matrix is a modest share of the smallest student\n"
        f"validation_documents = {data.validation_documents}   # errors are clustered by document\n"
        f"validation_tokens_per_document = {data.validation_tokens_per_document}\n"
        "teacher_share = 0.5   # teachers and students read different documents\n"
    )
    parts = ["".join(_comment(line) for line in heading), top, text]
    parts.append(_entry("[students]", _GRID + _ARMS * (spec.students.starts != ("fresh",)), to_table(spec.students)))
    parts += [_entry("[[teachers]]", why, to_table(one)) for why, one in sheet.teachers]
    why = "the rate is searched for both arms at the end sizes"
    why += ", the batch too" if tuning.batch else "; the batch stays, so that all runs are paired"
    searched: dict[str, object] = {"teacher": tuning.teacher} if tuning.teacher else {}
    parts.append(_entry("[tuning]", why, searched if tuning.batch else searched | {"batch": False}))
    parts += [_entry("[[replicates]]", why, to_table(one)) for why, one in sheet.replicates]
    parts += [_entry("[[cells]]", why, _cells(one)) for why, one in sheet.cells]
    if spec.target is not None:
        table = {"params": spec.target.params, "tokens": spec.target.tokens}
        parts.append(_entry("[target]", "the student that the verdict is about", table))
    if changed := to_table(spec.training):
        parts.append(_entry("[training]", "", changed))
    return "\n".join(parts)


_CELLS = ("name", "params", "tokens", "teachers", "seeds", "split", "init", "rates", "training", "holdout")
"""In the order in which one reads them."""


def _cells(one: DesignSpec) -> dict[str, object]:
    table = to_table(one)
    return {key: table[key] for key in _CELLS if key in table}


def _entry(head: str, why: str, table: Mapping[str, object]) -> str:
    lines = "".join(f"{key} = {toml_value(value)}\n" for key, value in table.items())
    return f"{_comment(why) if why else ''}{head}\n{lines}"


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, _WIDTH - 2, subsequent_indent="  ")) or "#\n"
