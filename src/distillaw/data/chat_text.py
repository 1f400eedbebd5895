"""Conversations rendered and tokenised so that text is text: what a message spells (`<|im_end|>`) is characters.

A tokenizer takes any spelling of a special token for the token, and a rendered conversation no longer tells what the
template wrote from what a user did. So before rendering such spellings in messages are replaced by signs that no text
contains; afterwards they are put back and their places kept. The template's own tokens cut the text, as they do in any
tokenizer, and what lies between them is tokenised with special tokens switched off.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPEN, _CLOSE = "\ue0f2", "\ue0f3"
_SIGN = re.compile(f"{_OPEN}([0-9a-f]+){_CLOSE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The text of a conversation."""

    text: str
    spelt: tuple[tuple[int, int], ...]
    """Characters [first, last) of each special token that a message only spells."""


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Id of every special token by its spelling."""
    found = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return found | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def special_pattern(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str]:
    """Finds spellings of special tokens, the longest first; never where there is none."""
    longest_first = sorted(special_tokens(tokenizer), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def render_chat(
    control: re.Pattern[str],
    messages: Sequence[Mapping[str, str]],
    render: Callable[[list[dict[str, str]]], str],
) -> Rendered:
    """Messages through a template.

    Args:
        control: of `special_pattern`.
        messages: with `role` and `content`.
        render: the template.
    """
    hidden = [
        {
            **each,
            "content": control.sub(
                lambda found: f"{_OPEN}{found[0].encode().hex()}{_CLOSE}", each["content"]
            ),
        }
        for each in messages
    ]
    parts = _SIGN.split(render(hidden))
    text, spelt = parts[0], []
    for spelling, after in zip(parts[1::2], parts[2::2], strict=True):
        first = len(text)
        text += bytes.fromhex(spelling).decode()
        spelt.append((first, len(text)))
        text += after
    return Rendered(text=text, spelt=tuple(spelt))


def encode_chat(
    tokenizer: "PreTrainedTokenizerBase", control: re.Pattern[str], chat: Rendered
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids, and the characters of each (none where the tokenizer is a slow one)."""
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []

    def write(first: int, last: int, *, as_text: bool) -> None:
        if first == last:
            return
        encoded = tokenizer(
            chat.text[first:last], add_special_tokens=False, split_special_tokens=as_text, verbose=False,
            return_offsets_mapping=tokenizer.is_fast,
        )  # fmt: skip
        ids.extend(encoded["input_ids"])
        offsets.extend((first + begin, first + end) for begin, end in encoded.get("offset_mapping", ()))

    if not chat.spelt:
        write(0, len(chat.text), as_text=False)
        return ids, offsets
    place = 0
    for found in control.finditer(chat.text):
        first, last = found.span()
        if not any(begin < last and first < end for begin, end in chat.spelt):
            write(place, first, as_text=True)
            write(first, last, as_text=False)
            place = last
    write(place, len(chat.text), as_text=True)
    return ids, offsets
