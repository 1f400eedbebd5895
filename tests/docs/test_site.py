"""The site: every page in one place, no dead link, nothing public without a docstring, no option without words."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from functions import PACKAGES, modules_of, public_symbols, returned
from stage import groups, stage

import distillaw
from distillaw.cli.app import app
from distillaw.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INDEX = (DOCS / "index.md").read_text()
_OPTION = re.compile(r"^\* `([^`]+)`: ?(.*)$", re.MULTILINE)
_COMMAND = re.compile(r"^##+ (distillaw [\w -]+)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
COMMANDS = dict(_COMMAND.findall(app.generate_docs(output_format="markdown")))


def test_every_page_stands_in_the_index_once():
    named = [page for pages in groups(INDEX).values() for page in pages]
    assert sorted(page for page in named if "/" not in page) == sorted(
        path.name for path in DOCS.glob("*.md") if path.name != "index.md"
    )


def test_a_page_in_two_groups_is_refused():
    with pytest.raises(ValueError, match=r"a\.md stand in two groups"):
        groups("## One\n[a.md](a.md)\n## Two\n[a.md](a.md)\n")


@pytest.fixture(scope="module")
def staged(tmp_path_factory) -> Path:
    """What Sphinx would read; a dead link raises here."""
    target = tmp_path_factory.mktemp("site")
    stage(target)
    return target


def test_links_of_the_site_lead_somewhere(staged):
    for page in staged.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", (ROOT / "README.md").read_text())
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_has_a_page_with_all_that_its_help_says(staged):
    assert {path.stem for path in (staged / "commands").glob("*.md")} == set(VERBS)
    for command, body in COMMANDS.items():
        page = (staged / "commands" / f"{command.split()[1]}.md").read_text()
        assert all(name in page for name, _ in _OPTION.findall(body)), command


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_and_no_option_without_words(command):
    usage, options = COMMANDS[command], _OPTION.findall(COMMANDS[command])
    words = re.sub(r"```.*?```", "", usage.partition("**Parameters**")[0], flags=re.DOTALL).strip()
    assert len(words) > 10, f"{command} does not say what it does"
    silent = [name for name, text in options if not re.sub(r"\*+\[.*?\]\*+", "", text).strip()]
    assert silent == [], command


def test_public_names_have_docstrings():
    for name in set(distillaw.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(distillaw, name)), name
    assert {"distillaw.fitting.result.FitResult", "distillaw.planning.verdict.Verdict"} <= set(returned())


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_public_without_a_docstring(package):
    silent = []
    for module in modules_of(package):
        for name, value in public_symbols(module).items():
            members = vars(value) if inspect.isclass(value) else {}
            public = {key: member for key, member in members.items() if not key.startswith("_")}
            silent += [f"{module}.{name}"] * (not inspect.getdoc(value))
            silent += [
                f"{module}.{name}.{key}"
                for key, member in public.items()
                if isinstance(member, property | staticmethod | classmethod) or inspect.isfunction(member)
                if not inspect.getdoc(member)
            ]
    assert silent == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_the_network_for_nothing(staged, tmp_path):
    pytest.importorskip("sphinx", reason="pip install 'distillaw[docs]'")
    built = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", str(DOCS / "site")]
    done = subprocess.run([*command, str(staged), str(built)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    remote = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?:https?:)?//|@import|url\(\"?https?:")
    for page in [*built.rglob("*.html"), *built.rglob("*.css")]:
        assert not remote.search(page.read_text()), page
    assert "capac" in (built / "searchindex.js").read_text()


@pytest.mark.slow
def test_the_committed_pictures_are_what_the_library_draws():
    done = subprocess.run([sys.executable, DOCS / "pictures.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(path.stat().st_size for path in (DOCS / "pictures").glob("*.svg")) < 60_000
