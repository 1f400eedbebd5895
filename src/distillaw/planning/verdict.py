"""The verdict: what `distillaw.plan` gives and `distillaw plan` prints, as text, tables, HTML and JSON.

The numbers come from decision.py and the evidence files, the sentences from wording.py; here they are put together.
`Points` has its losses and gains as scores of a task (`plan --metric`); the verdict stays about loss.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from operator import attrgetter

from distillaw.laws.skill import SkillLaw, SkillScore
from distillaw.planning.bills import Device
from distillaw.planning.decision import WORDS, Call, EqualCompute, StartCall, Supposed, call
from distillaw.planning.evidence import Crossover, Evidence, Interval, Strategy
from distillaw.planning.judging import Sources
from distillaw.planning.learnt import learnt
from distillaw.planning.nearest import Case, nearest
from distillaw.planning.phrases import interval, nats, percent
from distillaw.planning.sensitivity import SwitchingValue
from distillaw.planning.situation import Situation
from distillaw.planning.teacher_curve import TeacherRange
from distillaw.planning.wording import Words, crossover_sentence, equal_sentence
from distillaw.quantities import bare_flop, format_dollars, format_hours, format_size
from distillaw.runs.record import budget_text
from distillaw.table import Column, Table, number, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """What one source's losses and gains are worth in a task."""

    law: SkillLaw
    headline: Evidence
    level: float

    def score(self, row: Strategy) -> SkillScore | None:
        """Of a strategy; None where its loss is not known."""
        loss = row.loss
        return self.law.score((loss.mean, loss.lower, loss.upper), self.level) if self.headline.is_informative else None

    def gain(self, row: Strategy) -> SkillScore | None:
        """Over pretraining; None for pretraining itself, or where losses are not known."""
        base = self.headline.pretrain
        if row.gain is None or base is None or not self.headline.is_informative:
            return None
        return self.law.gain((base.loss.mean,) * 3, (row.gain.mean, row.gain.lower, row.gain.upper), self.level)

    @property
    def best(self) -> SkillScore | None:
        """Of the best distillation over the best pretraining."""
        if not self.headline.is_informative:
            return None
        gain, loss = self.headline.gain(self.level), self.headline.best_pretrain.loss
        return self.law.gain((loss.mean,) * 3, (gain.mean, gain.lower, gain.upper), self.level)

    @property
    def sentence(self) -> str:
        """The gain in points, or why there is none."""
        if self.best is None:
            return f"In {self.law.task}: unknown, as the losses are."
        covers = ", which may be none" if self.best.at_chance else ""
        return f"In {self.law.task} the gain is worth {difference(self.best)} points{covers}."

    @property
    def warnings(self) -> list[str]:
        """What to doubt in the scores."""
        if not self.headline.is_informative:
            return []
        task = self.law.task
        rows = [row for row in self.headline.ranked if not row.is_speculative]
        losses = [row.loss.mean for row in rows]
        lines = [f"{task}: {line}" for line in self.law.box.complaints({"loss": losses})]
        if not self.law.anchors:
            known = "is known better" if self.law.status == "CONVERGED" else "is known no better than by a line,"
            lines.append(
                f"{task}: corpora, tokenizers and prompts differ by half a nat, so a score from a loss alone is hardly "
                f"known; what a gain is worth {known} and best with a score of your own, --score-at LOSS=SCORE"
            )
        if any((score := self.score(row)) is not None and score.at_chance for row in rows):
            lines.append(f"{task}: a question mark is where the interval covers chance, {100 * self.law.chance:.3g} %")
        return [
            *lines,
            f"{task}: students of equal loss are taken to have equal skill however taught; in published outcomes those "
            f"of a teacher had what {100 * learnt().points:.1f} % of the loss is worth more (docs/retrodiction.md)",
        ]

    def to_json(self) -> dict[str, object]:
        """The task, its law and the gain."""
        law = self.law
        return {
            "task": law.task,
            "chance": 100 * law.chance,
            "status": law.status,
            "losses": list(law.losses),
            "models": law.models,
            "corpora": list(law.corpora),
            "score_at": [[loss, 100 * score] for loss, score in law.anchors],
            "gain": points_json(self.best),
        }

    def row_json(self, row: Strategy) -> dict[str, object]:
        """A strategy's score and its gain over pretraining."""
        return {"score": points_json(self.score(row)), "score_gain": points_json(self.gain(row))}


def points_json(score: SkillScore | None) -> dict[str, object] | None:
    """Per cent, or points."""
    if score is None:
        return None
    ends = {name: 100 * getattr(score, name) for name in ("median", "lower", "upper")}
    return {**ends, "at_chance": score.at_chance}


def level(score: SkillScore) -> str:
    """`61 [52, 70]`, per cent; a question mark where guessing is inside."""
    return f"{100 * score.median:.0f} [{100 * score.lower:.0f}, {100 * score.upper:.0f}]{'?' * score.at_chance}"


def difference(score: SkillScore) -> str:
    """`+1.2 [-0.4, +3.0]` points."""
    return f"{100 * score.median:+.1f} [{100 * score.lower:+.1f}, {100 * score.upper:+.1f}]"


UNKNOWN = "UNKNOWN"
"""Title where no evidence reaches the question: that is no tie."""
SPECULATIVE = "* does not decide: an estimate, or another start than the one asked about"
_NO_BAND = {"lower": None, "median": None, "upper": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Words):
    """Distil or pretrain, from which teacher, how sure, and what would change the answer."""

    verdict: str
    """`distil`, `pretrain` or `too-close`."""
    probability: float
    margin: float
    """Nats/token."""
    strategies: Sequence[Strategy]
    """Best first, pretraining among them."""
    gain: Interval
    """Best distillation over pretraining, nats/token."""
    crossover: Crossover | None
    """Where training without a teacher catches up, in tokens."""
    crossover_compute: Crossover | None
    """The same in FLOP."""
    flips: Sequence[SwitchingValue]
    """What would change the answer as numbers, where they were searched."""
    inside_range: bool
    regret_if_wrong: Interval
    """Nats/token."""
    evidence: Sequence[Evidence]
    """Every source, in order of trust."""
    headline: Evidence
    """What carries the verdict."""
    call: Call
    equal_compute: EqualCompute | None
    better_start: StartCall | None
    """Whether a cut begins better, where the verdict is on random starts."""
    with_a_teacher: Supposed | None
    """Where none is at hand and tokens are the budget."""
    asked: Situation
    """The question as it was put."""
    situation: Situation
    """As it was judged: at equal FLOP where tokens are the budget and no teacher is at hand."""
    level: float
    sources: Sources
    """Who was asked."""
    teachers: TeacherRange | None = None
    """How flat the choice of the teacher's size is."""
    device: Device | None = None
    """What strategies are priced on; None for a study, whose machine is its own."""
    skill: SkillLaw | None = None
    """Of the task that was asked about, where one was."""

    @property
    def points(self) -> Points | None:
        """Losses and gains as scores of the task that was asked about."""
        return None if self.skill is None else Points(law=self.skill, headline=self.headline, level=self.level)

    @property
    def nearest(self) -> Sequence[Case]:
        """Published outcomes nearest to the question, nearest first."""
        return nearest(self.situation, self.headline.best, self.verdict if self.headline.is_decisive else "too-close")

    @property
    def title(self) -> str:
        """The verdict in a word or two."""
        return WORDS[self.verdict].title if self.headline.is_decisive else UNKNOWN

    @property
    def crossover_tokens(self) -> dict[str, float | None]:
        """`{lower, median, upper}`, None where there is none."""
        band = self.crossover
        return {name: None if band is None else getattr(band, name) for name in _NO_BAND}

    @property
    def probability_distil(self) -> float:
        """That distilling wins by more than the margin."""
        return self.call.distil

    @property
    def probability_pretrain(self) -> float:
        """That pretraining does."""
        return self.call.pretrain

    def to_json(self) -> dict[str, object]:
        """The keys of `distillaw plan --json`, and what stands behind them, at full precision."""
        plain = ("verdict", "probability", "probability_distil", "probability_pretrain", "margin", "sentence")
        plain += ("inside_range", "level", "next_command")
        texts = ("flips_if", "assumptions", "warnings", "reasons", "next_runs")
        parts = ("gain", "crossover", "regret_if_wrong", "equal_compute", "better_start", "with_a_teacher")
        of_situation = ("comparison", "scenario", "student_params", "max_params", "compute")
        band = self.crossover_compute
        return {
            **{name: getattr(self, name) for name in plain},
            **{name: list(getattr(self, name)) for name in texts},
            **{name: _json(getattr(self, name)) for name in parts},
            **{name: getattr(self.situation, name) for name in of_situation},
            "student_tokens": self.asked.student_tokens,
            "start": self.asked.start,
            "device": _json(self.device),
            "strategies": [self._row_json(row) for row in self.strategies],
            "crossover_tokens": self.crossover_tokens,
            "crossover_compute": _NO_BAND if band is None else band.to_json(),
            "flips": [flip.to_json() for flip in self.flips],
            "nearest": [case.to_json() for case in self.nearest],
            "teacher_sizes": _json(self.teachers),
            "evidence": [evidence_json(e, self.level, self.headline) for e in self.evidence],
            **({} if self.points is None else {"metric": self.points.to_json()}),
        }

    def _row_json(self, row: Strategy) -> dict[str, object]:
        return row.to_json() | self.price(row) | ({} if self.points is None else self.points.row_json(row))

    def price(self, row: Strategy) -> dict[str, float | None]:
        """Hours of the device and US dollars of what a strategy pays here; None where either is not known."""
        total = row.compute.get("total")
        cost = None if self.device is None or total is None else self.device.cost(total)
        return {
            "device_hours": None if cost is None else cost.device_hours,
            "dollars": None if cost is None else cost.price,
        }

    def __str__(self) -> str:
        """Five lines to decide by, then what it rests on."""
        lines = [_titled(self.title, self.sentence)]
        lines += self.reasons[: 2 if self.with_a_teacher is None else 3]
        if self.equal_compute is not None:
            lines.append(equal_sentence(self.equal_compute))
        band = self.crossover
        if self.verdict == "distil" and band is not None and band.median is not None:
            lines.append(crossover_sentence(band, self.level))
        if self.points is not None:
            lines.append(self.points.sentence)
        if self.flips_if:
            lines.append(f"Changes if {self.flips_if[0]}.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The sentence, the strategies and what would change it, for notebooks."""
        said = f"<p><b>{self.title}</b> {escape(self.sentence)}.</p>{strategy_table(self).notebook()}"
        warnings = f"<p>Warnings</p>{_list(self.warnings)}" if self.warnings else ""
        return f"<div>{said}<p>Changes if</p>{_list(self.flips_if)}{warnings}</div>"


def _json(part: object) -> object:
    return None if part is None else part.to_json()  # type: ignore[attr-defined]


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _titled(word: str, sentence: str) -> str:
    """`DISTIL from the 8B: ...`: the title, and the sentence without it where it begins so."""
    begins = sentence.upper().startswith(f"{word} ")
    return f"{word}{sentence[len(word) :]}" if begins else f"{word}  {sentence}"


def evidence_json(evidence: Evidence, level: float, headline: Evidence) -> dict[str, object]:
    """One source as a row: numbers where it has any, and why it has none where not."""
    details = {k: dict(v) if isinstance(v, Mapping) else v for k, v in evidence.details.items()}
    answer = call(evidence) if evidence.is_decisive else None
    return {
        "source": evidence.source,
        "kind": evidence.kind,
        "status": evidence.status,
        "note": evidence.note,
        "decides": evidence.source in headline.deciding,
        "inside_range": evidence.inside_range,
        "best": evidence.best.name if evidence.speaks else None,
        "gain": evidence.gain(level).to_json() if evidence.speaks else None,
        "probability_distil": None if answer is None else answer.distil,
        "probability_pretrain": None if answer is None else answer.pretrain,
        "details": details,
    }


def strategy_table(verdict: Verdict) -> Table:
    """Losses and gains of every strategy, best first."""
    mean, median, is_known = attrgetter("mean"), attrgetter("median"), verdict.headline.is_informative

    def known(name: str) -> Callable[[Strategy], object]:
        return lambda row: getattr(row, name) if is_known else None

    scores: list[Column] = []
    if (points := verdict.points) is not None:
        scores = [
            number(points.law.task, level, unit="%", of=points.score, sort=median, missing="unknown"),
            number("points", difference, of=points.gain, sort=median),
        ]
    return Table.of(
        [
            text("strategy", of=_name),
            number("teacher loss", nats, of=attrgetter("teacher_loss")),
            number("loss", interval, unit="nats/token", of=known("loss"), sort=mean, missing="unknown"),
            number("gain", interval, of=known("gain"), sort=mean),
            *scores,
            number("best teacher?", percent, of=known("share_best")),
        ],
        verdict.strategies,
        note=SPECULATIVE if any(row.is_speculative for row in verdict.strategies) else "",
    )


def cost_table(verdict: Verdict) -> Table:
    """FLOP of each strategy by part, and what the scenario has this student pay."""
    parts = {"training": "student_training", "logits": "teacher_logits", "teacher": "teacher_training"}
    if verdict.situation.inference_tokens:
        parts["serving"] = "serving"
    parts["paid here"] = "total"
    flop = [
        number(words, bare_flop, of=lambda row, part=part: row.compute.get(part), missing="unknown")
        for words, part in parts.items()
    ]
    prices: list[Column] = []
    if verdict.device is not None:
        prices = [
            number("hours", format_hours, of=lambda row: verdict.price(row)["device_hours"], missing="unknown"),
            number("money", format_dollars, of=lambda row: verdict.price(row)["dollars"], missing="unknown"),
        ]
    return Table.of(
        [
            text("FLOP", of=_name),
            number("student", format_size, of=attrgetter("student_params")),
            number("tokens", budget_text, of=attrgetter("student_tokens")),
            *flop,
            *prices,
            text("loss is", of=lambda row: "estimate" if row.is_speculative else row.basis),
        ],
        verdict.strategies,
        note="" if verdict.device is None else verdict.device.note,
    )


def evidence_table(verdict: Verdict, *, status: Callable[[str], str] = str) -> Table:
    """Every source side by side: what it says and whether it decides; `status` puts its status into words."""

    def gain(source: Evidence) -> object:
        return source.gain(verdict.level) if source.is_informative else None

    def what(source: Evidence) -> str:
        mark = "decides; " if source.source in verdict.headline.deciding else ""
        return f"{mark}{status(source.status)}: {source.note}"

    def chance(side: str) -> Callable[[Evidence], object]:
        return lambda source: getattr(call(source), side) if source.is_decisive else None

    return Table.of(
        [
            text("evidence", of=attrgetter("source")),
            number("gain", interval, of=gain, sort=attrgetter("mean")),
            number("P(distil)", percent, of=chance("distil")),
            number("P(pretrain)", percent, of=chance("pretrain")),
            text("what it is", of=what, is_wrapped=True),
        ],
        verdict.evidence,
    )


def nearest_table(verdict: Verdict) -> Table:
    """Published outcomes nearest to the question: what happened, and whether it agrees with the verdict."""
    agrees = {True: "yes", False: "no", None: "-"}
    return Table.of(
        [
            text("nearest published outcomes", of=lambda case: case.question, is_wrapped=True),
            text("what happened", of=attrgetter("outcome"), is_wrapped=True),
            text("agrees", of=lambda case: agrees[case.agrees]),
            text("source", of=lambda case: case.row.source),
        ],
        verdict.nearest,
        note="nearest first, by student, tokens per parameter, teacher, start and recipe (distillaw retrodict)",
    )


def _name(row: Strategy) -> str:
    """What is done; a star marks what no law and no run describes."""
    return row.name + (" *" if row.is_speculative else "")
