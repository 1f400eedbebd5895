"""Chat templates, and which tokens of a rendered conversation are the assistant's: its text and its end token.

A template is the model's own, one of those in templates/, or a file; it is rendered by the tokenizer's own
`apply_chat_template` and saved with the tuned model, so that what is trained is what any chat program renders later.
Masks work for any template, without `{% generation %}` marks. Each message is replaced by a sign that no text contains
and rendered: what stands between the signs is the template's. The true rendering must then be those pieces with the
texts (or, for templates that strip, the stripped texts) between them, so each answer's place is known by character. It
begins where the prompt for generation ends, since white space after that is the model's to write, and ends with the
first special token after it. A token is the assistant's if it begins within that span. At last the masked tokens are
decoded: they must say the answer and then the end token.
"""

import contextlib
import re
import signal
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distillaw.data.tokenizer import Rendered, encode_chat, render_chat, special_pattern, special_tokens
from distillaw.errors import ConfigError, DataError
from distillaw.instruct.conversations import Conversation, Message
from distillaw.quantities import did_you_mean
from distillaw.runs.files import read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_NEEDED = re.compile(r"<\|[a-z_]+\|>")
_PLAIN = ("minichat", "zephyr")
"""Templates whose role markers are plain text: they need nothing of a tokenizer but its end-of-text token."""


def template_names() -> list[str]:
    """The templates inside the package."""
    names = [each.name for each in (resources.files("distillaw.instruct") / "templates").iterdir()]
    return sorted(name.removesuffix(".jinja") for name in names if name.endswith(".jinja"))


def choose_template(tokenizer: "PreTrainedTokenizerBase", name: str | None, *, model: str) -> str:
    """Give a tokenizer its chat template.

    Args:
        tokenizer: its `chat_template` is set to the one chosen.
        name: one of `template_names()`, a .jinja file, or None for the tokenizer's own.

    Returns:
        The template's name: as given, or `own`.

    Raises:
        ConfigError: no template anywhere, none of that name, or one whose tokens the tokenizer lacks.
    """
    if name is None:
        if tokenizer.chat_template is None:
            raise ConfigError(
                f"{model}: its tokenizer has no chat template, so nobody knows how it marks who speaks. Give "
                f"--template: {', '.join(template_names())}, or a .jinja file ({' and '.join(_PLAIN)} need no special "
                "tokens)"
            )
        return "own"
    tokenizer.chat_template = _read(name)
    if name in template_names():
        _check_tokens(tokenizer, name, model)
    return name


def _read(name: str) -> str:
    if name in template_names():
        file = resources.files("distillaw.instruct") / "templates" / f"{name}.jinja"
        return file.read_text(encoding="utf-8").strip()
    path = Path(name).expanduser()
    if path.suffix != ".jinja":
        raise ConfigError(
            f"--template {name}: no such template{did_you_mean(name, template_names())}; one of "
            f"{', '.join(template_names())}, or a .jinja file"
        )
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--template {name}: cannot be read ({error})") from None


def _check_tokens(tokenizer: "PreTrainedTokenizerBase", name: str, model: str) -> None:
    """Refuse a template whose markers would be spelt out letter by letter."""
    if name in _PLAIN:
        needed = [] if tokenizer.eos_token else ["an end-of-text token"]
    else:
        text = str(tokenizer.chat_template)
        needed = sorted(token for token in set(_NEEDED.findall(text)) if token not in tokenizer.get_vocab())
    if needed:
        other = f"; {' and '.join(_PLAIN)} need only an end-of-text token" if name not in _PLAIN else ""
        raise ConfigError(f"--template {name}: the tokenizer of {model} lacks {', '.join(needed)}{other}")


_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_SIGN = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


_SECONDS = 20.0
"""Rendering a conversation takes a millisecond."""


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    """Ends a template that loops on and on; only the main thread can be woken, so elsewhere there is none."""

    def stop(*_: object) -> None:
        raise DataError(f"the chat template did not end within {_SECONDS:.0f} s; does it loop within loops?")

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    old = signal.signal(signal.SIGALRM, stop)
    left = signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, old)


def refuse_powers(template: str) -> None:
    """Refuse what no chat needs and no deadline ends, since it is one step: powers, and a text many times over."""
    from jinja2 import Environment, TemplateError, nodes

    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except (TemplateError, RecursionError):
        return
    repeated = any(
        isinstance(side, nodes.Const) and isinstance(side.value, str)
        for product in tree.find_all(nodes.Mul)
        for side in (product.left, product.right)
    )
    if repeated or next(tree.find_all(nodes.Pow), None) is not None:
        raise DataError("the chat template raises to a power or repeats a text; no chat needs that, so it is not run")


class Turn(NamedTuple):
    """An answer's tokens: ids[start:end], the end token last."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """A conversation as token ids, and which of them are the assistant's."""

    ids: list[int]
    turns: tuple[Turn, ...]

    @property
    def mask(self) -> list[bool]:
        """Whether each token is the assistant's, shape (tokens,)."""
        mask = [False] * len(self.ids)
        for turn in self.turns:
            mask[turn.start : turn.end] = [True] * (turn.end - turn.start)
        return mask


class Masker:
    """Renders, tokenises and masks conversations under one tokenizer and its chat template."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        if not tokenizer.is_fast:
            raise ConfigError(
                f"{tokenizer.name_or_path}: a tokenizer without tokenizer.json cannot say which characters a token "
                "covers; convert it (AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained)"
            )
        self._tokenizer = tokenizer
        self._special = special_tokens(tokenizer)
        if not self._special:
            raise ConfigError(f"{tokenizer.name_or_path}: the tokenizer has no special token, so no answer could end")
        refuse_powers(str(tokenizer.chat_template))
        self._control = special_pattern(tokenizer)
        question: list[Message] = [{"role": "user", "content": f"{_OPEN}0{_CLOSE}"}]
        self._prompt_tail = _SIGN.split(self.render(question, prompt=True).text)[-1]

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> Rendered:
        """The text of messages; with `prompt`, ending where an answer begins.

        Raises:
            DataError: the template refuses them.
        """

        def written(dicts: list[dict[str, str]]) -> str:
            render = self._tokenizer.apply_chat_template
            with _deadline():
                return str(render(dicts, tokenize=False, add_generation_prompt=prompt))

        try:
            return render_chat(self._control, messages, written)
        except DataError:
            raise
        except Exception as error:  # a template is a program: beside jinja's own errors it can raise any
            raise DataError(f"the chat template refuses it ({error})") from error

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of messages that wait for an answer."""
        return encode_chat(self._tokenizer, self._control, self.render(messages, prompt=True))[0]

    def mask(self, conversation: Conversation) -> Masked:
        """Token ids of a conversation and the places of its answers.

        Raises:
            DataError: naming the conversation: the template refuses or changes it, an answer is empty or holds control
                tokens, the template writes no end token, or the masked tokens do not decode to the answer.
        """
        try:
            return self._mask(conversation.messages)
        except DataError as error:
            raise DataError(f"{conversation.where}: {error}") from error

    def end_token(self) -> int:
        """The id of the token that ends an answer under this template.

        Raises:
            DataError: the template writes none.
        """
        masked = self._mask(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
        return masked.ids[masked.turns[-1].end - 1]

    def _mask(self, messages: tuple[Message, ...]) -> Masked:
        for message in messages:
            if message["role"] != "assistant":
                continue  # what it spells is text
            if control := self._control.search(message["content"]):  # mostly a template that leaked into the data
                raise DataError(f"the assistant's text holds the control token {control[0]!r}")
            if not message["content"].strip():
                raise DataError("an answer is empty")
        chat = self.render(messages)
        text = chat.text
        spans = self._answer_spans(messages, text)
        ids, offsets = encode_chat(self._tokenizer, self._control, chat)
        turns = tuple(_turn(offsets, span) for span in spans)
        for turn, (first, last) in zip(turns, spans, strict=True):
            self._check(ids[turn.start : turn.end], text[first:last])
        return Masked(ids=ids, turns=turns)

    def _answer_spans(self, messages: tuple[Message, ...], text: str) -> list[tuple[int, int]]:
        """Characters of each answer, from the end of the prompt for generation to that of its end token."""
        pieces, order = self._pieces(messages)
        spans: dict[int, tuple[int, int]] = {}
        place = len(pieces[0])
        if not text.startswith(pieces[0]):
            raise DataError("the chat template writes other text around these messages than around others")
        for k, index in enumerate(order):
            said = _variant(messages[index]["content"], text, place, pieces[k + 1], k == len(order) - 1)
            end = place + len(said)
            if messages[index]["role"] == "assistant":
                spans[index] = (place - self._white_before(pieces[k]), end + self._ending(pieces[k + 1]))
            place = end + len(pieces[k + 1])
        return [spans[index] for index in sorted(spans)]

    def _pieces(self, messages: Sequence[Message]) -> tuple[list[str], list[int]]:
        """What the template writes before, between and after the messages, and the order in which it puts them."""
        signs = [{"role": each["role"], "content": f"{_OPEN}{i}{_CLOSE}"} for i, each in enumerate(messages)]
        parts = _SIGN.split(self.render(signs).text)
        order = [int(index) for index in parts[1::2]]
        if sorted(order) != list(range(len(messages))):
            odd = next(i for i in range(len(messages)) if order.count(i) != 1)
            raise DataError(
                f"the chat template writes the {messages[odd]['role']}'s message {order.count(odd)} times, not once; "
                "choose another with --template"
            )
        return parts[::2], order

    def _white_before(self, header: str) -> int:
        """Characters of white space between the prompt for generation and the answer: the model's own to write."""
        rest = header.removeprefix(self._prompt_tail) if header.startswith(self._prompt_tail) else "-"
        return 0 if rest.strip() else len(rest)

    def _ending(self, after: str) -> int:
        """Characters after an answer up to its end token, that included."""
        white = len(after) - len(after.lstrip())
        end = self._control.match(after, white)
        if end is None:
            raise DataError(
                f"the chat template writes {after[:40]!r} after an answer, which does not begin with a special token: "
                "the model would not learn to stop. Choose another with --template"
            )
        return end.end()

    def _check(self, ids: list[int], text: str) -> None:
        """The masked tokens say the answer, then the end token, and nothing else."""
        decode = self._tokenizer.decode
        said = str(decode(ids[:-1], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        ending = self._special.get(self._control.findall(text)[-1])
        answer = self._control.sub("", text).strip()
        if not ids or ids[-1] != ending or not _same(said, answer):
            raise DataError(
                f"the tokens of an answer decode to {_ends(said)!r}, not to {_ends(answer)!r} and its end token: the "
                "tokenizer cannot write this text, or joins it with what the template puts around it"
            )


def _variant(content: str, text: str, place: int, after: str, is_last: bool) -> str:
    """The message as the template wrote it at `place`: whole, or stripped at one end or both."""
    for said in (content, content.strip(), content.rstrip(), content.lstrip()):
        whole = said + after
        if text[place:] == whole if is_last else text.startswith(whole, place):
            return said
    raise DataError(
        f"the chat template changes a message: {_ends(content)!r} became {text[place : place + 40]!r}; only stripping "
        "white space is understood. Choose another with --template"
    )


def _turn(offsets: list[tuple[int, int]], span: tuple[int, int]) -> Turn:
    """Tokens that begin within a span of characters."""
    first, last = span
    inside = [i for i, (begin, end) in enumerate(offsets) if first <= begin < last and end > begin]
    return Turn(inside[0], inside[-1] + 1) if inside else Turn(0, 0)


def _same(said: str, answer: str) -> bool:
    """Equal but for white space at the ends and for the forms of characters that normalising tokenizers unite."""
    first, second = (unicodedata.normalize("NFKC", text).split() for text in (said, answer))
    return said.strip() == answer or first == second


def _ends(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:30]} ... {text[-25:]}"
