"""The page of an audit: one HTML file, the gravest first, with the smallest failing examples.

distillaw audit losses.py:loss --contract contract.toml --out audit.html
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillaw.audit.findings import finding_table
from distillaw.report.page import KeyNumber, Section, write_page

_TITLES = {
    "wrong": "Wrong: not what was declared",
    "differs": "Differs: the gradient is as declared, what is reported is not",
    "right": "Right",
    "not-testable": "Not testable here",
}


def write_audit_page(answer: Mapping[str, Any], out: Path) -> Path:
    """Write the page of what `Findings.to_json` gave."""
    counts = answer["counts"]
    many = f"{counts['wrong']} properties are" if counts["wrong"] > 1 else "1 property is"
    said = f"{many} wrong" if counts["wrong"] else "nothing wrong was found"
    sections = [
        Section(
            title=title,
            table=finding_table(answer, verdicts=[verdict]),
            table_title="Evidence",
            open=verdict != "not-testable",
        )
        for verdict, title in _TITLES.items()
        if counts[verdict]
    ]
    examples = [
        (f"{each['name']}: {evidence['says']}", json.dumps(evidence["example"]))
        for each in answer["properties"]
        for evidence in each["evidence"]
        if evidence.get("example")
    ]
    write_page(
        out,
        "audit.html.j2",
        title=f"distillaw audit: {answer['target']}",
        name=answer["target"],
        sentence=f"{answer['target']} ({answer['kind']}): {said}.",
        numbers=[
            KeyNumber(verdict, str(count), _TITLES[verdict].partition(":")[2].strip() or "properties")
            for verdict, count in counts.items()
        ],
        sections=sections,
        examples=examples,
        notes=answer["notes"],
    )
    return out
