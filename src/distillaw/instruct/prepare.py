"""From a file of conversations to examples: masked, cut to length, split, with an account of what was left out.

One bad conversation does not end a run: it is left out, counted, and the first of its kind is named. Where more than
one in twenty fails, file and template do not belong together, and that is an error.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from distillaw.errors import DataError
from distillaw.instruct.conversations import Conversation, conversation_hash
from distillaw.instruct.masks import Masked, Masker
from distillaw.instruct.split import held_out

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
        return {"read": self.read, "shortened": self.shortened, "skipped": dict(self.skipped),
                "first_bad": self.first_bad}  # fmt: skip

    def __str__(self) -> str:
        """One line for people."""
        parts = [f"{self.read:,} {self.noun}"]
        if self.shortened:
            parts.append(f"{self.shortened:,} lost trailing turns to fit")
        parts += [f"{count:,} left out: {reason}" for reason, count in sorted(self.skipped.items())]
        if self.first_bad:
            parts.append(f"first of them: {self.first_bad}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Examples to train on and to score."""

    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    account: Account


def prepare_sides(
    conversations: Iterable[Conversation],
    masker: Masker,
    *,
    max_tokens: int,
    validation: float,
    keep_truncated: bool = False,
) -> Sides:
    """Mask, fit and split conversations.

    Args:
        conversations: as read.
        masker: under the model's tokenizer and template.
        max_tokens: longest example; longer conversations lose whole trailing turns.
        validation: share of openings that is held out.
        keep_truncated: learn answers that were cut off at a limit, too.

    Raises:
        DataError: nothing usable, more than one conversation in twenty fails, or too few to hold any out.
    """
    examples, account, seen = [], Account(), set()
    for conversation in conversations:
        account.read += 1
        whole = conversation_hash(conversation.messages)
        if conversation.truncated and not keep_truncated:
            account.skipped["answer cut off"] += 1
        elif any(
            each["role"] == "assistant" and not each["content"].strip() for each in conversation.messages
        ):
            account.skipped["an answer is empty"] += 1
        elif whole in seen:
            account.skipped["said before, word for word"] += 1
        elif (example := _example(conversation, masker, max_tokens, account)) is not None:
            examples.append(example)
        seen.add(whole)
    check_account(account, len(examples), max_tokens)
    sides = held_out([each.opening for each in examples], validation)
    return Sides(
        train=tuple(e for e, held in zip(examples, sides, strict=True) if not held),
        heldout=tuple(e for e, held in zip(examples, sides, strict=True) if held),
        account=account,
    )


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
    return Example(
        ids=tuple(masked.ids[:end]), mask=tuple(mask), opening=conversation_hash(conversation.opening)
    )


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
        conversation, shortened = _first_answers(conversation, kept), True
        masked = masker.mask(conversation)
    return masked, shortened


def _first_answers(conversation: Conversation, count: int) -> Conversation:
    places = [i for i, each in enumerate(conversation.messages) if each["role"] == "assistant"]
    return Conversation(messages=conversation.messages[: places[count - 1] + 1], where=conversation.where)


def check_account(account: Account, usable: int, max_tokens: int) -> None:
    """Refuse a file of which too much fails, or all is left out.

    Raises:
        DataError: naming the first that failed.
    """
    bad = account.skipped[_BAD]
    if bad > MOST_BAD * account.read:
        raise DataError(
            f"{bad} of {account.read} {account.noun} cannot be rendered or masked (at most {MOST_BAD:.0%} may); the "
            f"first: {account.first_bad}"
        )
    if not usable:
        raise DataError(f"nothing to train on: {account} (--max-tokens {max_tokens})")
