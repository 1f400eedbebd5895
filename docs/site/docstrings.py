"""House docstrings as Sphinx wants them, so that nobody has to think of reStructuredText while writing one.

Equations are indented blocks of ASCII; bars and stars in a sentence are bars and stars.
"""

import re

_SECTION = re.compile(r"[A-Z][\w ]*:$")
_INDENT = 4


def process(_app: object, what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Change the lines of a docstring in place (`autodoc-process-docstring`, before napoleon)."""
    # napoleon takes what stands before a colon on the first line of a field for its type: let that line be a comment
    prepared: list[str] = ["..", ""] if what in ("attribute", "data", "property") else []
    in_section = in_block = False
    for line in lines:
        indented = line.startswith(" " * _INDENT)
        if line.strip() and not indented:
            in_section, in_block = bool(_SECTION.match(line)), False
        starts = indented and not in_section and not in_block and bool(prepared) and not prepared[-1].strip()
        if starts:
            prepared += ["::", ""]
            in_block = True
        prepared.append(line if in_block or line.lstrip().startswith((">>>", "...")) else _plain(line))
    lines[:] = prepared


def _plain(line: str) -> str:
    """Escape what reStructuredText would take for markup, outside of `code`."""
    parts = line.split("`")
    return "`".join(re.sub(r"([|*])", r"\\\1", part) if at % 2 == 0 else part for at, part in enumerate(parts))
