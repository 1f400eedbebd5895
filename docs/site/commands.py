"""The reference of the command line, written from the program: one page a verb, options with defaults and units.

Under each verb stand the commands that the pages use, each with a link to the page that explains it.
"""

import re
from pathlib import Path

from distillaw.cli.app import app
from distillaw.cli.verbs import VERBS

_VERB = re.compile(r"^## distillaw (\S+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_SAID = re.compile(r"^(?:\$ )?(distillaw [a-z][^`\n]*)$|`(distillaw [a-z][^`\n]* [^`\n]*)`", re.MULTILINE)
_MOST = 12  # examples a verb


def write_commands(target: Path) -> None:
    """`commands.md` with every verb in a line, and `commands/VERB.md`."""
    folder = target / "commands"
    folder.mkdir()
    said = _examples(target)
    for verb, body in _VERB.findall(app.generate_docs(output_format="markdown")):
        page = f"# distillaw {verb}\n{_raised(body)}\n{_shown(said.get(verb, {}))}"
        (folder / f"{verb}.md").write_text(page)
    rows = "\n".join(f"| [`{verb}`](commands/{verb}.md) | {line} |" for verb, (_, line) in VERBS.items())
    entries = "\n".join(f"commands/{verb}" for verb in VERBS)
    (target / "commands.md").write_text(
        "# Every command\n\nNumbers accept `1.82B`, `512B`, `1e21`, `300M`. Every command takes `--json`; exit code "
        "0 is done, 1 failed, 2 wrong usage, 130 interrupted. `distillaw COMMAND --help` prints what stands here.\n\n"
        f"| command | answers |\n| --- | --- |\n{rows}\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"
    )


def _raised(body: str) -> str:
    """One level up: a verb is a page, what stands under it a section."""
    return re.sub(r"^##(#+) ", r"#\1 ", body, flags=re.MULTILINE)


def _examples(target: Path) -> dict[str, dict[str, str]]:
    """Verb -> command as the pages write it -> the first page that does."""
    found: dict[str, dict[str, str]] = {}
    for page in sorted(target.glob("*.md")):
        if page.name in ("notebook.md", "changelog.md"):
            continue
        for whole, inline in _SAID.findall(page.read_text().replace("\\\n", " ")):
            command = re.sub(r"\s+", " ", whole or inline).split(" # ")[0].strip()
            if " -" in command or len(command.split()) > 2:
                found.setdefault(command.split()[1], {}).setdefault(command, page.name)
    return found


def _shown(examples: dict[str, str]) -> str:
    if not examples:
        return ""
    lines = "\n".join(f"* `{command}` ([{page}](../{page}))" for command, page in list(examples.items())[:_MOST])
    return f"## Examples\n\n{lines}\n"
