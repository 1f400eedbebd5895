"""Conversations and prompts as data: five file formats read into one shape, every error with its file and line.

    {"messages": [{"role": "user", "content": ".."}, {"role": "assistant", "content": ".."}]}     chat
    [{"User": "..", "Assistant": ".."}, ...]                                                      MiniChat, one a line
    {"conversations": [{"from": "human", "value": ".."}, {"from": "gpt", "value": ".."}]}         ShareGPT
    {"instruction": "..", "input": "..", "output": ".."}                                          Alpaca
    {"instruction": "..", "instances": [{"input": "..", "output": ".."}]}                         self-instruct seeds

A line is one conversation (self-instruct: one for each instance). What a teacher is asked is a text file with one
prompt a line, a .jsonl file, or the prompts inside the package. Torch-free.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from distillaw.data.corpus import json_lines
from distillaw.errors import ConfigError, DataError
from distillaw.quantities import did_you_mean
from distillaw.runs.files import read_text

Message: TypeAlias = dict[str, str]
"""`role` (system, user or assistant) and `content`."""

ROLES = ("system", "user", "assistant")
_SPEAKERS = {"human": "user", "user": "user", "system": "system"} | dict.fromkeys(
    ("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"
)
"""What ShareGPT files call the roles."""
_FORMATS = (
    '{"messages": [..]}, [{"User": .., "Assistant": ..}], {"conversations": [..]}, '
    '{"instruction": .., "output": ..} or {"instruction": .., "instances": [..]}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What was said, and where it stands."""

    messages: tuple[Message, ...]
    """An optional system line, then user and assistant by turns."""
    where: str
    """`file, line 12`, for messages."""
    truncated: bool = False
    """The last answer was cut off at a limit of tokens, as `distillaw instruct generate` marks it."""

    @property
    def opening(self) -> tuple[Message, ...]:
        """Everything before the first answer."""
        first = next((i for i, each in enumerate(self.messages) if each["role"] == "assistant"), None)
        return self.messages[:first]


def read_conversations(file: str | Path) -> Iterator[Conversation]:
    """The conversations of a .jsonl file, in its order.

    Raises:
        ConfigError: no such file, or not a .jsonl file.
        DataError: a line that is not UTF-8, not JSON or of no known format, a role or text that is missing.
    """
    for where, value in json_lines(data_file(file)):
        yield from _conversations(value, where)


def data_file(file: str | Path) -> Path:
    """The path of a .jsonl file, refused if it is none or not there."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a .jsonl file, one conversation a line")
    if path.suffix not in (".jsonl", ".json"):
        raise ConfigError(f"{path}: conversations are read from .jsonl files, one a line: {_FORMATS}")
    return path


def _conversations(value: object, where: str) -> Iterator[Conversation]:
    if isinstance(value, list):
        yield Conversation(messages=checked_messages(_minichat(value, where), where), where=where)
    elif isinstance(value, Mapping) and "messages" in value:
        messages = checked_messages(value["messages"], where)
        yield Conversation(messages=messages, where=where, truncated=value.get("truncated") is True)
    elif isinstance(value, Mapping) and "conversations" in value:
        messages = checked_messages(_sharegpt(value["conversations"], where), where)
        yield Conversation(messages=messages, where=where)
    elif isinstance(value, Mapping) and "instruction" in value:
        yield from _instructions(value, where)
    else:
        found = sorted(value) if isinstance(value, Mapping) else type(value).__name__
        raise DataError(f"{where}: of no known format, found {found}. Known: {_FORMATS}")


def _minichat(turns: list[object], where: str) -> list[Message]:
    messages = []
    for turn in turns:
        if not isinstance(turn, Mapping) or not {"User", "Assistant"} <= set(turn):
            raise DataError(f'{where}: a turn is {{"User": .., "Assistant": ..}}, got {_short(turn)}')
        if "System" in turn:
            messages.append({"role": "system", "content": turn["System"]})
        messages.append({"role": "user", "content": turn["User"]})
        messages.append({"role": "assistant", "content": turn["Assistant"]})
    return messages


def _sharegpt(turns: object, where: str) -> list[Message]:
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise DataError(f"{where}: `conversations` is a list of turns, got {_short(turns)}")
    messages = []
    for turn in turns:
        speaker = turn.get("from") if isinstance(turn, Mapping) else None
        if speaker not in _SPEAKERS or "value" not in turn:
            known = ", ".join(sorted(_SPEAKERS))
            raise DataError(f'{where}: a turn is {{"from": one of {known}, "value": ..}}, got {_short(turn)}')
        messages.append({"role": _SPEAKERS[speaker], "content": turn["value"]})
    return messages


def _instructions(row: Mapping[str, object], where: str) -> Iterator[Conversation]:
    instances = row.get("instances", [row])
    if not isinstance(instances, list):
        raise DataError(f"{where}: `instances` is a list, got {_short(instances)}")
    for instance in instances:
        if not isinstance(instance, Mapping) or "output" not in instance:
            raise DataError(f"{where}: an instruction needs an `output`, got {_short(instance)}")
        given = instance.get("input") or ""
        question = f"{row['instruction']}\n\n{given}" if given else row["instruction"]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": instance["output"]}]
        yield Conversation(messages=checked_messages(messages, where), where=where)


def checked_messages(messages: object, where: str) -> tuple[Message, ...]:
    """Messages with known roles and text in the right order; what follows the last answer is dropped."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise DataError(f"{where}: a conversation is a list of messages, got {_short(messages)}")
    kept: list[Message] = []
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise DataError(f"{where}: a message has a role ({', '.join(ROLES)}), got {_short(message)}")
        if not isinstance(message.get("content"), str):
            raise DataError(f"{where}: the {role} message has no text in `content`: {_short(message)}")
        before = kept[-1]["role"] if kept else None
        if role == "system" and kept:
            raise DataError(f"{where}: a system message comes first or not at all")
        if role == before or (role == "assistant" and before != "user"):
            raise DataError(f"{where}: {role} after {before or 'nothing'}; user and assistant speak by turns")
        kept.append({"role": role, "content": message["content"]})
    while kept and kept[-1]["role"] != "assistant":
        kept.pop()
    if not kept:
        raise DataError(f"{where}: nobody answers; a conversation needs an assistant message")
    return tuple(kept)


def conversation_hash(messages: Sequence[Message]) -> str:
    """SHA-256 of who says what, in hexadecimal."""
    text = json.dumps([[each["role"], each["content"]] for each in messages], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


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
        found = _prompt_lines(text)
    elif (path := Path(name).expanduser()).suffix == ".txt" and path.is_file():
        try:
            found = _prompt_lines(read_text(path))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 (byte 0x{error.object[error.start]:02x}); convert it") from None
    elif path.suffix == ".jsonl":
        found = [_asked(value, where) for where, value in json_lines(data_file(path))]
    else:
        raise ConfigError(
            f"prompts {name!r}: no such file{did_you_mean(name, SHIPPED)}; give a .txt file (one a line), a .jsonl "
            f"file, or one of {', '.join(SHIPPED)}"
        )
    once = {tuple((m["role"], m["content"]) for m in prompt): prompt for prompt in found}
    if not once:
        raise DataError(f"{name}: no prompt in it")
    return list(once.values())


def _prompt_lines(text: str) -> list[Prompt]:
    return [({"role": "user", "content": line.strip()},) for line in text.splitlines() if line.strip()]


def _asked(value: object, where: str) -> Prompt:
    if isinstance(value, Mapping) and isinstance(asked := value.get("prompt", value.get("instruction")), str):
        given = value.get("input")
        return ({"role": "user", "content": f"{asked}\n\n{given}" if given else asked},)
    if isinstance(value, Mapping) and isinstance(messages := value.get("messages"), list):
        last = messages[-1] if messages else None
        waits = isinstance(last, Mapping) and last.get("role") == "user"
        answer = [{"role": "assistant", "content": "-"}] if waits else []
        return Conversation(messages=checked_messages([*messages, *answer], where), where=where).opening
    raise DataError(f"{where}: a prompt is a `prompt`, an `instruction` or `messages`")
