"""A judge on this machine, and the answers of the models that are judged: chat through the tokenizer's template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from distillaw.data.chat_text import encode_chat, render_chat, special_pattern
from distillaw.errors import ConfigError
from distillaw.evaluate.judges import Messages
from distillaw.models.fingerprint import fingerprint
from distillaw.models.source import ModelSource, context_of, locate
from distillaw.models.teacher import load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERDICT = "My verdict is: "
"""What the judge is made to say before its verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatModel:
    """A model with a chat template, in eval mode."""

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
        """
        source = locate(name)
        tokenizer = source.tokenizer()
        if not tokenizer.chat_template:
            raise ConfigError(
                f"{source.name}: its tokenizer has no chat template, so it cannot chat; give a chat model, or "
                "fine-tune this one first"
            )
        where = torch.device(device)
        dtype = torch.float32 if where.type == "cpu" else torch.bfloat16
        model = load_weights(source, where, dtype)
        return cls(name=source.name, fingerprint=fingerprint(source), model=model, tokenizer=tokenizer)

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
    def write(self, messages: Messages, *, max_tokens: int) -> str:
        """Its greedy answer; what does not fit is cut from the beginning of the conversation."""
        ids = self._fitted(self.prompt(messages), max_tokens)
        pad = self.tokenizer.pad_token_id
        written = self.model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False,
            temperature=None, top_p=None, top_k=None,
            pad_token_id=self.tokenizer.eos_token_id if pad is None else pad,
        )  # fmt: skip
        return str(self.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)).strip()

    @torch.no_grad()
    def choose(self, messages: Messages, choices: Sequence[str]) -> str:
        """The likeliest of some continuations of VERDICT, by the log-probability of all its tokens."""
        lead = self.tokenizer(VERDICT, add_special_tokens=False, return_tensors="pt")["input_ids"]
        options = [self.tokenizer(each, add_special_tokens=False)["input_ids"] for each in choices]
        longest = max(map(len, options))
        prefix = self._fitted(torch.cat([self.prompt(messages), lead.to(self.model.device)], 1), longest)
        scores = [self._logp(prefix, ids) for ids in options]
        return choices[int(torch.tensor(scores).argmax())]

    def _logp(self, prefix: torch.Tensor, ids: list[int]) -> float:
        option = torch.tensor([ids], device=prefix.device)
        whole = torch.cat([prefix, option], 1)
        logits = self.model(input_ids=whole, use_cache=False, logits_to_keep=len(ids) + 1).logits[0, :-1]
        logp = torch.log_softmax(logits.float(), -1)
        return float(logp.gather(-1, option[0][:, None]).sum())

    def _fitted(self, ids: torch.Tensor, reserve: int) -> torch.Tensor:
        limit = context_of(self.model.config)
        room = ids.shape[1] if limit is None else limit - reserve
        if room < 1:
            raise ConfigError(
                f"{self.name}: its context of {limit} tokens leaves no room for an answer of {reserve}"
            )
        return ids[:, -room:]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalJudge:
    """A local model that gives the likeliest verdict: it always parses, and takes one pass per verdict."""

    chat: ChatModel

    @classmethod
    def load(cls, name: str, *, device: str) -> "LocalJudge":
        """As ChatModel.load."""
        return cls(chat=ChatModel.load(name, device=device))

    @property
    def identity(self) -> dict[str, object]:
        """Its weights, and that it chooses."""
        return {"model": self.chat.fingerprint, "by": "likelihood"}

    def ask(self, messages: Messages, verdicts: Sequence[str]) -> str:
        """One of the verdicts."""
        return self.chat.choose(messages, verdicts)
