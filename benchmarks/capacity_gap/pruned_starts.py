"""What is a cut worth as a start? Forms of a law on runs that no fit saw, and the one shipped beside published figures.

    python -m benchmarks.capacity_gap.pruned_starts CORPUS --folder out/starts --out OUT.json

A study of students of two sizes, random and cut out of larger models, taught and alone, to three budgets, all at one
rate (`study`); a second call trains nothing. Every form is fitted to the cut students on one footing: the loss of a
random start at other tokens is that of the measured ones of its size and teacher, straight in the logarithms between
budgets and beyond. Errors are of runs left out: a source, a student size, the smallest or the largest budget; and of
the open runs, on other text, cut by looking at nothing. About a quarter of an hour of one core.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from benchmarks.result_file import save
from distillaw.data.prepare import DataSpec
from distillaw.fitting.observations import observe
from distillaw.fitting.pruned import Cuts, read_cuts
from distillaw.laws.base import Array
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import published
from distillaw.laws.starts import CUTS
from distillaw.runs.spec import Recipe
from distillaw.runs.table import read_table
from distillaw.sweep.checks import check_study
from distillaw.sweep.executor import LocalExecutor
from distillaw.sweep.scheduler import Display
from distillaw.sweep.spec import StudentsSpec, StudySpec, TargetSpec, TeacherSpec, TuningSpec
from distillaw.sweep.study import run_study

OPEN_RUNS = Path(__file__).parents[2] / "src" / "distillaw" / "studies" / "open_runs.parquet"
SURROGATES = ("surrogate-s1", "surrogate-s2", "surrogate-s3")
Z90 = 1.6449


def study(corpus: str) -> StudySpec:
    """The study: one rate for all, that of fresh students of 205k tokens times the root of twice the batch."""
    return StudySpec(
        name="pruned-starts",
        students=StudentsSpec(params=("0.05M", "0.1M"), tokens=(25_600, 76_800, 204_800), starts=("fresh", "pruned")),
        teachers=tuple(TeacherSpec(params=params, tokens=614_400) for params in ("0.2M", "0.4M")),
        data=DataSpec(
            corpus=corpus,
            section_chars=20_000,
            vocab_size=384,
            validation_documents=64,
            validation_tokens_per_document=512,
        ),
        training=Recipe(warmup_tokens=10_240),
        tuning=TuningSpec(enabled=False),
        target=TargetSpec(params="0.1M", tokens=204_800),
        batch_tokens=512,
        peak_lr=0.0078,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Cut students, each with the measured random starts of its size and teacher."""

    cuts: Cuts
    curves: tuple[tuple[Array, Array], ...]
    """(ln D, ln L) by run, at least two budgets."""

    @classmethod
    def of(cls, table: dict[str, Any]) -> "Runs":
        """Those of a table that have such random starts."""
        rows, fresh = observe(table, arm="pruned"), observe(table, arm="fresh")
        cuts, curves, kept = read_cuts(table, rows, fresh), [], []
        for i, (N, L_T) in enumerate(zip(rows.params, rows.teacher_loss, strict=True)):
            same = (fresh.params == N) & ((fresh.teacher_loss == L_T) | (np.isnan(fresh.teacher_loss) & np.isnan(L_T)))
            tokens = np.unique(fresh.tokens[same])
            if len(tokens) > 1:
                logs = [float(np.log(fresh.loss[same & (fresh.tokens == D)]).mean()) for D in tokens]
                curves.append((np.log(tokens), np.array(logs)))
                kept.append(i)
        return cls(cuts=cuts.take(np.array(kept)), curves=tuple(curves))

    def __len__(self) -> int:
        """Number of cut students."""
        return len(self.curves)

    def take(self, mask: Array) -> "Runs":
        """The runs where the mask is true."""
        index = np.flatnonzero(mask)
        return Runs(cuts=self.cuts.take(index), curves=tuple(self.curves[i] for i in index))

    def random_at(self, log_tokens: Array) -> Array:
        """ln L of the random start of each run at its own ln D, straight between budgets and beyond."""
        return np.array([_straight(d, *curve) for d, curve in zip(log_tokens, self.curves, strict=True)])

    @property
    def head_start(self) -> Array:
        """D0, tokens: where the random start has the cut's loss, less the cut's own tokens."""
        reached = [_straight(-np.log(L), -y, x) for L, (x, y) in zip(self.cuts.rows.loss, self.curves, strict=True)]
        return np.exp(reached) - self.cuts.rows.tokens


def _straight(at: float, x: Array, y: Array) -> float:
    """Through the points (x ascending), by the last two beyond them."""
    k = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
    return float(y[k - 1] + (y[k] - y[k - 1]) * (at - x[k - 1]) / (x[k] - x[k - 1]))


def open_runs() -> Runs:
    """Those of the open table: controls there, of one size from four teachers."""
    table = {name: np.asarray(values, dtype=object) for name, values in read_table(OPEN_RUNS).items()}
    kept = [
        i
        for i, purpose in enumerate(table["purpose"])
        if purpose in ("grid", "control:pruned", "teacher")
        and (table["role"][i] == "teacher" or abs(table["params"][i] / 83_280 - 1) < 0.01)
    ]
    part = {name: values[kept] for name, values in table.items()}
    part["purpose"] = np.array(["teacher" if p == "teacher" else "grid" for p in part["purpose"]], dtype=object)
    del part["arm"]  # of before arms were starts
    return Runs.of(part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to say what a cut is worth."""

    says: str
    start: tuple[float, ...]
    predict: Callable[[Array, Runs], Array]
    """ln L of (parameters, runs)."""


def _moved(head_start: Callable[[Array, Cuts], Array]) -> Callable[[Array, Runs], Array]:
    """ln L of the random start so many tokens (ln D0) later."""

    def predict(theta: Array, runs: Runs) -> Array:
        return runs.random_at(np.logaddexp(np.log(runs.cuts.rows.tokens), head_start(theta, runs.cuts)))

    return predict


def _kept(cuts: Cuts) -> Array:
    return np.log(cuts.rows.params / cuts.source_params)


def _source_loss(cuts: Cuts) -> Array:
    """L0 of P^2: that of what was cut, which is the teacher here; of students alone what their taught twins say."""
    by_source = {
        s: loss for s, loss in zip(cuts.source_params, cuts.rows.teacher_loss, strict=True) if np.isfinite(loss)
    }
    return np.array([by_source[s] for s in cuts.source_params])


def _p_squared(theta: Array, runs: Runs) -> Array:
    """P^2 (arXiv:2411.10272v3): L0 + rho^-g N0^-d (Nc N0^-a + Dc D^-b + E), rho = 1 - N / T; N0 and D in 0.1M.

    Taught students have an E of their own.
    """
    g, d, log_n, a, log_d, b, alone, taught = theta
    cuts = runs.cuts
    rho, N0, D = 1 - np.exp(_kept(cuts)), cuts.source_params / 1e5, cuts.rows.tokens / 1e5
    E = np.where(np.isfinite(cuts.rows.teacher_loss), taught, alone)
    bracket = np.exp(log_n) * N0**-a + np.exp(log_d) * D**-b + E
    return np.log(np.maximum(_source_loss(cuts) + rho**-g * N0**-d * bracket, 0.1))


def _share(theta: Array, cuts: Cuts) -> Array:
    """The first parameter of students alone, the second of taught ones."""
    return np.where(np.isfinite(cuts.rows.teacher_loss), theta[1], theta[0])


def _head_start(theta: Array, cuts: Cuts) -> Array:
    """ln D0 = ln share + ln D_T + power ln(N / T)."""
    return _share(theta, cuts) + np.log(cuts.source_tokens) + theta[2] * _kept(cuts)


FORMS = {
    "nothing": Form(says="D0 = 0", start=(), predict=_moved(lambda p, c: np.full(len(c.rows), -50.0))),
    "a factor": Form(
        says="D0 = c D", start=(1.0, 1.0), predict=_moved(lambda p, c: _share(p, c) + np.log(c.rows.tokens))
    ),
    "a factor by ratio": Form(
        says="D0 = c D (N/T)^b",
        start=(1.0, 1.0, 0.5),
        predict=_moved(lambda p, c: _share(p, c) + np.log(c.rows.tokens) + p[2] * _kept(c)),
    ),
    "student's tokens": Form(
        says="D0 = c N (N/T)^b",
        start=(1.0, 1.0, 0.5),
        predict=_moved(lambda p, c: _share(p, c) + np.log(c.rows.params) + p[2] * _kept(c)),
    ),
    "one head start": Form(
        says="D0 = c D_T (N/T)^b, one c",
        start=(0.0, 0.7),
        predict=_moved(lambda p, c: p[0] + np.log(c.source_tokens) + p[1] * _kept(c)),
    ),
    "head start": Form(says="D0 = c D_T (N/T)^b", start=(0.0, -1.0, 0.7), predict=_moved(_head_start)),
    "head start that moves": Form(
        says="D0 = c D_T (N/T)^b (D/D_T)^m",
        start=(0.0, -1.0, 0.7, 0.0),
        predict=_moved(lambda p, c: _head_start(p, c) + p[3] * np.log(c.rows.tokens / c.source_tokens)),
    ),
    "P squared": Form(
        says="L0 + rho^-g N0^-d (Nc/N0^a + Dc/D^b + E)",
        start=(-1.0, 0.1, -1.0, 0.3, -1.0, 0.3, 0.1, 0.1),
        predict=_p_squared,
    ),
}
WIDE = 8.0
"""Parameters are logarithms and exponents; none that fits lies beyond."""


def fitted(form: Form, runs: Runs) -> Array:
    """Parameters at the minimum of Huber terms of ln L, with a pull of one part in a thousand towards their start."""
    if not form.start:
        return np.empty(0)
    start = np.array(form.start)
    log_loss = np.log(runs.cuts.rows.loss)

    def misses(theta: Array) -> Array:
        return np.concatenate([form.predict(theta, runs) - log_loss, 1e-3 * (theta - start)])

    found = [
        least_squares(misses, start + shift, bounds=(-WIDE, WIDE), loss="huber", f_scale=0.01)
        for shift in np.linspace(-0.4, 0.4, 3)
    ]
    return min(found, key=lambda f: f.cost).x


def folds(cuts: Cuts) -> dict[str, list[Array]]:
    """What is left out, by question: masks of the held-out runs."""
    tokens = cuts.rows.tokens
    return {
        "a source": [cuts.source_params == T for T in np.unique(cuts.source_params)],
        "a student size": [cuts.rows.params == N for N in np.unique(cuts.rows.params)],
        "the smallest budget": [tokens == tokens.min()],
        "the largest budget": [tokens == tokens.max()],
    }


def compare(runs: Runs, other: Runs | None) -> list[dict[str, object]]:
    """A row per form: root mean square error in ln L, in sample and of what was left out; of other text."""
    rows = []
    for name, form in FORMS.items():
        theta = fitted(form, runs)
        row: dict[str, object] = {"form": name, "says": form.says, "parameters": len(theta), "theta": list(theta)}
        row["in sample"] = _rms(form.predict(theta, runs), runs)
        for question, masks in folds(runs.cuts).items():
            misses = []
            for out in masks:
                part = runs.take(out)
                found = form.predict(fitted(form, runs.take(~out)), part)
                misses.append(found - np.log(part.cuts.rows.loss))
            row[f"without {question}"] = float(np.sqrt(np.mean(np.concatenate(misses) ** 2)))
        if other is not None:
            row["open runs"] = _rms(form.predict(theta, other), other)
        rows.append(row)
    return rows


def _rms(log_loss: Array, runs: Runs) -> float:
    return float(np.sqrt(np.mean((log_loss - np.log(runs.cuts.rows.loss)) ** 2)))


def head_starts(runs: Runs) -> list[dict[str, object]]:
    """What each cut was worth in tokens of its random start."""
    cuts = runs.cuts
    columns = {
        "student_params": cuts.rows.params,
        "tokens": cuts.rows.tokens,
        "source_params": cuts.source_params,
        "source_tokens": cuts.source_tokens,
        "taught": np.isfinite(cuts.rows.teacher_loss),
        "gain_nats": np.exp(runs.random_at(np.log(cuts.rows.tokens))) - cuts.rows.loss,
        "factor": 1 + runs.head_start / cuts.rows.tokens,
        "head_start_per_source_token": runs.head_start / cuts.source_tokens,
    }
    return [{name: values[i].item() for name, values in columns.items()} for i in range(len(runs))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One published comparison of a cut with a random start; parameters non-embedding where `notes` does not say."""

    name: str
    source: str
    params: float
    source_params: float
    source_tokens: float
    tokens: float
    random: float = math.nan
    """Loss of the random start at the same tokens, nats/token."""
    cut: float = math.nan
    later: tuple[float, float] = (math.nan, math.nan)
    """Tokens and loss of a random start that trained longer."""
    factor: float = math.nan
    """Tokens of a random start over those of the cut, at equal loss or skill."""
    taught: bool = False
    is_skill: bool = False
    notes: str = ""


_MINITRON = partial(
    Figure, taught=True, source="arXiv:2407.14679, README of NVlabs/Minitron", source_params=12.5e9, source_tokens=8e12
)
_FRANTAR = partial(
    Figure,
    source="arXiv:2309.08520v1, as quoted in notes that say verbatim (index id 69886309023)",
    source_params=1.0,
    source_tokens=math.nan,
    tokens=math.nan,
    notes="weights pruned one by one, T5 on C4, sparsified as it trains; sizes and tokens not in the text seen",
)
PUBLISHED = (
    _MINITRON(name="Minitron 8B, width", params=6.2e9, tokens=1.8e9, random=3.953, cut=2.049, notes="sizes assumed"),
    _MINITRON(name="Minitron 8B, depth", params=4.9e9, tokens=1.8e9, random=3.953, cut=2.155, notes="sizes assumed"),
    _MINITRON(
        name="Minitron 8B and Nemotron-3 8B",
        params=6.2e9,
        tokens=94e9,
        factor=3.8e12 / 94e9,
        is_skill=True,
        notes="the cut is ahead on MMLU and HellaSwag: at least this factor; other data",
    ),
    Figure(
        name="Llama-3.1-8B cut to half in depth",
        source="arXiv:2606.14150, Table 2, from a reader's notes (index id 71073130458)",
        params=3.5e9,
        source_params=7e9,
        source_tokens=2e11,
        tokens=5e10,
        random=math.log(10.77),
        cut=math.log(9.41),
        later=(2.5e11, math.log(9.01)),
        notes="ln of WikiText-2 perplexities; not taught",
    ),
    Figure(
        name="Pythia, searched sub-network, 10B",
        source="arXiv:2510.07227v2, abstract",
        params=math.nan,
        source_params=math.nan,
        source_tokens=3e11,
        tokens=1e10,
        factor=5.16,
        taught=True,
        notes="FLOP; sizes not in the text seen",
    ),
    Figure(
        name="Pythia, searched sub-network, 100B",
        source="arXiv:2510.07227v2, abstract",
        params=math.nan,
        source_params=math.nan,
        source_tokens=3e11,
        tokens=1e11,
        factor=1.26,
        taught=True,
        notes="FLOP; sizes not in the text seen",
    ),
    Figure(
        name="Sheared-LLaMA 2.7B and OpenLLaMA 3B",
        source="arXiv:2310.06694",
        params=2.5e9,
        source_params=6.5e9,
        source_tokens=2e12,
        tokens=5e10,
        factor=20.0,
        is_skill=True,
        notes="the cut is ahead on average skill: at least this factor; other data",
    ),
    Figure(
        name="GPT-2 small cut to 30M (FASD)",
        source="github FASD, the repository's findings (index id 55471168802)",
        params=13.3e6,
        source_params=85e6,
        source_tokens=9e9,
        tokens=1.02e6,
        random=math.log(438.87),
        cut=math.log(161.0),
        notes="WikiText-2, 2,000 steps; the source's 40 GB of other text counted as 9B tokens",
    ),
    _FRANTAR(name="T5, half the weights", params=0.5, factor=4.90),
    _FRANTAR(name="T5, a quarter of the weights", params=0.25, factor=4.27),
    _FRANTAR(name="T5, an eighth of the weights", params=0.125, factor=2.45),
)


def held_against(figure: Figure, ensemble: LawEnsemble) -> dict[str, object]:
    """Predicted and measured of one figure: the head start in tokens of the source, and the loss where given."""
    row: dict[str, object] = {
        **asdict(figure),
        "measured": math.nan,
        "predicted": None,
        "interval": None,
        "holds": None,
    }
    D, D_T = figure.tokens, figure.source_tokens
    if math.isfinite(figure.factor):
        row["measured"] = (figure.factor - 1) * D / D_T
    elif math.isfinite(figure.later[0]):
        row["measured"] = (_between(figure, ensemble) - D) / D_T
    if not (figure.params > 0 and figure.source_params > 0 and D_T > 0):
        return row
    of_cut = {"student_params": figure.params, "source_params": figure.source_params, "source_tokens": D_T}
    ahead = float(CUTS.head_start(**of_cut, taught=figure.taught)[0])
    ends = [ahead * math.exp(z * Z90 * CUTS.spread) for z in (-1, 0, 1)]
    row |= {"predicted": ahead / D_T, "interval": [ends[0] / D_T, ends[2] / D_T]}
    if math.isfinite(figure.cut):
        losses = [
            figure.random
            * float(
                np.mean(
                    ensemble.supervised(params=figure.params, tokens=D + e)
                    / ensemble.supervised(params=figure.params, tokens=D)
                )
            )
            for e in ends
        ]
        row |= {"predicted_loss": losses[1], "loss_interval": [losses[2], losses[0]]}
        row["holds"] = losses[2] <= figure.cut <= losses[0]
    elif math.isfinite(float(row["measured"])):  # type: ignore[arg-type]
        measured = float(row["measured"])  # type: ignore[arg-type]
        row["holds"] = ends[2] / D_T >= measured and (figure.is_skill or ends[0] / D_T <= measured)
    return row


def _between(figure: Figure, ensemble: LawEnsemble) -> float:
    """Tokens at which the random start has the cut's loss: between its two losses as the laws' curve runs there."""
    grid = np.geomspace(figure.tokens, figure.later[0], 400)
    curve = ensemble.supervised(params=figure.params, tokens=grid).mean(0)
    share = (figure.random - figure.cut) / (figure.random - figure.later[1])
    return float(np.interp(share, (curve[0] - curve) / (curve[0] - curve[-1]), grid))


def spread_of(other: Runs, figures: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How far head starts that no fit saw lie from the law shipped, in ln: of the open runs, and published."""
    cuts = other.cuts
    law = np.array([np.log(CUTS.taught), np.log(CUTS.taught), CUTS.power])
    off = np.log(other.head_start) - _head_start(law, cuts)
    sources = np.unique(np.column_stack([cuts.source_params, cuts.source_tokens]), axis=0)
    by_source = [off[(cuts.source_params == T) & (cuts.source_tokens == D)].mean() for T, D in sources]
    told = [
        math.log(f["measured"] / f["predicted"])
        for f in figures
        if f["predicted"] and not f["is_skill"] and f["measured"] > 0
    ]
    both = np.array(by_source + told)
    return {
        "open_runs": float(np.sqrt(np.mean(np.square(by_source)))),
        "published": float(np.sqrt(np.mean(np.square(told)))),
        "together": float(np.sqrt(np.mean(both**2))),
    }


def main() -> None:
    """Train what is missing; print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    spec = study(arguments.corpus)
    check_study(spec)
    place = lambda folder: LocalExecutor(folder, 1)  # noqa: E731
    outcome = run_study(spec, arguments.folder, place=place, display=Display(), command="pruned_starts")
    assert not outcome.failed, outcome.failed
    report(Runs.of(dict(read_table(arguments.folder))), arguments.out, arguments.corpus)


def report(runs: Runs, out: Path | None, corpus: str) -> None:
    """Compare, hold against what others published, print, write."""
    ensemble = LawEnsemble.of([(law.supervised, law.distillation) for law in map(published, SURROGATES)])  # type: ignore[misc]
    other = open_runs()
    forms, worth, worth_open = compare(runs, other), head_starts(runs), head_starts(other)
    figures = [held_against(figure, ensemble) for figure in PUBLISHED]
    spread = spread_of(other, figures)
    for row in forms:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k not in ("says",)})
    for row in worth + worth_open:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    for row in figures:
        print(
            {
                k: row.get(k)
                for k in (
                    "name",
                    "measured",
                    "predicted",
                    "interval",
                    "predicted_loss",
                    "loss_interval",
                    "cut",
                    "holds",
                )
            }
        )
    if out:
        command = f"python -m benchmarks.capacity_gap.pruned_starts {corpus}"
        save(
            out,
            command,
            forms=forms,
            head_starts=worth,
            head_starts_open_runs=worth_open,
            spread=spread,
            published=figures,
            law=CUTS.coefficients | {"spread": CUTS.spread},
        )


if __name__ == "__main__":
    main()
