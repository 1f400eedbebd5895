"""What a store keeps of the teacher's distribution at a position: the estimator and its size. Torch-free.

    sampled   N equally spaced points with one random offset through the cumulative distribution; each id's weight is
              its share of the points. E[weight] = p exactly, weights sum to 1: the gradient is unbiased.
    top-k     the k most likely ids and their probabilities; the rest of the mass is one residual.
    top-p     the fewest ids that hold probability p (at most k of them), and the residual.
    full      the logits as they are, float32: for tiny vocabularies and tests of equivalence.

There is no renormalised top-k: its fixed point is the truncated distribution, over-confident by 1 / mass
(benchmarks/targets/estimators.py measures it).
"""

from dataclasses import asdict, dataclass

from distillaw.errors import ConfigError

KINDS = ("sampled", "top-k", "top-p", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """An estimator of the teacher's distribution, and the temperature it is taken at."""

    estimator: str = "sampled"
    samples: int = 32
    """N, points of `sampled`: 32 are more exact than 50 independent draws at every vocabulary measured."""
    k: int = 64
    """Ids of `top-k`, and the most ids of `top-p`."""
    p: float = 0.95
    """Probability that `top-p` keeps."""
    temperature: float = 1.0
    """The distribution stored is softmax(logits / temperature); `full` stores logits and ignores it."""

    def check(self, vocab_size: int) -> None:
        """Refuse what cannot be stored.

        Raises:
            ConfigError: an unknown estimator, or a number out of its range.
        """
        if self.estimator not in KINDS:
            raise ConfigError(f"--estimator {self.estimator!r} is not known; choose from {', '.join(KINDS)}")
        if not 1 <= self.samples <= 4096:
            raise ConfigError(f"--samples {self.samples}: give 1 to 4096 (32 is a good number)")
        if self.estimator in ("top-k", "top-p") and not 1 <= self.k <= min(vocab_size, 65535):
            raise ConfigError(f"--k {self.k}: give 1 to {vocab_size}, the vocabulary of the teacher")
        if not 0 < self.p <= 1:
            raise ConfigError(f"--p {self.p}: a probability above 0 and at most 1 is needed, e.g. 0.95")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"--temperature {self.temperature}: it must be positive and finite")
        if self.estimator == "full" and self.temperature != 1:
            raise ConfigError(
                "--estimator full stores logits, to which any temperature can be applied: leave --temperature at 1"
            )

    def record(self) -> dict[str, object]:
        """What the manifest says of it: only the numbers that this estimator uses."""
        used = {"sampled": ("samples",), "top-k": ("k",), "top-p": ("k", "p"), "full": ()}[self.estimator]
        return {
            key: value for key, value in asdict(self).items() if key in ("estimator", "temperature", *used)
        }

    def describe(self) -> str:
        """In words, for people."""
        words = {
            "sampled": f"{self.samples} systematic samples (unbiased)",
            "top-k": f"top-{self.k} with residual mass",
            "top-p": f"top-p {self.p:g} of at most {self.k} ids, with residual mass",
            "full": "full logits, float32",
        }[self.estimator]
        return words if self.temperature == 1 else f"{words} at temperature {self.temperature:g}"
