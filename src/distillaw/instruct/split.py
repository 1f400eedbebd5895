"""Which conversations train and which are held out, by a hash of how they open: never by where they stand in a file.

Conversations that open alike (the same system line and first question, answered differently) stay on one side, so no
question is trained on and held out; a file that grows or is shuffled keeps its sides.
"""

from collections.abc import Sequence

from distillaw.errors import DataError

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
