"""From conversations and preferences to examples: masked, cut to length, split, with an account of what is left out.

    {"prompt": "..", "chosen": "..", "rejected": ".."}                     the prompt may be a list of messages
    {"messages": [..], "chosen": "..", "rejected": ".."}
    {"chosen": [.., {"role": "assistant", ..}], "rejected": [.., {"role": "assistant", ..}]}    the same prompt in both

One bad conversation does not end a run: it is left out, counted, and the first of its kind is named. Where more than
one in twenty fails, file and template do not belong together, and that is an error. What is held out is decided by a
hash of how conversations open, never by where they stand in a file: those that open alike (the same system line and
first question, answered differently) stay on one side, and a file that grows or is shuffled keeps its sides.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from distillaw.data.corpus import json_lines
from distillaw.errors import DataError
from distillaw.instruct.conversations import Conversation, Message, checked_messages, conversation_hash, data_file
from distillaw.instruct.masks import Masked, Masker

FEWEST = 2
"""Held-out conversations: a standard error needs two."""


def held_out(hashes: Sequence[str], share: float) -> list[bool]:
    """Whether each conversation is held out.

    Args:
        hashes: hexadecimal SHA-256 of each conversation's opening, shape (n,).
        share: of all openings, between 0 and 1; where it yields fewer than two, the two lowest hashes go.

    Raises:
        DataError: fewer than three different openings.
    """
    different = sorted(set(hashes))
    if len(different) <= FEWEST:
        raise DataError(
            f"{len(different)} conversations that open differently: {FEWEST} are held out and at least one trains; "
            "give more data"
        )
    bound = max(int(share * 2.0**64), int(different[FEWEST - 1][:16], 16))
    if int(different[-1][:16], 16) <= bound:  # a share of nearly all: one opening is left to train on
        bound = int(different[-2][:16], 16)
    return [int(each[:16], 16) <= bound for each in hashes]


MOST_BAD = 0.05
"""Share of conversations that may fail before the whole is refused."""
_BAD = "cannot be rendered or masked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A conversation ready to train on or to score."""

    ids: tuple[int, ...]
    """Tokens up to the end of the last answer."""
    mask: tuple[bool, ...]
    """Whether each is the assistant's; never the first."""
    opening: str
    """Hash of what stands before the first answer."""

    @property
    def answer_tokens(self) -> int:
        """Tokens that are learnt."""
        return sum(self.mask)


@dataclass(slots=True, kw_only=True)
class Account:
    """What became of the conversations of a file."""

    noun: str = "conversations"
    read: int = 0
    shortened: int = 0
    """Lost trailing turns to fit."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Left out, by reason."""
    first_bad: str | None = None
    """The first that could not be rendered or masked, and why."""

    def bad(self, error: Exception) -> None:
        """Count one that could not be rendered or masked."""
        self.skipped[_BAD] += 1
        self.first_bad = self.first_bad or str(error)

    def as_record(self) -> dict[str, object]:
        """For result.json."""
        counted = {"read": self.read, "shortened": self.shortened, "skipped": dict(self.skipped)}
        return {**counted, "first_bad": self.first_bad}

    def __str__(self) -> str:
        """One line for people."""
        parts = [f"{self.read:,} {self.noun}"]
        if self.shortened:
            parts.append(f"{self.shortened:,} lost trailing turns to fit")
        parts += [f"{count:,} left out: {reason}" for reason, count in sorted(self.skipped.items())]
        if self.first_bad:
            parts.append(f"first of them: {self.first_bad}")
        return "; ".join(parts)


One = TypeVar("One", "Example", "MaskedPair")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides(Generic[One]):
    """Examples, or masked pairs, to train on and to score."""

    train: tuple[One, ...]
    heldout: tuple[One, ...]
    account: Account


def _divided(examples: Sequence[One], account: Account, max_tokens: int, validation: float) -> Sides[One]:
    """Both sides, unless too much of the file fails, or all is left out."""
    bad = account.skipped[_BAD]
    if bad > MOST_BAD * account.read:
        raise DataError(
            f"{bad} of {account.read} {account.noun} cannot be rendered or masked (at most {MOST_BAD:.0%} may); the "
            f"first: {account.first_bad}"
        )
    if not examples:
        raise DataError(f"nothing to train on: {account} (--max-tokens {max_tokens})")
    is_held = held_out([each.opening for each in examples], validation)
    pairs = list(zip(examples, is_held, strict=True))
    train, heldout = (tuple(each for each, held in pairs if held == side) for side in (False, True))
    return Sides(train=train, heldout=heldout, account=account)


def prepare_sides(
    conversations: Iterable[Conversation],
    masker: Masker,
    *,
    max_tokens: int,
    validation: float,
    keep_truncated: bool = False,
) -> Sides[Example]:
    """Mask, fit and split conversations.

    Args:
        max_tokens: longest example; longer conversations lose whole trailing turns.
        validation: share of openings that is held out.
        keep_truncated: learn answers that were cut off at a limit, too.
    """
    examples, account, seen = [], Account(), set()
    for conversation in conversations:
        account.read += 1
        whole = conversation_hash(conversation.messages)
        if conversation.truncated and not keep_truncated:
            account.skipped["answer cut off"] += 1
        elif any(each["role"] == "assistant" and not each["content"].strip() for each in conversation.messages):
            account.skipped["an answer is empty"] += 1
        elif whole in seen:
            account.skipped["said before, word for word"] += 1
        elif (example := _example(conversation, masker, max_tokens, account)) is not None:
            examples.append(example)
        seen.add(whole)
    return _divided(examples, account, max_tokens, validation)


def _example(conversation: Conversation, masker: Masker, max_tokens: int, account: Account) -> Example | None:
    try:
        masked, shortened = fit(conversation, masker, max_tokens)
    except DataError as error:
        account.bad(error)
        return None
    if masked is None:
        account.skipped[f"first answer ends beyond {max_tokens:,} tokens"] += 1
        return None
    account.shortened += shortened
    end = masked.turns[-1].end
    mask = masked.mask[:end]
    mask[0] = False  # nothing predicts the first token
    opening = conversation_hash(conversation.opening)
    return Example(ids=tuple(masked.ids[:end]), mask=tuple(mask), opening=opening)


def fit(conversation: Conversation, masker: Masker, max_tokens: int) -> tuple[Masked | None, bool]:
    """The conversation with as many whole turns as fit, and whether any were lost; None where not even one fits.

    A shortened conversation is rendered anew, since templates may write the last turn differently.
    """
    masked = masker.mask(conversation)
    shortened = False
    while masked.turns[-1].end > max_tokens:
        kept = sum(turn.end <= max_tokens for turn in masked.turns[:-1])
        if not kept:
            return None, False
        answers = [i for i, each in enumerate(conversation.messages) if each["role"] == "assistant"]
        messages, shortened = conversation.messages[: answers[kept - 1] + 1], True
        conversation = Conversation(messages=messages, where=conversation.where)
        masked = masker.mask(conversation)
    return masked, shortened


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


PairSides: TypeAlias = Sides[MaskedPair]


def read_pairs(file: str | Path) -> Iterator[Pair]:
    """The pairs of a .jsonl file.

    Raises:
        ConfigError: no such file, or not a .jsonl file.
        DataError: a line that is no pair.
    """
    for where, row in json_lines(data_file(file)):
        if not isinstance(row, Mapping) or not {"chosen", "rejected"} <= set(row):
            found = sorted(row) if isinstance(row, Mapping) else type(row).__name__
            raise DataError(f"{where}: a pair has `chosen` and `rejected`, and `prompt` or `messages`; found {found}")
        chosen_before, chosen = _answer(row["chosen"], f"{where}, chosen")
        rejected_before, rejected = _answer(row["rejected"], f"{where}, rejected")
        asked = row.get("prompt", row.get("messages"))
        if asked is None and chosen_before != rejected_before:
            raise DataError(f"{where}: the two answers follow different prompts")
        messages = chosen_before if asked is None else asked
        messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        if not isinstance(messages, list) or not messages:
            raise DataError(f"{where}: no prompt; give `prompt` (text or messages) or `messages`")
        prompt = checked_messages([*messages, {"role": "assistant", "content": "-"}], where)[:-1]
        yield Pair(prompt=prompt, chosen=chosen, rejected=rejected, where=where)


def _answer(value: object, where: str) -> tuple[list[object], str]:
    """(what stands before the answer, the answer)."""
    if isinstance(value, str):
        return [], value
    messages = value if isinstance(value, list) else []
    last = messages[-1] if messages else None
    if isinstance(last, Mapping) and last.get("role") == "assistant" and isinstance(last.get("content"), str):
        return messages[:-1], last["content"]
    raise DataError(f"{where}: an answer is text, or a list of messages that ends with the assistant's")


def prepare_pairs(pairs: Iterator[Pair], masker: Masker, *, max_tokens: int, validation: float) -> PairSides:
    """Mask and split pairs by their prompts.

    Args:
        max_tokens: longest prompt with its answer; pairs beyond are left out, for to cut is to judge another.
        validation: share of prompts that is held out.
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
    return _divided(masked, account, max_tokens, validation)


def _masked(pair: Pair, masker: Masker, account: Account) -> MaskedPair | None:
    try:
        prompt, chosen = _split_ids(pair.conversation(pair.chosen), masker)
        other, rejected = _split_ids(pair.conversation(pair.rejected), masker)
        if prompt != other:
            raise DataError(f"{pair.where}: the template writes the prompt differently before the two answers")
    except DataError as error:
        account.bad(error)
        return None
    return MaskedPair(prompt=prompt, chosen=chosen, rejected=rejected, opening=conversation_hash(pair.prompt))


def _split_ids(conversation: Conversation, masker: Masker) -> tuple[tuple[int, ...], tuple[int, ...]]:
    masked = masker.mask(conversation)
    last = masked.turns[-1]
    return tuple(masked.ids[: last.start]), tuple(masked.ids[last.start : last.end])
