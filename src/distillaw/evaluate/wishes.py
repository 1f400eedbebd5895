"""What is asked of a model's evaluation: on which text, in which way, judged by whom. The options of `evaluate`."""

from dataclasses import dataclass
from pathlib import Path

from distillaw.data.corpus import WHOLE, Excerpt, Reading, read_excerpt
from distillaw.errors import ConfigError

BINS = 21
"""Of equal width on [0, 1], as in Busbridge et al. 2025."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextWishes:
    """On what text a model is scored, and how."""

    text: str | Path
    """Held-out text: .txt, .jsonl or .parquet, a folder, `hub:owner/name`, `sotu`."""
    reading: Reading = WHOLE
    max_bytes: float | None = 2e6
    """UTF-8 bytes of text read at most, by whole documents chosen by hash: minutes of a small model on a CPU."""
    context: int | None = None
    """Tokens a window of text sees; default 1024 or what the models allow."""
    bins: int = BINS
    """Of the calibration error, of equal width."""

    def excerpt(self) -> Excerpt:
        """The documents that are scored."""
        if self.bins < 1:
            raise ConfigError(f"--bins {self.bins}: at least one; 21 is usual")
        return read_excerpt(self.text, self.reading, max_bytes=self.max_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How questions are put to a model."""

    chat: bool = False
    """Put questions through the tokenizer's chat template, examples as turns."""
    batch: int = 8
    """Sequences of a forward pass: a choice for memory, answers do not depend on it."""
    samples: int = 1
    """Programs written per HumanEval problem; above 1 they are drawn, for pass@k, else written greedily."""
    temperature: float = 0.8
    """At which they are drawn; that of Chen et al. 2021 for large k."""

    def __post_init__(self) -> None:
        """Refuse what cannot be; ConfigError: a number that is not above 0."""
        if self.samples < 1 or self.temperature <= 0 or self.batch < 1:
            raise ConfigError(
                f"--samples {self.samples}, --temperature {self.temperature}, --batch {self.batch}: all are above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatWishes:
    """Which questions a model answers, and who judges."""

    questions: Path
    """Chat questions in FastChat's format (.jsonl): Vicuna bench, MT-Bench."""
    judge: str
    """Who judges the answers: an OpenAI-compatible URL (key in DISTILLAW_JUDGE_KEY) or a model's folder."""
    judge_model: str | None = None
    """What the URL's server calls the model."""
    judge_seconds: float = 120.0
    """For one answer of a judge behind a URL; one that is silent is asked six times, then counted."""
    second_judge: str | None = None
    """Another judge of the same answers, as of --judge: says how far the two agree."""
    second_judge_model: str | None = None
    """What its server calls it."""
    judge_prompts: Path | None = None
    """FastChat's judge_prompts.jsonl instead of our own words."""
    against: str | Path | None = None
    """Another chat model, to be compared with pairwise in both orders; without it answers are graded, 1 to 10."""
    max_tokens: int = 512
    """Of a chat answer at most; FastChat writes up to 1,024."""
    limit: int | None = None
    """Questions at most, the same ones for every model."""

    @property
    def name(self) -> str:
        """Under which evaluation.json has it."""
        kind = f"{self.questions.resolve().parent.name}/{self.questions.stem}"
        return kind if self.against is None else f"{kind} against {self.against}"
