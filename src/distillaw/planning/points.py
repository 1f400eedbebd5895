"""Nats to points: a verdict's losses and gains as scores of a task (`plan --metric`); the verdict stays about loss."""

from dataclasses import dataclass

from distillaw.laws.skill import Score, SkillLaw
from distillaw.planning.evidence import Evidence, Strategy
from distillaw.planning.learnt import learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """What one source's losses and gains are worth in a task."""

    law: SkillLaw
    headline: Evidence
    level: float

    def score(self, row: Strategy) -> Score | None:
        """Of a strategy; None where its loss is not known."""
        loss = row.loss
        return (
            self.law.score((loss.mean, loss.lower, loss.upper), self.level)
            if self.headline.is_informative
            else None
        )

    def gain(self, row: Strategy) -> Score | None:
        """Over pretraining; None for pretraining itself, or where losses are not known."""
        base = self.headline.pretrain
        if row.gain is None or base is None or not self.headline.is_informative:
            return None
        return self.law.gain(
            (base.loss.mean,) * 3, (row.gain.mean, row.gain.lower, row.gain.upper), self.level
        )

    @property
    def best(self) -> Score | None:
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
            known = (
                "is known better" if self.law.status == "CONVERGED" else "is known no better than by a line,"
            )
            lines.append(
                f"{task}: corpora, tokenizers and prompts differ by half a nat, so a score from a loss alone is hardly "
                f"known; what a gain is worth {known} and best with a score of your own, --score-at LOSS=SCORE"
            )
        if any((score := self.score(row)) is not None and score.at_chance for row in rows):
            lines.append(
                f"{task}: a question mark is where the interval covers chance, {100 * self.law.chance:.3g} %"
            )
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


def points_json(score: Score | None) -> dict[str, object] | None:
    """Per cent, or points."""
    if score is None:
        return None
    ends = {name: 100 * getattr(score, name) for name in ("median", "lower", "upper")}
    return {**ends, "at_chance": score.at_chance}


def level(score: Score) -> str:
    """`61 [52, 70]`, per cent; a question mark where guessing is inside."""
    return (
        f"{100 * score.median:.0f} [{100 * score.lower:.0f}, {100 * score.upper:.0f}]{'?' * score.at_chance}"
    )


def difference(score: Score) -> str:
    """`+1.2 [-0.4, +3.0]` points."""
    return f"{100 * score.median:+.1f} [{100 * score.lower:+.1f}, {100 * score.upper:+.1f}]"
