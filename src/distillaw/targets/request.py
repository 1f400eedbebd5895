"""What a user asks a store to be, checked against the text before torch or a teacher is loaded."""

from dataclasses import dataclass

from distillaw.data.shards import Split, TokenStore
from distillaw.errors import ConfigError, DataError
from distillaw.targets.scheme import Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A store that is wanted."""

    scheme: Scheme
    split: str = "student"
    context: int = 128
    tokens: int | None = None
    """Cover the first tokens of a data order only; None covers the split."""
    order_seed: int = 0
    seed: int = 0
    shard_bytes: int = 64_000_000

    def open_split(self, data: TokenStore) -> Split:
        """The text it is about, as windows.

        Raises:
            ConfigError: no such split, or a number out of its range.
            DataError: the split has no window of that context, or fewer tokens than asked for.
        """
        self.scheme.check(int(str(data.manifest["vocab_size"])))
        splits = data.manifest["splits"]
        assert isinstance(splits, dict)
        if self.split not in splits:
            raise ConfigError(f"--split {self.split!r}: {data.folder} has {', '.join(sorted(splits))}")
        if self.context < 1 or self.shard_bytes < 1 or self.seed < 0 or self.order_seed < 0:
            raise ConfigError(
                "--context and --shard-mb must be positive, --seed and --order-seed not negative"
            )
        split = data.split(self.split, context=self.context)
        wanted, available = self.num_windows(split), split.num_windows
        if not 1 <= wanted <= available:
            raise DataError(
                f"{data.folder}: the {self.split} split has {available} windows of {self.context} tokens "
                f"({split.num_tokens} tokens), {wanted} are asked for. Lower --tokens or --context, or add text"
            )
        return split

    def num_windows(self, split: Split) -> int:
        """Windows it covers."""
        return split.num_windows if self.tokens is None else -(-self.tokens // self.context)
