"""What a teacher is asked: a text file with one prompt a line, a .jsonl file, or the prompts inside the package."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from distillaw.errors import ConfigError, DataError
from distillaw.instruct.conversations import Message, checked_messages, json_lines
from distillaw.quantities import did_you_mean
from distillaw.runs.files import read_text

SHIPPED = {"general": "general.txt"}
"""Prompts inside the package: general, 135 short ones of many kinds (CC0, written for this project)."""

Prompt = tuple[Message, ...]
"""Messages that wait for an answer."""


def read_prompts(prompts: str | Path) -> list[Prompt]:
    """Prompts in their order, each once.

    Args:
        prompts: `general`; a .txt file, one prompt a line; or a .jsonl file with `prompt`, `instruction` (and `input`)
            or `messages` in each line, of which what stands before the first answer is asked.

    Raises:
        ConfigError: no such file.
        DataError: a line that is no prompt, or none at all.
    """
    name = str(prompts)
    if name in SHIPPED:
        text = (resources.files("distillaw.data") / "prompts" / SHIPPED[name]).read_text(encoding="utf-8")
        found = _lines(text)
    elif (path := Path(name).expanduser()).suffix == ".txt" and path.is_file():
        try:
            found = _lines(read_text(path))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: not UTF-8 (byte 0x{error.object[error.start]:02x}); convert it"
            ) from None
    elif path.suffix == ".jsonl":
        found = [_asked(value, where) for where, value in json_lines(path)]
    else:
        raise ConfigError(
            f"prompts {name!r}: no such file{did_you_mean(name, SHIPPED)}; give a .txt file (one a line), a .jsonl "
            f"file, or one of {', '.join(SHIPPED)}"
        )
    once = {tuple((m["role"], m["content"]) for m in prompt): prompt for prompt in found}
    if not once:
        raise DataError(f"{name}: no prompt in it")
    return list(once.values())


def _lines(text: str) -> list[Prompt]:
    return [({"role": "user", "content": line.strip()},) for line in text.splitlines() if line.strip()]


def _asked(value: object, where: str) -> Prompt:
    if isinstance(value, Mapping) and isinstance(asked := value.get("prompt", value.get("instruction")), str):
        given = value.get("input")
        return ({"role": "user", "content": f"{asked}\n\n{given}" if given else asked},)
    if isinstance(value, Mapping) and isinstance(messages := value.get("messages"), list):
        answer = [{"role": "assistant", "content": "-"}] if _waits(messages) else []
        answered = checked_messages([*messages, *answer], where)
        first = next(i for i, each in enumerate(answered) if each["role"] == "assistant")
        return answered[:first]
    raise DataError(f"{where}: a prompt is a `prompt`, an `instruction` or `messages`")


def _waits(messages: list[object]) -> bool:
    last = messages[-1] if messages else None
    return isinstance(last, Mapping) and last.get("role") == "user"
