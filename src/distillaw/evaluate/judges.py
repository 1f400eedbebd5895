"""Who chats and who judges: a model on this machine, or a judge behind an OpenAI-compatible URL.

A judge is asked with a conversation and the verdicts it may give. One on this machine gives the likeliest of them; one
behind a URL answers in words. The key of a URL comes from the environment, DISTILLAW_JUDGE_KEY, and is neither stored
nor shown, nor sent to any other address: redirects are not followed. A server is not trusted: its whole answer has a
deadline and a size, and may be garbage of any kind.
"""

import copy
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import torch

from distillaw.data.tokenizer import encode_chat, render_chat, special_pattern
from distillaw.errors import ConfigError, RunError
from distillaw.models.source import ModelSource, context_of, fingerprint, locate
from distillaw.models.teacher import check_speaks, continued, load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Messages = list[dict[str, str]]

VERDICT = "My verdict is: "
"""What the judge is made to say before its verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatModel:
    """A model with a chat template, in eval mode; as a judge it gives the likeliest verdict, which always parses."""

    name: str
    fingerprint: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"

    @classmethod
    def load(cls, name: str | ModelSource, *, device: str) -> "ChatModel":
        """Load a model that can chat.

        Raises:
            CacheError: no such model.
            ConfigError: no chat template.
            DivergedError: its probabilities are not finite.
        """
        source = locate(name)
        tokenizer = _chatting(source)
        where = torch.device(device)
        model = load_weights(source, where, torch.float32 if where.type == "cpu" else torch.bfloat16)
        chat = cls(name=source.name, fingerprint=fingerprint(source), model=model, tokenizer=tokenizer)
        check_speaks(model, chat.prompt([{"role": "user", "content": "Hello"}])[0].tolist(), source.name)
        return chat

    def prompt(self, messages: Messages) -> torch.Tensor:
        """Token ids up to where the model speaks, shape (1, T); a template without a system turn gets it merged."""
        try:
            ids = self._ids(messages)
        except Exception:  # templates refuse with exceptions of jinja's own
            if messages[0]["role"] != "system" or len(messages) < 2:
                raise
            joined = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
            ids = self._ids([joined, *messages[2:]])
        return torch.tensor([ids], device=self.model.device)

    def _ids(self, messages: Messages) -> list[int]:
        """What a message spells like a special token stays text: an answer that is judged cannot end its turn."""
        control, render = special_pattern(self.tokenizer), self.tokenizer.apply_chat_template
        chat = render_chat(
            control, messages, lambda hidden: str(render(hidden, tokenize=False, add_generation_prompt=True))
        )
        return encode_chat(self.tokenizer, control, chat)[0]

    @torch.no_grad()
    def write(self, conversations: Sequence[Messages], *, max_tokens: int) -> list[tuple[str, bool]]:
        """Its greedy answer to each, and whether it ended by itself; written side by side, padded on the left.

        What does not fit is cut from a conversation's start.
        """
        prompts = [self._fitted(self.prompt(messages), max_tokens)[0].tolist() for messages in conversations]
        own = getattr(self.model.generation_config, "eos_token_id", None)
        known = [self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
        ends = [token for token in dict.fromkeys(known) if token is not None]
        pad = self.tokenizer.pad_token_id
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        greedy |= {"max_new_tokens": max_tokens, "pad_token_id": next(iter(ends), 0) if pad is None else pad}
        made = continued(self.model, prompts, ends, **greedy)
        texts = [str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip() for tokens, _ in made]
        return [(text, not is_cut) for text, (_, is_cut) in zip(texts, made, strict=True)]

    @property
    def identity(self) -> dict[str, object]:
        """As a judge: its weights, and that it chooses."""
        return {"model": self.fingerprint, "by": "likelihood"}

    @torch.no_grad()
    def ask(self, messages: Messages, verdicts: Sequence[str]) -> str:
        """The likeliest of some continuations of VERDICT, by the log-probability of all its tokens; else nothing."""
        lead = self.tokenizer(VERDICT, add_special_tokens=False, return_tensors="pt")["input_ids"]
        options = [self.tokenizer(each, add_special_tokens=False)["input_ids"] for each in verdicts]
        longest = max(map(len, options))
        prefix = self._fitted(torch.cat([self.prompt(messages), lead.to(self.model.device)], 1), longest)
        read = self.model(input_ids=prefix, use_cache=True, logits_to_keep=1)
        cache, scores = getattr(read, "past_key_values", None), []
        for ids in options:
            option, logits = torch.tensor([ids], device=prefix.device), read.logits[0, -1:]
            if len(ids) > 1:
                seen = {"input_ids": torch.cat([prefix, option[:, :-1]], 1)}
                if cache is not None:  # which grows with what is read
                    seen = {"input_ids": option[:, :-1], "past_key_values": copy.deepcopy(cache)}
                logits = torch.cat([logits, self.model(**seen).logits[0, 1 - len(ids) :]])
            scores.append(torch.log_softmax(logits.float(), -1).gather(-1, option[0][:, None]).sum())
        found = torch.stack(scores)
        return verdicts[int(found.argmax())] if found.isfinite().all() else ""

    def _fitted(self, ids: torch.Tensor, reserve: int) -> torch.Tensor:
        limit = context_of(self.model.config)
        room = ids.shape[1] if limit is None else limit - reserve
        if room < 1:
            raise ConfigError(f"{self.name}: its context of {limit} tokens leaves no room for an answer of {reserve}")
        return ids[:, -room:]


KEY = "DISTILLAW_JUDGE_KEY"
SECONDS = 120.0
"""For one answer of a server; a choice."""
MOST_BYTES = 4 << 20
"""Of one answer; a verdict has a few kilobytes."""


class SilentJudgeError(RunError):
    """A server is there, and what it says to a question is late, cut off or no answer, at every attempt."""


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
    timeout: float = SECONDS
    """Seconds for one answer, from the connection to its last byte."""
    attempts: int = 6
    """Of one question, with pauses of `pause`, twice that, ... between."""
    pause: float = 1.0
    max_tokens: int = 1024
    say: Callable[[str], None] = lambda message: None

    @property
    def identity(self) -> dict[str, object]:
        """URL, with its end where that is left out, and model."""
        url = f"{self.url.rstrip('/').removesuffix('/chat/completions')}/chat/completions"
        return {"url": url, "model": self.model, "max_tokens": self.max_tokens}

    def ask(self, messages: Messages, verdicts: Sequence[str]) -> str:
        """Its answer.

        Raises:
            ConfigError: a key that cannot be sent.
            RunError: unreachable, or refusing.
            SilentJudgeError: late, cut off, or answering something else than the protocol, at every attempt.
        """
        problem, kind = "", RunError
        for attempt in range(self.attempts):
            if attempt:
                wait = min(self.pause * 2 ** (attempt - 1), 60.0)
                self.say(f"judge: {problem}; once more in {wait:g} s")
                time.sleep(wait)
            kind = SilentJudgeError
            try:
                return self._ask_once(messages)
            except _RefusedError as error:
                problem = f"HTTP {error.code} {error.reason}"
                if error.code < 500 and error.code not in (408, 425, 429):
                    raise RunError(f"judge {self.url}: {problem}: {_advice(error)}") from None
            except ConfigError:
                raise
            except TimeoutError:
                problem = f"no whole answer within {self.timeout:g} s"
            except urllib.error.URLError as error:  # refused, no such host
                problem, kind = str(error.reason), RunError
            except (OSError, HTTPException) as error:  # cut off
                problem = str(error) or type(error).__name__
            except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
                problem = f"its reply is no chat completion ({type(error).__name__} {str(error)[:200]})"
        raise kind(
            f"judge {self.url}: no answer in {self.attempts} attempts, the last: {problem}. The verdicts so far are "
            "kept; the same command continues when the judge answers again"
        )

    def _ask_once(self, messages: Messages) -> str:
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}
        headers = {"Content-Type": "application/json"}
        if key := _key():
            headers["Authorization"] = f"Bearer {key}"
        url = str(self.identity["url"])
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        content = json.loads(_fetch(request, self.timeout))["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise TypeError(f"content is {type(content).__name__}")
        return content.encode(errors="replace").decode()  # JSON may hold halves of characters, files may not


@dataclass(eq=False)
class _RefusedError(Exception):
    """An answer with a code that is no success."""

    code: int
    reason: str
    said: str
    location: str


def _advice(error: _RefusedError) -> str:
    if 300 <= error.code < 400:
        return (
            f"it redirects to {error.location!r}, which is not followed, since it would get the key and the answers; "
            "if that is the judge, give it as --judge"
        )
    if error.code in (401, 403):
        state = "set" if _key() else "not set"
        return f"{error.said}. Its key is read from the environment variable {KEY}, which is {state}"
    return f"{error.said}. Check --judge (it ends in /v1 for most servers) and --judge-model"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes every redirect an HTTPError: urllib would repeat the key to wherever it points."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """To nowhere."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def _key() -> str | None:
    """The key for the judge."""
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):  # http.client would show it while refusing it
        raise ConfigError(f"{KEY} holds a line break or a letter that no header may hold; set it again")
    return key or None


def _fetch(request: urllib.request.Request, seconds: float) -> bytes:
    """The body of the answer; in a thread, since a socket's timeout begins anew with every byte that drips."""
    future: Future[bytes] = Future()

    def work() -> None:
        try:
            future.set_result(_answer(request, seconds))
        except BaseException as error:  # whatever it is, the caller's business
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="judge").start()
    return future.result(seconds)


def _answer(request: urllib.request.Request, seconds: float) -> bytes:
    end, body = time.monotonic() + seconds, b""
    try:
        with _OPENER.open(request, timeout=seconds) as reply:
            while part := reply.read1(1 << 16):
                body += part
                if len(body) > MOST_BYTES:
                    raise ValueError(f"more than {MOST_BYTES >> 20} MiB")
                if time.monotonic() > end:
                    raise TimeoutError
            return body
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(1000).decode(errors="replace").strip()
            if key := _key():  # some servers repeat it
                said = said.replace(key, "...")
            where = str(error.headers.get("Location"))
            refusal = _RefusedError(error.code, str(error.reason)[:100], said[:300], where[:200])
    raise refusal


def check_judge(judge: str, model: str | None) -> None:
    """Refuse a judge that cannot be asked, before anything is answered; a server is not called, no weights are read.

    Raises:
        CacheError: no such model.
        ConfigError: a URL that is none or holds a password, a name that is missing or idle, no chat template.
    """
    if judge.startswith(("http://", "https://")):
        if model is None:
            raise ConfigError(f"--judge {judge}: give --judge-model NAME, the model that server should use")
        if "@" in urlsplit(judge).netloc:
            raise ConfigError(f"--judge: a password in the URL would be stored with the verdicts; set {KEY} instead")
        return
    if "://" in judge:
        raise ConfigError(f"--judge {judge}: a URL begins with http:// or https://; else give a model's folder")
    if model is not None:
        raise ConfigError(f"--judge-model {model}: only for a judge behind a URL; {judge} is a model itself")
    _chatting(locate(judge))


def _chatting(source: ModelSource) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model that can chat."""
    tokenizer = source.tokenizer()
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{source.name}: its tokenizer has no chat template, so it cannot chat; give a chat model, or "
            "fine-tune this one first"
        )
    return tokenizer


def make_judge(
    judge: str,
    *,
    model: str | None,
    device: str,
    seconds: float = SECONDS,
    say: Callable[[str], None] = lambda message: None,
) -> Judge:
    """The judge of a name; errors as of `check_judge`."""
    if "://" in judge:
        check_judge(judge, model)
        return UrlJudge(url=judge, model=str(model), timeout=seconds, say=say)
    return ChatModel.load(judge, device=device)
