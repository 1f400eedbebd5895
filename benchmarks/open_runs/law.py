"""The law of the open runs as it ships: src/distillaw/laws/data/distillaw2026-small.toml."""

import math

import numpy as np

from benchmarks import ROOT
from benchmarks.open_runs.data import OpenRuns
from distillaw.laws.distillation import KappaDistillationLaw
from distillaw.laws.supervised import SupervisedLaw
from distillaw.runs.files import write_text

FILE = ROOT / "src" / "distillaw" / "laws" / "data" / "distillaw2026-small.toml"
PARTS = {"supervised": "supervised", "distillation": "distillation-kappa"}


def write_law(found: dict, runs: OpenRuns) -> None:
    """Coefficients with intervals, range, error and doubts; nothing where the fits did not come off."""
    fits = {part: found["fits"][f"{family}, non-embedding"]["all"] for part, family in PARTS.items()}
    if any("params" not in fit for fit in fits.values()):
        print(f"{FILE.name} is not written: a law could not be fitted")
        return
    statuses = {part: fit["status"] for part, fit in fits.items()}
    lines = [
        "# Written by benchmarks/open_runs/run.py; do not edit.",
        'title = "The open runs of distillaw, 2026: a small study on public-domain books"',
        'source = "docs/open-runs.md; table src/distillaw/studies/open_runs.parquet, this package"',
        f'obtained = "fitted by us, {found["date"]}: {statuses["supervised"]} (supervised), {statuses["distillation"]} '
        '(distillation, kappa form)"',
        "published = true",
        'unit = "nats/token"',
        'params_convention = "non-embedding"',
        'tokenizer = "byte-level BPE of 512 pieces, trained on the corpus"',
        f'data = "public-domain books; {found["rows"]} runs on {found["trunks"]} independent trunks; single epoch; '
        'warm-up, constant rate, linear cooldown; context 128"',
        'interval = "90 % bootstrap over trunks"',
        'form = "kappa"',
        "by_name_only = true",
        "known_problems = [",
        *(f'  "{problem}",' for problem in problems(found, statuses)),
        "]",
    ]
    for part, fit in fits.items():
        lines += ["", f"[{part}]"]
        for symbol, value in fit["params"].items():
            low, high = fit["conf_int"][symbol]
            low, high = min(low, value), max(high, value)
            lines.append(f"{symbol} = {{ value = {value:.6g}, low = {low:.6g}, high = {high:.6g} }}")
    lines += ranges(runs)
    for part, fit in fits.items():
        inside = fit["in_sample"]
        if isinstance(inside, dict):
            lines += [
                "",
                f"[error.{part}]",
                f"relative = {max(0.005, 1.645 * inside['rms']):.4f}",
                'source = "1.645 times the rms of its own residuals in ln loss, at least 0.5 %"',
            ]
    lines += goldens({part: rounded(fit["params"]) for part, fit in fits.items()})
    write_text(FILE, "\n".join(lines) + "\n", known=True)


def rounded(params: dict[str, float]) -> dict[str, float]:
    """As they are written."""
    return {symbol: float(f"{value:.6g}") for symbol, value in params.items()}


def goldens(params: dict[str, dict[str, float]]) -> list[str]:
    """A prediction of either part in the middle of the runs, from the coefficients as written."""
    plain = SupervisedLaw(**params["supervised"])
    behind = {"student_params": 3e5, "student_tokens": 8e5, "teacher_loss": 3.0}
    alone = {"params": 3e5, "tokens": 8e5}
    taught = KappaDistillationLaw(**params["distillation"], supervised=plain)
    lines = []
    for target, at, value in (("supervised", alone, plain(**alone)), ("distillation", behind, taught(**behind))):
        coords = ", ".join(f"{name} = {x:g}" for name, x in at.items())
        lines += [
            "",
            "[[golden]]",
            f'target = "{target}"',
            f"coords = {{ {coords} }}",
            f"value = {float(value):.5f}",
            "tolerance = 1e-5",
            'source = "computed when the file was written"',
        ]
    return lines


def problems(found: dict, statuses: dict[str, str]) -> list[str]:
    """What must be said with every number."""
    weak = [part for part, status in statuses.items() if status != "CONVERGED"]
    lines = [
        "Models of 0.08M to 1M parameters with a vocabulary of 512 on books: a shape to learn from, no law for other "
        "text or scales."
    ]
    if weak:
        lines.append(
            f"Not identified by these runs: {', '.join(f'{part} ({statuses[part]})' for part in weak)}. Coefficients "
            "trade against each other; predictions inside the range hold, others do not."
        )
    return lines


def ranges(runs: OpenRuns) -> list[str]:
    """What the laws have seen."""
    seen = [row for row in runs.rows if row["purpose"] in ("grid", "holdout", "teacher")]
    alone = [row for row in seen if row["teacher_run"] is None]
    taught = [row for row in seen if row["teacher_run"] is not None]

    def span(rows: list[dict], key: str) -> str:
        values = [row[key] for row in rows]
        return f"[{min(values):.6g}, {max(values):.6g}]"

    per = [row["tokens"] / row["params"] for row in taught]
    losses = np.array([row["teacher_loss"] for row in taught])
    return [
        "",
        "[range.supervised]",
        f"params = {span(alone, 'params')}",
        f"tokens = {span(alone, 'tokens')}",
        "",
        "[range.distillation]",
        f"student_params = {span(taught, 'params')}",
        f"student_tokens = {span(taught, 'tokens')}",
        f"tokens_per_param = [{min(per):.4g}, {max(per):.4g}]",
        f"teacher_loss = [{math.floor(1e3 * losses.min()) / 1e3}, {math.ceil(1e3 * losses.max()) / 1e3}]",
    ]
