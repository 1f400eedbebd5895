"""`distillaw fit`: a law from a CSV, a Parquet file or a study folder."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

from distillaw.cli.options import LawName, Number, OutFile
from distillaw.cli.output import Output, same_command
from distillaw.errors import ConfigError
from distillaw.fitting.api import fit_arms
from distillaw.fitting.query import load_law
from distillaw.quantities import parse_count

Family = Literal[
    "supervised",
    "chinchilla",
    "distillation",
    "distillation-kappa",
    "distillation-reduced",
    "distillation-reduced-q",
    "distillation-auto",
    "capacity-gap",
    "pruned",
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How a table of runs is read."""

    columns: str | None = None
    """Which column is what, e.g. params=N,tokens=D,loss=val_loss,teacher_loss=LT."""
    group: str | None = None
    """Column that names the independent run of each row; `none` for independent rows."""
    where: list[str] | None = None
    """Only the rows with COLUMN=VALUE (repeatable; * stands for anything), e.g. --where dataset=c4."""
    unit: str | None = None
    """Of the losses: nats, bits, bits-per-byte, bits-per-character."""
    params_convention: Literal["non-embedding", "total"] | None = None
    """What the params column counts, and --student where there is one; a law says it too. Default: non-embedding."""

    @property
    def read(self) -> dict[str, Any]:
        """As arguments of what reads rows."""
        named = {"columns": parse_columns(self.columns), "where": parse_where(self.where)}
        return named | {name: getattr(self, name) for name in ("group", "unit", "params_convention")}


def fit(
    file: Path,
    *,
    law: Family,
    table: TableOptions = TableOptions(),
    arm: Literal["fresh", "pruned", "fixed"] | None = None,
    delta: str = "auto",
    bootstrap: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    supervised: LawName | None = None,
    priors: Literal["auto", "weak", "none"] = "auto",
    vocab: Number | None = None,
    width: str | None = None,
    teacher_width: str | None = None,
    untied: bool = False,
    tie_exponents: bool = False,
    compare: list[Family] | None = None,
    out: OutFile | None = None,
    output: Output = Output(),
) -> None:
    """Fit a law to runs.

    Args:
        file: CSV, Parquet or JSON lines file, or a study folder.
        law: the family to fit.
        table: how it is read.
        arm: students' first weights: fresh, pruned (cut out of the teacher under test), fixed (out of one reference);
            default: fresh where there are any, then fixed; for capacity-gap every arm of the table in turn.
        delta: Huber threshold in ln loss; `auto` matches the noise, 1e-3 is the field's habit.
        bootstrap: replicates for the intervals.
        level: coverage of the intervals.
        seed: of the bootstrap.
        supervised: law of the students' own supervised loss (pruned: of random starts, taught ones too): a published
            name or a fitted JSON file.
        priors: weak priors; `auto` uses them when delta is auto.
        vocab: vocabulary size; turns total parameters into non-embedding ones (total - vocab x width).
        width: column with the model width, for that.
        teacher_width: column with the teacher's width; teacher_params are then converted too.
        untied: the totals hold two vocabulary x width matrices (embedding and head), not one.
        tie_exponents: alpha = beta (supervised, chinchilla).
        compare: another family, set against this one by held-out error and AIC (repeatable).
        out: write the fitted law here, for `predict --law` and `plan`.
    """
    if untied and vocab is None:
        raise ConfigError(UNTIED)
    with output.working("fitting"):
        by_arm = fit_arms(
            file,
            family=law,
            **table.read,
            arm=arm,
            delta="auto" if delta == "auto" else parse_count(delta, name="--delta"),
            bootstrap=bootstrap,
            level=level,
            seed=seed,
            supervised=None if supervised is None else load_law(supervised),
            priors=priors,
            vocab=vocab,
            width=width,
            teacher_width=teacher_width,
            matrices=2 if untied else 1,
            tie_exponents=tie_exponents,
            compare=compare or (),
        )
    arms = list(by_arm)
    if len(arms) > 1 and out is not None:
        raise ConfigError(f"--out keeps one law, and {file} has students of {', '.join(arms)}; choose with --arm")
    result = by_arm[arms[0]]
    if out is not None:
        result.save(out)
    documents = {name: each.to_json() for name, each in by_arm.items()}
    shown = {name: {key: document[key] for key in KEYS} for name, document in documents.items()}
    several = {"arm": arms[0], "arms": shown} if len(arms) > 1 else {}
    summaries = "\n\n".join(each.summary() for each in by_arm.values())
    output.answer({"law": law, **shown[arms[0]], **several}, print, summaries)
    if len(arms) > 1:
        output.suggest(f"{same_command()} --arm {arms[-1]} --out law.json")
        return
    output.suggest(*_next(law, out, usable=result.is_usable, convention=result.params_convention))


KEYS = (
    *("status", "remedy", "params", "conf_int", "level", "objective", "delta", "nobs", "ngroups"),
    *("condition_number", "solver_disagreement", "seconds", "derived", "fitted_range", "calibration"),
    *("notes", "details", "provenance", "params_convention"),
)
"""Of a law's document, those that `--json` prints."""
UNTIED = (
    "--untied does nothing without --vocab V: it says how many vocabulary x width matrices are taken off the totals, "
    "and none is; give the vocabulary, or leave it out"
)


def _next(law: str, out: Path | None, *, usable: bool, convention: str) -> tuple[str, str]:
    """The likely next command, and what comes first."""
    if not usable:
        return same_command(), "add the runs named above, then:"
    if out is None:
        return f"{same_command()} --out law.json", ""
    question = "--student 300M"
    question += "" if law == "capacity-gap" else " --tokens 6B"
    question += " --teacher-loss 2.5" if law.startswith("distillation") else ""
    question += " --params-convention total" if convention == "total" else ""
    return f"distillaw predict --law {shlex.quote(str(out))} {question}", ""


def parse_columns(text: str | None) -> dict[str, str]:
    """{our name: column} from `params=N,tokens=D`.

    Raises:
        ConfigError: a part without `=`.
    """
    pairs = [part.strip() for part in (text or "").split(",") if part.strip()]
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--columns: cannot read {pair!r}; write params=COLUMN,tokens=COLUMN,loss=COLUMN")
    return {name.strip(): column.strip() for name, column in (pair.split("=", 1) for pair in pairs)}


def parse_where(conditions: list[str] | None) -> dict[str, str]:
    """{column: value} from `COLUMN=VALUE` texts.

    Raises:
        ConfigError: a text without `=`.
    """
    for text in conditions or []:
        if "=" not in text:
            raise ConfigError(f"--where: cannot read {text!r}; write --where COLUMN=VALUE, once per condition")
    return {column.strip(): value.strip() for column, value in (text.split("=", 1) for text in conditions or [])}
