"""What one run of the user's own is worth to a published law, and what its gains are below its range.

    python -m benchmarks.verdict.baselines ../shared/data/lawruns [--out FILE]

Drift: of public tables of runs and of the shipped studies, one run in the lower half of compute (or three) is taken for
the user's baseline, and every larger one is predicted from it through the surrogates (planning/baseline.py). `lines` is
the straight line of ln(loss / law) in ln D and ln N through a whole table, and what it leaves.

Gains: of the studies in this tree whose students lie far below the surrogates' range, every distilled run is asked of
the planner's law (planning/law_evidence.py), with its own lone twin for the baseline, or with that student's lone run
on a quarter of the tokens or fewer. Both arms are at the best of the rates that were tried. The constants of
planning/learnt.py come from these very runs; `others'_share` asks with the share of the other studies alone.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.fits.lawruns import read_folder
from benchmarks.result_file import save
from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.baseline import Baseline, scale_at
from distillaw.planning.decision import SURE
from distillaw.planning.gains import LAW_SCALE
from distillaw.planning.law_evidence import BY_RATIO, law_evidence
from distillaw.planning.learnt import RATIO, SEEN_BELOW, Transfer
from distillaw.planning.options import Option
from distillaw.planning.situation import Situation, Teacher
from distillaw.planning.voices import Voice, efolds_outside, find_voices
from distillaw.runs.table import read_table

CHOSEN_ON = {
    "drift": (
        *("gemstones hot", "kyo-takano-chinchilla df", "mlfoundations-scaling overtraining_losses c4_original c4_val"),
        *("open study", "pocket study", "worlds"),  # far below the range
    ),
    "gains": ("open study", "pocket study", "worlds"),
}
STUDIES = {
    "open study": Path("src/distillaw/studies/open_runs.parquet"),
    "pocket study": Path("src/distillaw/studies/pocket_runs.parquet"),
    "worlds": Path("benchmarks/results/worlds_study.csv"),
}


@cache
def voice() -> Voice:
    """S1 to S3."""
    [found] = [v for v in find_voices(None, [], published_too=True) if v.kind == "surrogate"]
    return found


def tables(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, sizes, tokens and losses of lone runs; one table of each set of runs."""
    for runs in read_folder(folder):
        if not runs.name.startswith("overtraining") or runs.name.endswith("c4_val"):  # eight scores of one run
            yield f"{runs.collection} {runs.name}", runs.N, runs.D, runs.L
    for name, path in STUDIES.items():
        lone = lone_runs(read_table(path))
        for text in sorted({run.text for run in lone}):
            rows = [(run.params, run.tokens, loss) for run, loss in lone.items() if run.text == text]
            yield f"{name} {text}".strip(), *np.array(rows).T


@dataclass(frozen=True)
class Design:
    """What the two arms of a pair have in common."""

    text: str
    params: float
    tokens: float
    seed: int


def _is_student(table: Mapping[str, np.ndarray], k: int) -> bool:
    """Whether a row is a student of the grid: of the grid's recipe, and scored as it was trained."""
    usual = {"role": "student", "purpose": "grid", "temperature": 1.0, "rescaled": 1.0}
    if any(name in table and table[name][k] != value for name, value in usual.items()):
        return False
    return float(table["lambda"][k]) in (0.0, 1.0)


def _best_rates(table: Mapping[str, np.ndarray]) -> dict[tuple[Design, str], tuple[float, float]]:
    """(Teacher's loss, loss) by design and teacher (`` without one), at the best of the rates and batches tried.

    Raises:
        ValueError: two rows of one design, teacher, rate and batch: the table holds something else that is not known.
    """
    found: dict[tuple[Design, str], tuple[float, float]] = {}
    seen = set()
    for k in range(len(table["loss"])):
        if not _is_student(table, k):
            continue
        taught_by, loss = float(table["teacher_loss"][k]), float(table["loss"][k])
        teacher = str(table["teacher" if "teacher" in table else "teacher_run"][k])
        design = Design(
            str(table["world"][k]) if "world" in table else "",
            *(float(table[name][k]) for name in ("params", "tokens")),
            int(table["seed"][k]),
        )
        arm = design, teacher if np.isfinite(taught_by) else ""
        rated = (*arm, *(float(table[name][k]) for name in ("peak_lr", "batch_tokens") if name in table))
        if rated in seen:
            raise ValueError(f"{design}, teacher {teacher}: two rows of one rate and batch")
        seen.add(rated)
        if arm not in found or loss < found[arm][1]:
            found[arm] = taught_by, loss
    return found


def lone_runs(table: Mapping[str, np.ndarray]) -> dict[Design, float]:
    """Losses of students without a teacher."""
    return {design: loss for (design, teacher), (_, loss) in _best_rates(table).items() if not teacher}


def line(ensemble: LawEnsemble, N: np.ndarray, D: np.ndarray, L: np.ndarray) -> dict[str, float]:
    """Slopes of ln(loss / law) per e-fold of tokens and of parameters, and the standard deviation of the rest."""
    n, d = np.log(N), np.log(D)
    r = np.log(L) - np.log(np.exp(ensemble.log_supervised(n[None], d[None])).mean(0))
    X = np.stack([np.ones_like(n), d, n], axis=1)
    slopes, *_ = np.linalg.lstsq(X, r, rcond=None)
    rest = float(np.sqrt(((r - X @ slopes) ** 2).sum() / max(len(r) - 3, 1)))
    return {"runs": len(r), "tokens": float(slopes[1]), "size": float(slopes[2]), "rest": rest}


def drift(ensemble: LawEnsemble, N: np.ndarray, D: np.ndarray, L: np.ndarray, count: int) -> dict[str, float]:
    """How larger runs come out beside what `count` smaller ones foresee; 400 draws."""
    rng = np.random.default_rng(0)
    compute = N * D
    small = np.flatnonzero(compute <= np.median(compute))
    z, error = [], []
    for _ in range(400):
        picked = rng.choice(small, size=count, replace=False)
        larger = np.flatnonzero(compute > 2 * compute[picked].max())
        if not len(larger):
            continue
        asked = rng.choice(larger)
        known = [Baseline(params=N[k], tokens=D[k], loss=L[k]) for k in picked]
        models = {"student_params": N[[*picked, asked]], "student_tokens": D[[*picked, asked]]}
        outside = max(efolds_outside(voice().range, models).values(), default=0.0)
        middle, sd = scale_at(ensemble, known, params=N[asked], tokens=D[asked], outside=outside)
        law = float(np.exp(ensemble.log_supervised(np.log(N[asked : asked + 1]), np.log(D[asked : asked + 1]))).mean())
        off = float(np.log(L[asked] / law)) - middle
        z.append(off / sd)
        error.append(off)
    t90 = 2.1318 * LAW_SCALE  # the planner's law: t with LAW_DOF, as wide at 90 % as a normal
    return {
        "questions": len(z),
        "runs": len(small),
        "rms_error": float(np.sqrt(np.mean(np.square(error)))),
        "covered_90": float(np.mean(np.abs(z) < t90)),
    }


@dataclass(frozen=True)
class Pair:
    """A distilled run, its lone twin, and the lone runs of the same student on fewer tokens."""

    design: Design
    ratio: float
    """L_T / L_S."""
    law: float
    """Gain by the laws at that ratio, as a share of the loss."""
    run: float
    """Gain of the run, likewise."""
    teacher_loss: float
    alone: float
    """Loss of the lone twin, nats/token."""
    earlier: tuple[float, float] | None
    """(Tokens, loss) of the longest lone run of this student on a quarter of the tokens or fewer."""


def pairs(table: Mapping[str, np.ndarray]) -> list[Pair]:
    """Distilled runs that have a lone twin of the same text, size, tokens and seed."""
    lone, found = lone_runs(table), []
    for (design, teacher), (taught_by, loss) in _best_rates(table).items():
        if not teacher or design not in lone:
            continue
        n, d = np.log([[design.params]]), np.log([[design.tokens]])
        law = float(np.exp(ensemble().log_supervised(n, d)).mean())
        ratio = taught_by / lone[design]
        distilled = float(np.exp(ensemble().log_distilled(n, d, np.log([[ratio * law]]))).mean())
        shorter = [
            (one.tokens, own)
            for one, own in lone.items()
            if replace(one, tokens=design.tokens) == design and 4 * one.tokens <= design.tokens
        ]
        found.append(
            Pair(
                design=design,
                ratio=ratio,
                law=1 - distilled / law,
                run=1 - loss / lone[design],
                teacher_loss=taught_by,
                alone=lone[design],
                earlier=max(shorter, default=None),
            )
        )
    return found


def ensemble() -> LawEnsemble:
    """The laws of `voice`."""
    found = voice().ensemble
    assert found is not None
    return found


def share(runs: Sequence[Pair]) -> dict[str, float]:
    """Least squares of run = share x law, and what that leaves."""
    law, run = (np.array([getattr(p, name) for p in runs]) for name in ("law", "run"))
    found = float((law * run).sum() / (law**2).sum())
    return {
        "runs": len(runs),
        "helped": int((run > 0).sum()),
        "share": found,
        "left_sd": float((run - found * law).std()),
        "largest_gain_by_law": float(law.max()),
    }


def asked(runs: Sequence[Pair], transfer: Transfer, *, is_twin: bool) -> dict[str, float]:
    """How the planner's law does: probability that the teacher helps, and 90 % intervals of the gain."""
    above, inside, run, decided = [], [], [], []
    for p in runs:
        if not is_twin and p.earlier is None:
            continue
        tokens, loss = (p.design.tokens, p.alone) if is_twin or p.earlier is None else p.earlier
        known = Baseline(params=p.design.params, tokens=tokens, loss=loss)
        teacher = Teacher(name="teacher", loss=p.teacher_loss)
        situation = Situation(
            student_params=p.design.params, student_tokens=p.design.tokens, teachers=(teacher,), baselines=(known,)
        )
        alone = Option(kind="pretrain", student_params=p.design.params, student_tokens=p.design.tokens)
        options = alone, replace(alone, kind="distil", teacher=teacher)
        evidence = law_evidence(situation, voice(), options, level=0.9, transfer=transfer)
        if evidence.status != BY_RATIO or evidence.posterior is None:
            continue
        draws, gain = evidence.posterior.draws[:, 0], p.run * p.alone
        low, high = np.quantile(draws, (0.05, 0.95))
        above.append(float((draws > 0).mean()))
        inside.append(low <= gain <= high)
        run.append(gain)
        decided.append(evidence.is_decisive)
    helps, odds = np.array(run) > 0, np.array(above)
    sure = np.abs(odds - 0.5) >= SURE - 0.5
    return {
        "runs": len(run),
        "sure": int(sure.sum()),
        "sure_and_right": int((sure & (helps == (odds > 0.5))).sum()),
        "sure_and_decided": int((sure & np.array(decided)).sum()),
        "covered_90": float(np.mean(inside)),
        "brier": float(np.mean((odds - helps) ** 2)),
        "base_brier": float(helps.mean() * (~helps).mean()),
    }


def by_text(name: str, runs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Shares of gains that the laws predict, of each text of a study."""
    texts = sorted({p.design.text for p in runs})
    gained = {text: [p for p in runs if p.design.text == text and p.law > 0] for text in texts}
    return {f"{name} {text}".strip(): share(found) for text, found in gained.items()}


def over_texts(shares: Sequence[float]) -> dict[str, float]:
    """Mean of the shares, and the standard deviation of the next text's about it."""
    spread = float(np.std(shares, ddof=1)) * (1 + 1 / len(shares)) ** 0.5
    return {"texts": len(shares), "share": float(np.mean(shares)), "share_sd": spread}


def gains() -> dict[str, object]:
    """Everything about gains, by study."""
    runs = {name: pairs(read_table(path)) for name, path in STUDIES.items()}
    texts = {name: by_text(name, found) for name, found in runs.items()}
    result: dict[str, object] = {}
    for name, found in runs.items():
        others = [row["share"] for other, rows in texts.items() if other != name for row in rows.values()]
        left_out = replace(SEEN_BELOW, share=float(np.mean(others)))
        result[name] = {
            "gained": texts[name],
            "lost": share([p for p in found if p.law <= 0]),
            "beside its twin": asked(found, SEEN_BELOW, is_twin=True),
            "beside a shorter run": asked(found, SEEN_BELOW, is_twin=False),
            "others'_share": asked(found, left_out, is_twin=True),
        }
    every = [row for rows in texts.values() for row in rows.values()]
    every_pair = [p for found in runs.values() for p in found]
    of = {
        "student_params": [p.design.params for p in every_pair],
        "student_tokens": [p.design.tokens for p in every_pair],
        "tokens_per_param": [p.design.tokens / p.design.params for p in every_pair],
        RATIO: [p.ratio for p in every_pair],
    }
    left = max(row["left_sd"] for row in every)
    seen = {name: [min(values), max(values)] for name, values in of.items()}
    return result | {"all": over_texts([row["share"] for row in every]) | {"left_sd": left}, "seen": seen}


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/baselines.json"))
    args = parser.parse_args(argv)
    result: dict[str, object] = {"chosen_on": CHOSEN_ON}
    result["drift"] = {
        name: {"line": line(ensemble(), N, D, L)}
        | {f"{count} baselines": drift(ensemble(), N, D, L, count) for count in (1, 3)}
        for name, N, D, L in tables(args.folder)
    }
    result["gains"] = gains()
    for part in ("drift", "gains"):
        for name, row in result[part].items():  # type: ignore[attr-defined]
            print(part, name, json.dumps(row, indent=1, default=float))
    save(args.out, "python -m benchmarks.verdict.baselines ../shared/data/lawruns", **result)


if __name__ == "__main__":
    main()
