"""The index of papers has no dead symbol and no dead test; what a paper brought in stands in it."""

import importlib
import re
from pathlib import Path

import pytest

import distillaw
from distillaw.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "papers.md").read_text().splitlines()[4:]
    if line.startswith("|")
]
_ARXIV = re.compile(r"arXiv[: ]?(\d{4}\.\d{4,5})")
_CODE = re.compile(r"`([^`]+)`")
SYMBOLS = sorted({code for row in ROWS for code in _CODE.findall(row[2])})
TESTS = sorted({code for row in ROWS for code in _CODE.findall(row[3])})


def test_every_row_has_a_symbol_and_a_test_or_says_that_it_has_none():
    assert all(len(row) == 5 for row in ROWS), [row for row in ROWS if len(row) != 5]
    for paper, what, symbol, test, _ in ROWS:
        assert _CODE.search(symbol) or symbol in ("-", "every set"), (paper, what, symbol)
        assert _CODE.search(test), (paper, what, test)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_symbol_exists(symbol):
    if symbol.startswith("distillaw "):
        assert symbol.split()[1] in VERBS
    elif named := re.fullmatch(r'published\("([\w*-]+)"\)(\.\w+)?', symbol):
        prefix, _, rest = named[1].partition("*")
        known = [name for name in distillaw.laws_available() if name.startswith(prefix)]
        assert known if "*" in named[1] else named[1] in known, rest
    else:
        assert _resolved(symbol) is not None


def _resolved(symbol: str) -> object:
    """The module `distillaw.SYMBOL`, or what lies in one."""
    parts = symbol.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(["distillaw", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            fields = found.__dict__.get("__dataclass_fields__", {}) if isinstance(found, type) else {}
            found = fields[name] if name in fields else getattr(found, name)
        return found
    raise ModuleNotFoundError(f"distillaw.{symbol}")


@pytest.mark.parametrize("test", TESTS)
def test_the_test_exists(test):
    assert (ROOT / test).exists()


def test_papers_that_the_code_names_stand_in_the_index():
    """Not those that a data set, a benchmark or a device's utilisation is quoted from: their records name them."""
    index = (ROOT / "docs" / "papers.md").read_text()
    source = ROOT / "src" / "distillaw"
    records = [path for package in ("laws", "large_batch") for path in (source / package / "data").glob("*.toml")]
    code = [path for path in source.rglob("*.py") if path.parent.name not in ("pareto", "evaluate", "outcomes")]
    named = {paper for path in [*records, *code] for paper in _ARXIV.findall(path.read_text())}
    assert len(named) > 30
    assert sorted(paper for paper in named if paper not in index) == []


_PAGE = re.compile(r"[\w./-]*\b[\w-]+\.md\b")
_SHEET = re.compile(
    r"\bspec(?:ification)? (?:accounting|experiments|fitting|interface|large-batch|laws|logits|recipe|style|toys)\b",
    re.IGNORECASE,
)
_THEIRS = ("README.md", "MODEL_CARD.md")
"""Pages of other people's repositories; a README is also what a folder of ours may have."""


def test_the_program_cites_papers_and_pages_that_users_have():
    """No message, comment or source of a number names a page that is not in docs/, or a section of a specification."""
    folders = (ROOT / "src", ROOT / "web" / "src")
    kinds = {".py", ".toml", ".ts", ".svelte", ".j2", ".md"}
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in kinds]
    assert len(files) > 400
    cited = {(file, page) for file in files for page in _PAGE.findall(file.read_text(encoding="utf-8"))}
    lost = [
        f"{file.relative_to(ROOT)}: {page}"
        for file, page in sorted(cited)
        if not (page.endswith(_THEIRS) or (page.startswith(("docs/", "dev/")) and (ROOT / page).is_file()))
    ]
    sheets = [str(file.relative_to(ROOT)) for file in files if _SHEET.search(file.read_text(encoding="utf-8"))]
    assert lost == [] and sheets == []
