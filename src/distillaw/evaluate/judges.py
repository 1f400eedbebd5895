"""Who judges: a model behind an OpenAI-compatible URL, or one on this machine (judge_local.py). Torch-free.

A judge is asked with a conversation and the verdicts it may give, and answers in words. The key of a URL comes from the
environment, DISTILLAW_JUDGE_KEY, and is neither stored nor shown.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Protocol

from distillaw.errors import ConfigError, RunError

Messages = list[dict[str, str]]
KEY = "DISTILLAW_JUDGE_KEY"


class Judge(Protocol):
    """Anything that answers a conversation."""

    @property
    def identity(self) -> dict[str, object]:
        """What makes two judges the same; verdicts are kept by it."""
        ...

    def ask(self, messages: Messages, verdicts: Sequence[str]) -> str:
        """Its answer in words; `verdicts` are the ones it may give, for judges that choose rather than write."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlJudge:
    """A model behind an OpenAI-compatible URL, asked at temperature 0."""

    url: str
    """https://host/v1 or the whole .../chat/completions."""
    model: str
    timeout: float = 120.0
    """Seconds for one answer."""
    attempts: int = 6
    """Of one question, with pauses of `pause`, twice that, ... between."""
    pause: float = 1.0
    max_tokens: int = 1024
    say: Callable[[str], None] = lambda message: None

    @property
    def identity(self) -> dict[str, object]:
        """URL and model."""
        return {"url": self._endpoint(), "model": self.model, "max_tokens": self.max_tokens}

    def ask(self, messages: Messages, verdicts: Sequence[str]) -> str:
        """Its answer.

        Raises:
            RunError: unreachable, refusing, or answering something else than the protocol, after all attempts.
        """
        problem = ""
        for attempt in range(self.attempts):
            if attempt:
                wait = min(self.pause * 2 ** (attempt - 1), 60.0)
                self.say(f"judge: {problem}; once more in {wait:g} s")
                time.sleep(wait)
            try:
                return self._ask_once(messages)
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}"
                if error.code < 500 and error.code not in (408, 425, 429):
                    said = error.read(300).decode(errors="replace").strip()
                    raise RunError(
                        f"judge {self.url}: {problem}: {said}. {self._advice(error.code)}"
                    ) from None
            except urllib.error.URLError as error:  # refused, no such host
                problem = str(error.reason)
            except (OSError, HTTPException) as error:  # timed out, cut off
                problem = str(error) or type(error).__name__
            except (ValueError, KeyError, IndexError, TypeError) as error:
                problem = f"its reply is no chat completion ({type(error).__name__} {error})"
        raise RunError(
            f"judge {self.url}: no answer in {self.attempts} attempts, the last: {problem}. The verdicts so far are "
            "kept; the same command continues when the judge answers again"
        )

    def _ask_once(self, messages: Messages) -> str:
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._endpoint(), json.dumps(body).encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=self.timeout) as reply:
            content = json.loads(reply.read())["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise TypeError(f"content is {type(content).__name__}")
        return content

    def _endpoint(self) -> str:
        base = self.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"

    def _advice(self, code: int) -> str:
        if code in (401, 403):
            state = "set" if os.environ.get(KEY) else "not set"
            return f"Its key is read from the environment variable {KEY}, which is {state}"
        return "Check --judge (it ends in /v1 for most servers) and --judge-model"


def make_judge(
    judge: str, *, model: str | None, device: str, say: Callable[[str], None] = lambda message: None
) -> Judge:
    """The judge of a name.

    Args:
        judge: http(s)://..., or a model on this machine as `locate` takes it.
        model: the name that a URL's server knows; not for local ones.
        device: where a local one runs.
        say: told of attempts that failed.

    Raises:
        CacheError: no such model here.
        ConfigError: a URL without a model's name, or a local model without a chat template.
    """
    if judge.startswith(("http://", "https://")):
        if model is None:
            raise ConfigError(f"--judge {judge}: give --judge-model NAME, the model that server should use")
        return UrlJudge(url=judge, model=model, say=say)
    if "://" in judge:
        raise ConfigError(
            f"--judge {judge}: a URL begins with http:// or https://; else give a model's folder"
        )
    if model is not None:
        raise ConfigError(f"--judge-model {model}: only for a judge behind a URL; {judge} is a model itself")
    from distillaw.evaluate.judge_local import LocalJudge

    return LocalJudge.load(judge, device=device)
