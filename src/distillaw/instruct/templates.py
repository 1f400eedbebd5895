"""Chat templates as data: the model's own, one of those in templates/, or a file; and the tokens each needs.

Templates are Jinja, rendered by the tokenizer's own `apply_chat_template`, so that what is trained is what any chat
program renders later: the chosen template is saved with the model's tokenizer.
"""

import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean
from distillaw.runs.files import read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEEDED = re.compile(r"<\|[a-z_]+\|>")
_PLAIN = ("minichat", "zephyr")
"""Templates whose role markers are plain text: they need nothing of a tokenizer but its end-of-text token."""


def template_names() -> list[str]:
    """The templates inside the package."""
    folder = resources.files("distillaw.instruct") / "templates"
    return sorted(
        each.name.removesuffix(".jinja") for each in folder.iterdir() if each.name.endswith(".jinja")
    )


def choose_template(tokenizer: "PreTrainedTokenizerBase", name: str | None, *, model: str) -> str:
    """Give a tokenizer its chat template.

    Args:
        tokenizer: its `chat_template` is set to the one chosen.
        name: one of `template_names()`, a .jinja file, or None for the tokenizer's own.
        model: its name, for messages.

    Returns:
        The template's name: as given, or `own`.

    Raises:
        ConfigError: no template anywhere, none of that name, or one whose tokens the tokenizer lacks.
    """
    if name is None:
        if tokenizer.chat_template is None:
            raise ConfigError(
                f"{model}: its tokenizer has no chat template, so nobody knows how it marks who speaks. Give "
                f"--template: {', '.join(template_names())}, or a .jinja file ({' and '.join(_PLAIN)} need no special "
                "tokens)"
            )
        return "own"
    tokenizer.chat_template = _read(name)
    if name in template_names():
        _check_tokens(tokenizer, name, model)
    return name


def _read(name: str) -> str:
    if name in template_names():
        file = resources.files("distillaw.instruct") / "templates" / f"{name}.jinja"
        return file.read_text(encoding="utf-8").strip()
    path = Path(name).expanduser()
    if path.suffix != ".jinja":
        raise ConfigError(
            f"--template {name}: no such template{did_you_mean(name, template_names())}; one of "
            f"{', '.join(template_names())}, or a .jinja file"
        )
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--template {name}: cannot be read ({error})") from None


def _check_tokens(tokenizer: "PreTrainedTokenizerBase", name: str, model: str) -> None:
    """Refuse a template whose markers would be spelt out letter by letter."""
    if name in _PLAIN:
        needed = [] if tokenizer.eos_token else ["an end-of-text token"]
    else:
        text = str(tokenizer.chat_template)
        needed = sorted(token for token in set(_NEEDED.findall(text)) if token not in tokenizer.get_vocab())
    if needed:
        other = f"; {' and '.join(_PLAIN)} need only an end-of-text token" if name not in _PLAIN else ""
        raise ConfigError(f"--template {name}: the tokenizer of {model} lacks {', '.join(needed)}{other}")
