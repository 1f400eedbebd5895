r"""Learn how much of a gain by published laws is had and how far it may be off; write docs/retrodiction.md.

python -m benchmarks.outcomes.learn          # outcomes and own studies -> src/distillaw/outcomes/learnt.json
python -m benchmarks.outcomes.learn --nested # the form chosen inside: the score of choosing, on rows left out twice
python -m benchmarks.outcomes.learn --page   # what `distillaw retrodict` says then -> tables of docs/retrodiction.md

    gain of a row = mu(g, e, w, top-k, repeats) + u(source) + error     the equations of planning/learnt.py
    u ~ N(0, tau^2), common to the rows of a source
    error ~ t4 with standard deviation sd, in which what was learnt counts times exp(z), z ~ N(0, spread^2) by source
    losses count by their density, scores by whether A won, B won or they tied (margin 0.25 %)

The posterior mode under the priors below; once on everything, once without each source. Own studies count as three more
sources, 16 runs each. A question is always of a new source: tau is in `at_home`, and what is written of the learnt
doubts is as wide as the t4 whose central 90 % are those of all sources together.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, combinations_with_replacement
from operator import attrgetter

import numpy as np

from benchmarks import ROOT
from benchmarks.outcomes.page import learnt_table, reliability_tables
from benchmarks.verdict.baselines import STUDIES, Pair, pairs
from benchmarks.worlds_study.page import filled
from distillaw.errors import DistillawError
from distillaw.outcomes.table import ASKED_ONLY, Outcome, loss_of, read_outcomes
from distillaw.planning.api import plan
from distillaw.planning.decision import MARGIN, SURPRISE
from distillaw.planning.gains import LAW_SCALE
from distillaw.planning.law_evidence import COST
from distillaw.planning.learnt import FAR, INSURED, REPEATS, SEEDS, TeachingRecipe
from distillaw.runs.table import read_table
from distillaw.table import Table, number, text
from distillaw.verifying.retrodiction import SCORE_SD, NotAskedError, noise_of, question_of, retrodict

LEARNT = ROOT / "src" / "distillaw" / "outcomes" / "learnt.json"
PAGE = ROOT / "docs" / "retrodiction.md"
RUNS = 16
"""Of each own study, evenly over the ratio of losses: about as many rows as the largest source has."""
PRIORS = {
    "realised": (0.5, 0.3),
    "log at_home": (math.log(0.014), 0.25),
    "per_gain": (0.25, 0.1),
    "truncated": (0.0, 0.5),
    "log truncated_sd": (math.log(0.03), 0.7),
    "repeated": (0.0, 0.03),
    "compute": (-0.003, 0.005),
    "begun": (0.3, 0.3),
    "points": (0.0, 0.01),
    "log tau": (math.log(0.005), 0.7),
    "log spread": (math.log(0.5), 0.5),
}
"""Means and standard deviations. at_home: what surrogates missed of simulated truths in their range, 1.35 %
(docs/verdict.md); realised and per_gain: wide around the four studies' shares; compute: passes of a teacher cost more
time than FLOP; begun: little, since the law of starts is from students a ten-thousandth of the size; points:
nothing, give or take what a score moves beside the loss; spread: one source's doubt is 1.6 times the next one's."""
FEW, FEW_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
SHIFTS, STRETCHES = (axis.ravel() for axis in np.meshgrid(FEW, FEW, indexing="ij"))
"""Standard normal nodes of a source's effect and of ln its scale of doubt, (25,) each."""
WEIGHTS = np.outer(FEW_WEIGHTS, FEW_WEIGHTS).ravel() / FEW_WEIGHTS.sum() ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One gain, and what a law says of it."""

    source: str
    law_gain: float
    """g, a share of the loss: over the student's twin, who has as many tokens and no teacher."""
    cost: float = 0.0
    """What the twin has over pretraining at equal compute, a share of the loss."""
    law_sd: float
    """Between the members of the law."""
    beyond: float
    """0 to 1."""
    recipe: TeachingRecipe = field(default_factory=TeachingRecipe)
    truncation: float = 0.0
    """0 to 1."""
    is_repeated: bool = False
    is_cut: bool = False
    """Whether both students begin from one cut."""
    at_equal_compute: bool = False
    is_score: bool = False
    is_asked: bool = True
    """Whether a law speaks of it."""
    gain: float | None = None
    """Of the loss; None where it was a score."""
    won: int = 0
    """1: A, -1: B, 0: tie."""
    noise: float = 0.0
    """Published, of one value, as a share of it."""


def _saying(without: Sequence[str]) -> set[str]:
    """Sources that say their weight."""
    said = (row for row in read_outcomes() if row.distill_weight is not None or row.is_tuned)
    return {row.source for row in said} - set(without)


def practice(start: str, without: str = "") -> float:
    """Share of the sources that say their weight and use the teacher's term alone, (k + 1/2) / (n + 1).

    Args:
        start: what students begin from.
        without: a source that does not count.
    """
    said: dict[str, set[float]] = {}
    for row in read_outcomes():
        if row.source in (*ASKED_ONLY, without) or row.start != start:
            continue
        if row.distill_weight is not None or row.is_tuned:
            weight = 0.0 if row.is_tuned or row.distill_weight is None else row.distill_weight
            said.setdefault(row.source, set()).add(weight)
    return (sum(weights == {1.0} for weights in said.values()) + 0.5) / (len(said) + 1)


def rows_of_outcomes() -> list[Row]:
    """Rows in which A distils, B does not, and the planner has a question, of sources that may teach.

    Targets of one id are labels, not a distribution: they say nothing of truncation.
    """
    taught = (row for row in read_outcomes() if row.source not in ASKED_ONLY and row.top_k != 1 and not row.start_b)
    found = [_row(row) for row in taught if row.says_of_distilling]
    return [row for row in found if row is not None]


def _row(row: Outcome) -> Row | None:
    try:
        verdict = plan(**question_of(row), with_flips=False)
    except (NotAskedError, DistillawError):
        return _without_a_law(row)
    said, asked = next(e for e in verdict.evidence if e.kind == "surrogate"), verdict.situation
    if asked.recipe.problem:
        return None
    laws = said.details["laws"].values()  # type: ignore[attr-defined]
    cost = float(said.details.get(COST, 0.0))  # type: ignore[arg-type]
    gain = np.array([1 - law["distil"] / law["pretrain"] for law in laws]) - cost
    outside = said.details["efolds_outside"].values()  # type: ignore[attr-defined]
    beyond, best = min(max(outside, default=0.0) / FAR, 1.0), said.best
    assert best.teacher_loss is not None and said.pretrain is not None
    if best.teacher_loss < said.pretrain.loss.mean and asked.comparison == "equal-tokens":
        gain = np.where(gain < 0, (1 - beyond) * gain, gain)
    return Row(
        source=row.source,
        law_gain=float(gain.mean()),
        law_sd=float(gain.std()),
        cost=cost,
        beyond=beyond,
        recipe=asked.recipe,
        truncation=asked.recipe.truncation(asked.vocab),
        is_repeated=_is_repeated(row),
        is_cut=asked.start == "pruned",
        at_equal_compute=asked.comparison == "equal-compute",
        **_outcome(row),
    )


def _without_a_law(row: Outcome) -> Row | None:
    """Repeated text says what a teacher does there, though sizes or tokens were not published."""
    if row.comparison != "distil-vs-pretrain-equal-text" or row.id == "kim-self-noreal":  # on own samples alone
        return None
    blank = {"law_gain": 0.0, "law_sd": 0.0, "beyond": 1.0, "is_asked": False}
    return Row(source=row.source, is_repeated=True, **blank, **_outcome(row))


def _is_repeated(row: Outcome) -> bool:
    return row.unique_tokens is not None and row.tokens_a is not None and row.tokens_a > REPEATS[0] * row.unique_tokens


def _outcome(row: Outcome) -> dict:
    share = None
    if row.is_loss and row.gain is not None and row.value_b is not None:
        share = row.gain / loss_of(row, row.value_b)
    won = {"A": 1, "B": -1, "tie": 0}[row.winner]
    return {"gain": share, "is_score": not row.is_loss, "won": won, "noise": noise_of(row)}


def rows_of_studies() -> list[Row]:
    """Students a thousand times smaller than the surrogates', asked at their own ratio of losses."""
    found = []
    for name, path in STUDIES.items():
        runs = sorted(pairs(read_table(path)), key=lambda pair: pair.ratio)
        for k in np.linspace(0, len(runs) - 1, RUNS).astype(int):
            known = {"law_gain": runs[k].law, "law_sd": 0.0, "beyond": 1.0, "gain": runs[k].run}
            found.append(Row(source=f"own: {name}", **known))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyShares:
    """What one of our studies had of gains by the surrogates, far below their range."""

    study: str
    runs: int
    gained: float
    """Of positive gains, least squares."""
    lost: float
    """Of negative ones."""
    common: float
    """Of what these leave, the share (as variance) that all teachers of a student on the same tokens have in common."""
    teachers: int
    """Pairs of teachers of one student on the same tokens whose students differ by more than the margin."""
    ordered: float
    """Share of them in which the laws prefer the better one."""


def study_shares() -> list[StudyShares]:
    """By study."""
    found = []
    for name, path in STUDIES.items():
        runs = pairs(read_table(path))
        gained, lost = (_share([p for p in runs if (p.law > 0) == up]) for up in (True, False))
        left: dict[object, list[float]] = {}
        for p in runs:
            left.setdefault(p.design, []).append(p.run - (gained if p.law > 0 else lost) * p.law)
        several = [np.array(errors) for errors in left.values() if len(errors) > 1]
        within = np.concatenate([(e - e.mean()) ** 2 * len(e) / (len(e) - 1) for e in several]).mean()
        total = np.concatenate([e**2 for e in several]).mean()
        by_design: dict[object, list[Pair]] = {}
        for p in runs:
            by_design.setdefault(p.design, []).append(p)
        both = [pair for those in by_design.values() for pair in combinations(those, 2)]
        right = [(a.law > b.law) == (a.run > b.run) for a, b in both if abs(a.run - b.run) > MARGIN]
        shares = {"gained": gained, "lost": lost, "common": float(1 - within / total)}
        shares |= {"teachers": len(right), "ordered": float(np.mean(right))}
        found.append(StudyShares(study=name, runs=len(runs), **shares))
    return found


def _share(runs: Sequence[Pair]) -> float:
    law, run = np.array([[p.law, p.run] for p in runs]).T
    return float((law * run).sum() / (law**2).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What of the model was a choice made with outcomes in sight."""

    name: str = "as it is"
    priors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Instead of those of `PRIORS`; a standard deviation near zero holds a number where it is."""


FORMS = (
    Form(),
    Form(name="nothing lost at equal compute", priors={"compute": (0.0, 1e-6)}),
    Form(name="scores as losses", priors={"points": (0.0, 1e-6)}),
    Form(name="cuts as the law of starts has them", priors={"begun": (1.0, 1e-6)}),
    Form(name="all sources as doubtful", priors={"log spread": (math.log(1e-3), 1e-6)}),
)


def fit(
    rows: Sequence[Row], start: np.ndarray | None = None, form: Form = FORMS[0], *, without: str = ""
) -> np.ndarray:
    """The posterior mode, in the order of PRIORS; `without`: a source whose practice does not count either."""
    from scipy.optimize import minimize

    rows = sorted(rows, key=lambda row: row.source)
    first = [i for i, row in enumerate(rows) if i == 0 or rows[i - 1].source != row.source]
    mean, sd = np.array(list((PRIORS | dict(form.priors)).values())).T
    known = _known(rows, without)

    def loss(z: np.ndarray) -> float:
        log_each, _, _ = _log_likelihoods(mean + sd * z, known)
        by_source = np.add.reduceat(log_each, first, axis=1)
        top = by_source.max(0)
        total = top + np.log((np.exp(by_source - top) * WEIGHTS[:, None]).sum(0))
        return float(-total.sum() + 0.5 * (z**2).sum())

    guess = np.zeros(len(mean)) if start is None else (start - mean) / sd
    return mean + sd * minimize(loss, guess, method="L-BFGS-B", options={"maxiter": 60}).x


def _left(row: Row) -> float:
    """Share of a loss that the row's recipe leaves; at weight 1, where none was said."""
    return 0.0 if row.recipe.is_tuned else row.recipe.weight**INSURED


def _unsaid(row: Row, without: str) -> float:
    """Probability that nothing of a loss is left, since the weight was not said and may have been well chosen."""
    is_said = row.recipe.is_said or row.recipe.is_tuned
    return 0.0 if is_said else 1 - practice("pruned" if row.is_cut else "random", without)


def _known(rows: Sequence[Row], without: str = "") -> dict[str, np.ndarray]:
    return {
        "g": np.array([row.law_gain for row in rows]),
        "cost": np.array([row.cost for row in rows]),
        "law_sd": np.array([row.law_sd for row in rows]),
        "b": np.array([row.beyond for row in rows]),
        "w": np.array([row.recipe.weight for row in rows]),
        "lost": np.array([_left(row) for row in rows]),
        "unsaid": np.array([_unsaid(row, without) for row in rows]),
        "picked": np.array([row.recipe.picked for row in rows]),
        "cuts": np.array([row.is_cut for row in rows]),
        "compute": np.array([row.at_equal_compute for row in rows]),
        "score": np.array([row.is_score for row in rows]),
        "soft": np.array([row.recipe.kept for row in rows]),
        "noise": np.array([row.noise for row in rows]),
        "cut": np.array([row.truncation for row in rows]),
        "repeated": np.array([row.is_repeated for row in rows]),
        "gain": np.array([math.nan if row.gain is None else row.gain for row in rows]),
        "won": np.array([row.won for row in rows]),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a fit says of a row of a source that taught it nothing, as `plan` would: by one t4."""

    row: Row
    chance: float
    """P(A)."""
    score: float
    """Ln of the density of the gain, or of the probability of who won."""
    rank: float | None
    """Of a published gain among those that are possible: 0.05 to 0.95 is inside the 90 % interval."""

    @property
    def error(self) -> float:
        """Squared, of the chance."""
        return (self.chance - (self.row.won > 0)) ** 2

    @property
    def is_inside(self) -> bool:
        """Whether the interval holds the gain."""
        return self.rank is not None and 0.05 <= self.rank <= 0.95


def said_of(x: np.ndarray, rows: Sequence[Row]) -> list[Said]:
    """What is said of rows of one source, which taught nothing."""
    known = _known(rows, rows[0].source)
    wide = np.array(x)
    wide[-1] = -np.inf
    log_each, above, under = _log_likelihoods(wide, known, widened=widened(math.exp(x[-1])))
    score = np.log((np.exp(log_each) * WEIGHTS[:, None]).sum(0))
    chance, rank = ((each * WEIGHTS[:, None]).sum(0) for each in (above, under))
    return [
        Said(
            row=row,
            chance=float(SURPRISE / 2 + (1 - SURPRISE) * chance[j]),
            score=float(score[j]),
            rank=None if row.gain is None else float(rank[j]),
        )
        for j, row in enumerate(rows)
    ]


def widened(spread: float) -> float:
    """How many times as wide the central 90 % of t4 are where sources' scales are exp(z), z ~ N(0, spread^2)."""
    from scipy.optimize import brentq

    z, weight = np.polynomial.hermite_e.hermegauss(41)
    alone = brentq(lambda q: float(_cdf(np.array(q))) - 0.95, 0, 10)
    mixed = brentq(lambda q: float((weight * _cdf(q / np.exp(spread * z))).sum() / weight.sum()) - 0.95, 0, 1e3)
    return mixed / alone


def _log_likelihoods(x: np.ndarray, known: dict, *, widened: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By node of the source's effect and by row; that A wins; that the gain is no more than the published one."""
    whole, none = (_at(x, known, lost, widened) for lost in (known["lost"], 0 * known["lost"]))
    mix = known["unsaid"]
    mixed = [(1 - mix) * of_all + mix * of_none for of_all, of_none in zip(whole, none, strict=True)]
    return np.log(mixed[0] + 1e-12), mixed[1], mixed[2]


def _at(x: np.ndarray, known: dict, lost: np.ndarray, widened: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Likelihoods, chances that A wins and ranks where so much of a loss is left, (nodes, rows)."""
    (realised, log_home, per_gain, truncated, log_cut, repeated, compute, begun, points, log_tau, log_spread) = x
    g, b, w = known["g"], known["b"], known["w"]
    up = np.maximum(g, 0)
    counted = np.where(known["cuts"], begun, 1.0)
    share = (1 - (1 - realised) * b) * counted * w * known["soft"] * (1 + known["cut"] * (truncated - 1))
    middle = share * up + counted * lost * np.minimum(g, 0)
    middle = middle + repeated * known["repeated"] + w * compute * known["compute"] + known["picked"]
    middle = middle + points * known["score"] + known["cost"]
    taught = math.exp(log_home) ** 2 + (per_gain * b * up) ** 2 + (math.exp(log_cut) * known["cut"]) ** 2
    ours = np.maximum(SEEDS**2, 2 * known["noise"] ** 2) + (SCORE_SD * known["score"]) ** 2
    stretch = widened * np.exp(math.exp(log_spread) * STRETCHES)[:, None]
    scale = LAW_SCALE * np.sqrt(ours + w**2 * taught * stretch**2 + (share * known["law_sd"]) ** 2)
    centre = middle + math.exp(log_tau) * SHIFTS[:, None]
    margin = np.maximum(MARGIN, known["noise"])
    above, below = 1 - _cdf((margin - centre) / scale), _cdf((-margin - centre) / scale)
    chance = np.where(known["won"] > 0, above, np.where(known["won"] < 0, below, 1 - above - below))
    z = (np.nan_to_num(known["gain"]) - centre) / scale
    density = 0.375 * (1 + z * z / 4) ** -2.5 / scale
    return np.where(np.isnan(known["gain"]), chance, density), above, _cdf(z)


def _cdf(z: np.ndarray) -> np.ndarray:
    """Of Student's t with 4 degrees of freedom."""
    q = 1 + z * z / 4
    return 0.5 + 0.375 * z / np.sqrt(q) * (1 - z * z / q / 12)


def coefficients(x: np.ndarray, common: float, without: str = "") -> dict[str, float]:
    """The fields of planning.learnt.Learnt; `without` the practice of a source."""
    numbers = map(float, x)
    realised, log_home, per_gain, truncated, log_cut, repeated, compute, begun, points, log_tau, spread = numbers
    wider = widened(math.exp(spread))
    found = {
        "realised": realised,
        "at_home": math.hypot(wider * math.exp(log_home), math.exp(log_tau)),
        "per_gain": wider * abs(per_gain),
        "truncated": truncated,
        "truncated_sd": wider * math.exp(log_cut),
        "repeated": repeated,
        "repeated_sd": abs(repeated) / 2,  # two sources say 2 and 7 %
        "compute": compute,
        "begun": begun,
        "points": points,
        "common": common,
        "alone": practice("random", without),
        "alone_of_cuts": practice("pruned", without),
    }
    return {name: round(value, 4) for name, value in found.items()}


def nested(rows: Sequence[Row]) -> Table:
    """By source: the form that its other sources choose, by what each of them says of the next, and its score.

    Rows that are not asked (no law's gain) and our own studies teach and are not scored.
    """
    asked = [row for row in rows if not row.source.startswith("own") and row.is_asked]
    sources, said = sorted({row.source for row in asked}), {}
    for form in FORMS:
        whole = fit(rows, form=form)
        for one, other in combinations_with_replacement(sources, 2):
            x = fit([row for row in rows if row.source not in (one, other)], whole, form, without=one)
            for out, judged in {(one, other), (other, one)}:
                those = [row for row in asked if row.source == judged]
                said[form.name, out, judged] = said_of(x, those)
    found = []
    for out in sources:
        inner = {
            form.name: [one.score for s in sources if s != out for one in said[form.name, out, s]] for form in FORMS
        }
        chosen = max(inner, key=lambda name: np.mean(inner[name]))
        found.append((out, said[chosen, out, out], chosen))
    found.append(("all", [one for _, each, _ in found for one in each], ""))
    return Table.of(
        [
            text("source", of=lambda one: one[0]),
            number("rows", "d", of=lambda one: len(one[1])),
            number("Brier", ".3f", of=lambda one: float(np.mean([each.error for each in one[1]]))),
            number("in 90 % interval", of=lambda one: _inside(one[1])),
            text("form that the others choose", of=lambda one: one[2]),
        ],
        found,
    )


def _inside(said: Sequence[Said]) -> str | None:
    """How many published gains lie inside, of how many."""
    ranked = [one for one in said if one.rank is not None]
    return f"{sum(one.is_inside for one in ranked)} of {len(ranked)}" if ranked else None


def study_table() -> str:
    """What our studies had."""
    columns = [text("study", of=attrgetter("study")), number("runs", "d", of=attrgetter("runs"))]
    named = {"of gains": "gained", "of losses": "lost", "of the error common to teachers": "common"}
    columns += [number(words, ".2f", of=attrgetter(name)) for words, name in named.items()]
    columns += [number("pairs of teachers", "d", of=attrgetter("teachers"))]
    columns += [number("better one preferred", ".2f", of=attrgetter("ordered"))]
    return Table.of(columns, study_shares()).markdown()


def main() -> None:
    """Learn and write, or fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="the page alone")
    parser.add_argument("--nested", action="store_true", help="the score of choosing the form")
    given = parser.parse_args()
    if given.nested:
        print(nested(rows_of_outcomes() + rows_of_studies()).markdown())
        return
    if not given.page:
        rows = rows_of_outcomes() + rows_of_studies()
        whole = fit(rows)
        common = float(np.mean([study.common for study in study_shares()]))
        sources = sorted({row.source for row in rows} | _saying(ASKED_ONLY))
        without = {
            s: coefficients(fit([r for r in rows if r.source != s], whole, without=s), common, s) for s in sources
        }
        LEARNT.write_text(
            json.dumps({"all": coefficients(whole, common), "without": without}, indent=1) + "\n", encoding="utf-8"
        )
        print(json.dumps(coefficients(whole, common)))
        return
    learnt = json.loads(LEARNT.read_text(encoding="utf-8"))
    found = reliability_tables(retrodict()) | {"learnt": learnt_table(learnt), "studies": study_table()}
    found["nested"] = nested(rows_of_outcomes() + rows_of_studies()).markdown()
    tables = {name: (lambda _, table=table: table) for name, table in found.items()}
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), {}, tables), encoding="utf-8")


if __name__ == "__main__":
    main()
