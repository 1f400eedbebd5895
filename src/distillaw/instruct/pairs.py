"""Preferences as data: a prompt, the answer that was chosen and the one that was not, read and masked.

    {"prompt": "..", "chosen": "..", "rejected": ".."}                     the prompt may be a list of messages
    {"messages": [..], "chosen": "..", "rejected": ".."}
    {"chosen": [.., {"role": "assistant", ..}], "rejected": [.., {"role": "assistant", ..}]}    the same prompt in both

An answer may be text or a list of one assistant message.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillaw.errors import DataError
from distillaw.instruct.conversations import (
    Conversation,
    Message,
    checked_messages,
    conversation_hash,
    json_lines,
)
from distillaw.instruct.masks import Masker
from distillaw.instruct.prepare import Account, Example, check_account
from distillaw.instruct.split import held_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers to one prompt."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    where: str

    def conversation(self, answer: str) -> Conversation:
        """The prompt with one of them."""
        said = (*self.prompt, {"role": "assistant", "content": answer})
        return Conversation(messages=said, where=self.where)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedPair:
    """Token ids of a pair; each answer ends with the end token."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    opening: str
    """Hash of the prompt."""

    def example(self, answer: Sequence[int]) -> Example:
        """The prompt with one answer, which alone is scored."""
        mask = (*[False] * len(self.prompt), *[True] * len(answer))
        return Example(ids=(*self.prompt, *answer), mask=mask, opening=self.opening)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSides:
    """Pairs to train on and to score."""

    train: tuple[MaskedPair, ...]
    heldout: tuple[MaskedPair, ...]
    account: Account


def read_pairs(file: str | Path) -> Iterator[Pair]:
    """The pairs of a .jsonl file.

    Raises:
        ConfigError: no such file, or not a .jsonl file.
        DataError: a line that is no pair.
    """
    for where, row in json_lines(file):
        if not isinstance(row, Mapping) or not {"chosen", "rejected"} <= set(row):
            found = sorted(row) if isinstance(row, Mapping) else type(row).__name__
            raise DataError(
                f"{where}: a pair has `chosen` and `rejected`, and `prompt` or `messages`; found {found}"
            )
        chosen_before, chosen = _answer(row["chosen"], f"{where}, chosen")
        rejected_before, rejected = _answer(row["rejected"], f"{where}, rejected")
        asked = row.get("prompt", row.get("messages"))
        if asked is None and chosen_before != rejected_before:
            raise DataError(f"{where}: the two answers follow different prompts")
        yield Pair(prompt=_prompt(chosen_before if asked is None else asked, where), chosen=chosen, rejected=rejected,
                   where=where)  # fmt: skip


def _answer(value: object, where: str) -> tuple[list[object], str]:
    """(what stands before the answer, the answer)."""
    if isinstance(value, str):
        return [], value
    messages = value if isinstance(value, list) else []
    last = messages[-1] if messages else None
    if isinstance(last, Mapping) and last.get("role") == "assistant" and isinstance(last.get("content"), str):
        return messages[:-1], last["content"]
    raise DataError(f"{where}: an answer is text, or a list of messages that ends with the assistant's")


def _prompt(asked: object, where: str) -> tuple[Message, ...]:
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: no prompt; give `prompt` (text or messages) or `messages`")
    return checked_messages([*messages, {"role": "assistant", "content": "-"}], where)[:-1]


def prepare_pairs(pairs: Iterator[Pair], masker: Masker, *, max_tokens: int, validation: float) -> PairSides:
    """Mask and split pairs by their prompts.

    Args:
        pairs: as read.
        masker: under the model's tokenizer and template.
        max_tokens: longest prompt with its answer; pairs beyond are left out, for to cut is to judge another.
        validation: share of prompts that is held out.

    Raises:
        DataError: nothing usable, more than one pair in twenty fails, or too few to hold any out.
    """
    masked, account = [], Account(noun="pairs")
    for pair in pairs:
        account.read += 1
        if pair.chosen.strip() == pair.rejected.strip():
            account.skipped["both answers are the same"] += 1
        elif not (pair.chosen.strip() and pair.rejected.strip()):
            account.skipped["an answer is empty"] += 1
        elif (found := _masked(pair, masker, account)) is not None:
            if len(found.prompt) + max(len(found.chosen), len(found.rejected)) > max_tokens:
                account.skipped[f"longer than {max_tokens:,} tokens"] += 1
            else:
                masked.append(found)
    check_account(account, len(masked), max_tokens)
    sides = held_out([each.opening for each in masked], validation)
    return PairSides(
        train=tuple(p for p, held in zip(masked, sides, strict=True) if not held),
        heldout=tuple(p for p, held in zip(masked, sides, strict=True) if held), account=account,
    )  # fmt: skip


def _masked(pair: Pair, masker: Masker, account: Account) -> MaskedPair | None:
    try:
        prompt, chosen = _split_ids(pair.conversation(pair.chosen), masker)
        other, rejected = _split_ids(pair.conversation(pair.rejected), masker)
        if prompt != other:
            raise DataError(
                f"{pair.where}: the template writes the prompt differently before the two answers"
            )
    except DataError as error:
        account.bad(error)
        return None
    return MaskedPair(prompt=prompt, chosen=chosen, rejected=rejected, opening=conversation_hash(pair.prompt))


def _split_ids(conversation: Conversation, masker: Masker) -> tuple[tuple[int, ...], tuple[int, ...]]:
    masked = masker.mask(conversation)
    last = masked.turns[-1]
    return tuple(masked.ids[: last.start]), tuple(masked.ids[last.start : last.end])
