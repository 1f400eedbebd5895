"""What the two distillation papers say beside what our code gives: benchmarks/results/reproduction.json and the page.

    python -m benchmarks.reproduction.run            # about 5 s; rewrites the tables of docs/reproduction.md

Words of the claims are in claims.toml, numbers and judges in the modules beside it.
`tests/laws/test_reproduction.py` recomputes them and compares.
"""

import json
from collections.abc import Mapping, Sequence

from benchmarks import RESULTS, ROOT
from benchmarks.reproduction import accounting, figures, gap, law, plans
from benchmarks.reproduction.claim import AGREES, DISAGREES, SETS, UNDECIDED, Claim, law_sets
from distillaw.runs.files import write_text

PAGE = ROOT / "docs" / "reproduction.md"
FILE = RESULTS / "reproduction.json"
BEGIN, END = "<!-- tables: benchmarks/reproduction/run.py -->", "<!-- end of tables -->"
SECTIONS = (
    ("Table 6 and the supervised law", law.table6),
    ("Behaviours required of the form", law.behaviours),
    ("The break, and shorter forms", law.the_break),
    ("What the printed coefficients do to the paper's own figures", figures.comparison),
    ("Findings", figures.findings),
    ("Who pays: Table 3 and the four scenarios", plans.scenarios),
    ("Crossovers", plans.crossovers),
    ("The law of capacity gap", gap.the_line),
    ("The same question to the distillation law", gap.against_the_law),
    ("Architecture and FLOP", accounting.architecture),
    ("Compute axis, families, storage", accounting.axes_and_families),
)
_MARK = {AGREES: "✓", DISAGREES: "✗", UNDECIDED: "?"}


def collect() -> dict[str, list[Claim]]:
    """Every claim, by section."""
    sets = law_sets()
    return {title: claims(sets) for title, claims in SECTIONS}


def document(found: Mapping[str, Sequence[Claim]]) -> dict[str, object]:
    """The JSON file; nan becomes null."""
    return {"sections": {title: [_plain(claim) for claim in claims] for title, claims in found.items()}}


def _plain(claim: Claim) -> dict[str, object]:
    plain = claim.to_json()
    plain["values"] = {k: [None if v != v else v for v in values] for k, values in claim.values.items()}
    return plain


def tables(results: Mapping[str, object]) -> str:
    """The generated part of the page, from the JSON document."""
    sections = results["sections"]
    assert isinstance(sections, Mapping)
    parts = [_summary(sections)]
    for title, claims in sections.items():
        by_set = [c for c in claims if "ours" not in c["values"]]
        single = [c for c in claims if "ours" in c["values"]]
        parts.append(f"## {title}")
        parts += [_table(rows, columns) for rows, columns in ((by_set, tuple(SETS)), (single, ("ours",))) if rows]
    return "\n\n".join(parts)


def _summary(sections: Mapping[str, list]) -> str:
    """How many claims of the papers (not of ours by hand) come out how."""
    claims = [c for rows in sections.values() for c in rows if c["certainty"] != "spec"]
    lines = ["| | agrees | disagrees | cannot be decided |", "| --- | --- | --- | --- |"]
    names = {"ours": "no distillation coefficient enters", "printed": "Table 6 as printed"}
    for column in ("ours", *SETS):
        verdicts = [c["verdict"][column] for c in claims if column in c["verdict"]]
        counts = " | ".join(str(verdicts.count(kind)) for kind in (AGREES, DISAGREES, UNDECIDED))
        lines.append(f"| {names.get(column, f'surrogate {column}')} | {counts} |")
    return "\n".join(lines)


def _table(claims: Sequence[Mapping], columns: Sequence[str]) -> str:
    head = ["claim", "where", "theirs", *columns, "agrees when"]
    lines = [f"| {' | '.join(head)} |", "| " + " | ".join("---" for _ in head) + " |"]
    for claim in claims:
        where = (
            claim["where"] if claim["certainty"] in ("paper", "spec") else f"{claim['where']} ({claim['certainty']})"
        )
        says = claim["says"] + (f" *({claim['note']})*" if claim["note"] else "")
        cells = [f"{claim['shown'][c]} {_MARK[claim['verdict'][c]]}" for c in columns]
        lines.append(f"| {' | '.join([says, where, claim['theirs'], *cells, claim['rule']])} |")
    return "\n".join(lines)


def filled(page: str, results: Mapping[str, object]) -> str:
    """The page with its tables replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{after}"


def main() -> None:
    """Write results and page."""
    results = document(collect())
    write_text(FILE, json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False) + "\n", known=True)
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8"), results), known=True)
    print(_summary(results["sections"]))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
