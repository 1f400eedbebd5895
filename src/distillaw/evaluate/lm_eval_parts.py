"""What we change of lm-evaluation-harness: a model that writes down every answer as it comes and asks nothing twice.

Imports lm_eval, which is an optional dependency and slow to import: only harness.py imports this file, inside its
function. A kill loses the chunk in work; the same evaluation continues behind it.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import metric_registry
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

from distillaw.errors import ConfigError
from distillaw.models.parallel import Ranks
from distillaw.runs.files import append_json_lines, content_hash, read_json_lines
from distillaw.runs.pace import Telling

WORTH = 0.7
"""Tokens of one row over those of its parts, at most: with more, long answers say, the mask costs what they save."""
CHUNK = 32
"""Requests between two writes."""
AGREE = 1e-3
"""Share of a log-probability within which one row says what several say: rounding, in bfloat16 as well."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Translates a template once: the harness asks for each again with every question, which takes milliseconds."""

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        """The template of a text."""
        known = self.__dict__.setdefault("translated", {})
        if args or kwargs or not isinstance(source, str):
            return super().from_string(source, *args, **kwargs)
        if source not in known:
            known[source] = super().from_string(source)
        return known[source]


@contextlib.contextmanager
def sandboxed(task: str) -> Iterator[None]:
    """Render templates as the harness does, but in jinja's sandbox: in its own environment they run any Python.

    It has no hook for that, so the one environment that its `apply_template` uses is replaced for the while.
    """
    theirs = utils.env
    utils.env = _Sandbox(undefined=theirs.undefined, keep_trailing_newline=True)
    utils.env.filters.update(theirs.filters)
    try:
        yield
    except TemplateError as error:
        raise ConfigError(
            f"task {task}: a template of its file cannot be rendered: {type(error).__name__}: {error}"
        ) from None
    finally:
        utils.env = theirs


def require_metrics(task: str, names: set[str]) -> None:
    """Refuse a metric that the harness would look for elsewhere, as a program of that name."""
    if unknown := sorted(name for name in names if name not in metric_registry):
        raise ConfigError(f"task {task}: lm-evaluation-harness has no metric {', '.join(unknown)}")


class QuietTask(ConfigurableTask):
    """A task that draws no bar while it builds its prompts, which takes a moment."""

    def build_all_requests(self, **settings: Any) -> None:
        """As the harness does."""
        with contextlib.redirect_stderr(io.StringIO()):
            super().build_all_requests(**settings)


class SharedContextLM(HFLM):
    """Reads a context once for all its continuations, which stand behind it in one row and do not see each other.

    A question of four answers is a row of context and answers where the harness has four of context and answer each.
    The mask that keeps answers apart is the model's to take: the first row is also read the harness's way, and where
    the two differ, or the model refuses the mask, so is everything.
    """

    _shares: bool | None = None

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        def plain(indices: list[int]) -> dict[int, tuple[float, bool]]:
            asked = [requests[i] for i in indices]
            found = super(SharedContextLM, self)._loglikelihood_tokens(asked, disable_tqdm, override_bs)
            return dict(zip(indices, found, strict=True))

        rows: dict[tuple[int, ...], list[int]] = {}
        for i, (_, context, _) in enumerate(requests):
            rows.setdefault(tuple(context), []).append(i)
        shared = {
            context: indices
            for context, indices in rows.items()
            if len(indices) > 1 and self._pays(context, [requests[i][2] for i in indices])
        }
        if shared and self._shares is None:
            self._shares = self._agrees(requests, next(iter(shared.values())), plain)
        if not self._shares:
            shared = {}
        answers = plain([i for context, indices in rows.items() if context not in shared for i in indices])
        todo = sorted(shared.items(), key=lambda row: -sum(len(requests[i][2]) for i in row[1]) - len(row[0]))
        for first in range(0, len(todo), int(self.batch_size)):
            answers |= self._read(requests, dict(todo[first : first + int(self.batch_size)]))
        return [answers[i] for i in range(len(requests))]

    def _pays(self, context: tuple[int, ...], continuations: list[list[int]]) -> bool:
        """Whether one row is clearly shorter, nothing would be cut off, and no window of attention moves over it."""
        apart = sum(len(context) + len(each) - 1 for each in continuations)
        if apart - (len(continuations) - 1) * len(context) > WORTH * apart:
            return False
        longest = len(context) + max(map(len, continuations)) - 1
        window = getattr(self.config, "sliding_window", None)
        return longest <= min(self.max_length, window or self.max_length)

    def _agrees(self, requests: list, indices: list[int], plain: Callable) -> bool:
        theirs = plain(indices)
        try:
            ours = self._read(requests, {tuple(requests[indices[0]][1]): indices})
        except (TypeError, ValueError, RuntimeError):  # no such mask in this model
            return False
        return all(abs(ours[i][0] - theirs[i][0]) <= AGREE * max(1.0, abs(theirs[i][0])) for i in indices)

    @torch.no_grad()
    def _read(self, requests: list, rows: dict[tuple[int, ...], list[int]]) -> dict[int, tuple[float, bool]]:
        """Answers of some rows in one pass: tokens and positions (B, L), mask (B, 1, L, L), logits (B, L, V)."""
        pieces = {context: [requests[i][2] for i in indices] for context, indices in rows.items()}
        length = max(len(c) + sum(len(each) - 1 for each in part) for c, part in pieces.items())
        tokens = torch.zeros(len(rows), length, dtype=torch.long)
        positions = torch.zeros_like(tokens)
        sees = torch.tril(torch.ones(length, length, dtype=torch.bool)).repeat(len(rows), 1, 1)
        places: list[tuple[int, int, list[int]]] = []
        for b, ((context, continuations), indices) in enumerate(zip(pieces.items(), rows.values(), strict=True)):
            start = len(context)
            tokens[b, :start] = torch.tensor(context)
            positions[b, :start] = torch.arange(start)
            end = start
            for i, continuation in zip(indices, continuations, strict=True):
                inner = len(continuation) - 1  # the last token is read off, not read
                tokens[b, end : end + inner] = torch.tensor(continuation[:-1], dtype=torch.long)
                positions[b, end : end + inner] = torch.arange(start, start + inner)
                sees[b, end:, start:end] = False  # what came before, for this one and all after it
                places.append((i, b, [start - 1, *range(end, end + inner)]))
                end += inner
        dtype = next(self.model.parameters()).dtype
        mask = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
        logits = self.model(
            tokens.to(self.device),
            attention_mask=mask[:, None].to(self.device),
            position_ids=positions.to(self.device),
            use_cache=False,
        ).logits
        answers = {}
        for i, b, at in places:
            scores = logits[b, at].log_softmax(-1)
            wanted = torch.tensor(requests[i][2], device=scores.device)
            total = scores.gather(1, wanted[:, None]).sum()
            answers[i] = (float(total), bool((scores.argmax(1) == wanted).all()))
        return answers


class RememberingLM(LM):
    """Answers from the file of a former attempt where it has them, else from the model, in chunks of like length."""

    def __init__(self, inner: HFLM, file: Path, *, name: str, say: Callable[[str], None], ranks: Ranks) -> None:
        super().__init__()
        self._inner, self._file, self._name, self._say, self._ranks = inner, file, name, say, ranks
        self._known = ranks.told(lambda: {str(row["key"]): row["answer"] for row in read_json_lines(file)})
        self.truncated: set[str] = set()
        """Contexts that the model cannot hold whole."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, nats, and whether it is the greedy one."""
        return [(float(a[0]), bool(a[1])) for a in self._answers("loglikelihood", requests)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What the model writes after each prompt."""
        return [str(answer) for answer in self._answers("generate_until", requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-probability of whole texts, nats."""
        return [float(answer) for answer in self._answers("loglikelihood_rolling", requests)]

    @property
    def tokenizer_name(self) -> str:
        """Of the model."""
        return self._inner.tokenizer_name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """By the model's tokenizer."""
        return self._inner.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)

    def _answers(self, kind: str, requests: list[Instance]) -> list:
        keys = _keys(kind, requests)
        for request in requests:
            self._measure(kind, request)
        missing = [i for i, key in enumerate(keys) if key not in self._known]
        missing.sort(key=lambda i: (-len(str(requests[i].args[0])), str(requests[i].args[0])))
        before = len(requests) - len(missing)
        self._say(f"{self._name}: {len(requests)} requests" + (f", {before} answered before" if before else ""))
        progress = Telling(self._name, len(missing), "requests", self._say)
        chunks = [missing[first : first + CHUNK] for first in range(0, len(missing), CHUNK)]
        for part, counts in self._ranks.rounds(chunks):
            answers = self._answer(kind, requests, keys, part) if counts else {}
            every = {key: each for some in self._ranks.gathered(answers) for key, each in some.items()}
            rows = [{"key": key, "answer": each} for key, each in every.items()]
            self._ranks.first(partial(append_json_lines, self._file, rows))
            self._known |= every
            progress.advance(len(every))
        return [self._known[key] for key in keys]

    def _answer(self, kind: str, requests: list[Instance], keys: list[str], part: list[int]) -> dict[str, Any]:
        # sampled answers do not depend on where a kill fell, nor on who is asked
        torch.manual_seed(int(keys[part[0]][:8], 16))
        found = getattr(self._inner, kind)([requests[i] for i in part], disable_tqdm=True)
        return {keys[i]: answer for i, answer in zip(part, found, strict=True)}

    def _measure(self, kind: str, request: Instance) -> None:
        """Note a prompt that will be cut off on the left."""
        context = text = str(request.args[0])
        room, arguments = self._inner.max_length, request.args[1] if len(request.args) > 1 else ""
        if kind == "generate_until":
            room -= int(arguments.get("max_gen_toks", self._inner.max_gen_toks))  # type: ignore[union-attr]
        else:
            text += str(arguments)
        if context in self.truncated or len(text.encode()) <= room:  # a token has at least one byte
            return
        if len(self._inner.tok_encode(text)) > room:
            self.truncated.add(context)


def _keys(kind: str, requests: list[Instance]) -> list[str]:
    """Of each request; a prompt asked several times (samples) has one key per time."""
    times: Counter[str] = Counter()
    keys = []
    for request in requests:
        key = content_hash([kind, *request.args], digits=20)
        keys.append(f"{key}-{times[key]}")
        times[key] += 1
    return keys
