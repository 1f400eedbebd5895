"""Lay out what Sphinx reads: the pages of docs/, the notebook, and a reference made from the program itself.

    python docs/site/stage.py out/docs-source && sphinx-build -W --keep-going -c docs/site out/docs-source out/docs

docs/index.md is the only list of pages. Its second-level headings are the groups of the navigation; the pages that a
group links to are its pages. A link that leads nowhere is an error here, before Sphinx starts. Pages are read on GitHub
too, so nothing in them is particular to the site.
"""

import re
import shutil
import sys
from pathlib import Path

from commands import write_commands
from functions import write_functions

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# pages that do not lie in docs/, and what the site calls them
ELSEWHERE = {
    ROOT / "dev" / "LOG.md": "notebook.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "benchmarks" / "README.md": "benchmarks.md",
    ROOT / "README.md": "index.md",
}
# pages that the site makes by itself: docs/index.md names them without a link, since GitHub has no such page
MADE = ("commands", "functions")

_LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")
_NAMED = re.compile(
    r"\[[\w-]+\.md\]\(([\w-]+\.md)\)"
)  # a link that is called as its file: the site shows the page's title
_GROUP = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def stage(target: Path) -> None:
    """Write every page of the site into `target`, which is emptied first."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    pages = {path: path.name for path in sorted(DOCS.glob("*.md"))} | ELSEWHERE
    for path, name in pages.items():
        if path != ROOT / "README.md":
            (target / name).write_text(_relinked(path, pages, target))
    write_commands(target)
    write_functions(target)
    _write_groups(target)


def groups(index: str) -> dict[str, list[str]]:
    """Heading -> names of the pages it links to, in order.

    Raises:
        ValueError: a page stands in two groups.
    """
    found = {title: _LINK.findall(body) for title, body in _GROUP.findall(index)}
    names = [name for pages in found.values() for name in pages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"docs/index.md: {', '.join(twice)} stand in two groups; a page has one place")
    return found


def _write_groups(target: Path) -> None:
    """One page a group, which carries its pages in the navigation, and the groups below the index."""
    index = target / "index.md"
    text = index.read_text()
    for name in MADE:
        text = text.replace(f"| {name} |", f"| [{name}]({name}.md) |")
    for title, body in _GROUP.findall(text):
        pages = "\n".join(Path(name).stem for name in groups(text)[title])
        group = f"# {title}\n\n{body.strip()}\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
        (target / f"{_slug(title)}.md").write_text(group)
    entries = "\n".join(_slug(title) for title in groups(text))
    index.write_text(f"{text}\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n")


def _slug(title: str) -> str:
    return "group-" + re.sub(r"\W+", "-", title.lower()).strip("-")


def _relinked(path: Path, pages: dict[Path, str], target: Path) -> str:
    """The page with its links as they are on the site; files it points at come along."""
    text = path.read_text()
    fences = [match.span() for match in _FENCE.finditer(text)]

    def relinked(match: re.Match[str]) -> str:
        link = match.group()
        if "://" in link or link.startswith("mailto:") or any(a <= match.start() < b for a, b in fences):
            return link
        found = (path.parent / link).resolve()
        if found in pages:
            return pages[found]
        if not found.is_file():
            raise FileNotFoundError(f"{path.relative_to(ROOT)}: the link to {link} leads nowhere")
        copy = target / "files" / found.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, copy)
        return copy.relative_to(target).as_posix()

    return _NAMED.sub(r"[](\1)", _LINK.sub(relinked, text))


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
