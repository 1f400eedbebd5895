"""Several corpora as one, each with a share of the bytes: `mix:0.7*books.parquet + 0.3*zh.jsonl`. Torch-free."""

import math
from collections.abc import Iterator, Sequence

from distillaw.errors import ConfigError

PREFIX = "mix:"


def parse_mixture(corpus: str) -> list[tuple[float, str]]:
    """The (share, corpus) pairs of a mixture, shares of sum 1; of any other corpus it alone.

    Raises:
        ConfigError: a part without a positive weight or without a corpus, or a mixture of one.
    """
    if not corpus.startswith(PREFIX):
        return [(1.0, corpus)]
    parts = []
    for part in corpus.removeprefix(PREFIX).split(" + "):
        weight, star, name = (each.strip() for each in part.partition("*"))
        try:
            share = float(weight)
        except ValueError:
            share = math.nan
        if not star or not name or name.startswith(PREFIX) or not 0 < share < math.inf:
            raise ConfigError(
                f"corpus {corpus!r}: {part.strip()!r} is no part of a mixture; write WEIGHT*CORPUS, joined by ' + ', "
                "e.g. 'mix:0.7*books.parquet + 0.3*zh.jsonl'"
            )
        parts.append((share, name))
    if len(parts) < 2:
        raise ConfigError(f"corpus {corpus!r}: a mixture has at least two parts, joined by ' + '")
    total = sum(share for share, _ in parts)
    return [(share / total, name) for share, name in parts]


def interleave(sources: Sequence[tuple[float, Iterator[str]]]) -> Iterator[str]:
    """Documents of several sources in turn, so that every prefix has the shares to within a document.

    The next document is always of the source that is furthest behind its share of UTF-8 bytes; the first source that
    ends ends the mixture, so nothing is repeated, and of the others the first documents are taken.

    Args:
        sources: (share, documents) of each.
    """
    read = [0.0] * len(sources)
    while True:
        behind = min(range(len(sources)), key=lambda i: read[i] / sources[i][0])
        text = next(sources[behind][1], None)
        if text is None:
            return
        read[behind] += len(text.encode())
        yield text
