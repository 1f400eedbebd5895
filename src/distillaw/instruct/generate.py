"""A teacher's answers to prompts, as conversations to learn from: distillation at the level of sequences.

Kim and Rush 2016 (arXiv 1606.07947): the student learns what the teacher writes, token by token, so the two need no
vocabulary in common. Prompts of like length share a batch, longest first; every batch is written whole, so a kill costs
at most one, and a sampled batch depends on the seed and its own prompts only. Answers that meet the limit of tokens are
marked `truncated`.

    answers.jsonl         {"prompt": 3, "messages": [.., {"role": "assistant", ..}], "tokens": 41, "truncated": false}
    answers.about.json    teacher, prompts, settings and their hash; totals when it is done

Pairs from two models have a teacher's answer as the chosen one, a student's as the rejected one. Nobody judged them:
`judged` is false in every line, and the names of both models stand beside. That the teacher's answer is the better one
is an assumption, fair for a strong teacher and a weak student, false for single prompts.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distillaw.errors import ConfigError, DataError, RunError
from distillaw.instruct.conversations import Prompt, read_prompts
from distillaw.instruct.masks import Masker, choose_template
from distillaw.instruct.spec import Sampling
from distillaw.instruct.start import Say, hushed, keep_lines, silent, step_flops
from distillaw.models.source import ModelSource, context_of, fingerprint, locate
from distillaw.models.teacher import check_speaks, continued, load_weights
from distillaw.quantities import format_seconds
from distillaw.runs.files import append_json_lines, content_hash, read_json, read_json_lines, write_json, write_text
from distillaw.runs.lock import locked
from distillaw.runs.pace import LOG_SECONDS
from distillaw.runs.places import GENERATOR, check_file

if TYPE_CHECKING:
    from transformers import GenerationConfig


def about_file(answers: Path) -> Path:
    """Where the record of a file of answers lies."""
    return answers.with_suffix(".about.json")


def about_answers(answers: Path) -> dict[str, object]:
    """The record of a file of answers: `teacher` and more; empty for a file that was not generated here."""
    file = about_file(answers.expanduser())
    return read_json(file) if file.exists() else {}


def generate_answers(
    teacher: str | Path,
    prompts: str | Path,
    out: Path,
    *,
    template: str | None = None,
    device: str = "cpu",
    say: Say = silent,
    **drawn: Any,
) -> Path:
    """Have a chat model answer prompts, each once; a second call goes on where the first stopped.

    Args:
        out: a .jsonl file, which `distillaw instruct sft --data` reads.
        template: a chat template's name or file, for a model without one.
        drawn: fields of `Sampling`.

    Raises:
        CacheError: no model there.
        ConfigError: no chat template, impossible settings, or `out` holds answers made otherwise.
        DataError: no prompts, or one too long for the model.
        DivergedError: the model's probabilities are not finite.
        RunError: out of memory or disk, or another process writes there.
    """
    sampling = Sampling(**drawn)
    sampling.check()
    if out.suffix != ".jsonl":
        raise ConfigError(f"--out {out}: answers are written to a .jsonl file")
    source, asked = locate(teacher), read_prompts(prompts)
    answerer = Answerer(source, template, sampling)
    ids = answerer.encode(asked)
    with locked(out.with_name(f".{out.name}.lock"), str(out), say):
        about = _opened(out, source, prompts, asked, answerer, sampling)
        if about.get("answers") == len(asked):
            say(f"{out}: answered before, nothing to do")
            return out
        with hushed():
            spent = _answer_all(answerer, asked, ids, out, device, say)
        rows = read_json_lines(out)
        tokens = sum(int(row["tokens"]) for row in rows)
        read = tokens + sum(map(len, ids))
        flops = step_flops(source.config(), tokens=read, mean_length=read / len(rows), forwards=1)
        about |= {"answers": len(rows), "truncated": sum(row["truncated"] is True for row in rows)}
        about |= {"tokens": tokens, "flops": flops, "seconds": spent, "device": device}
        write_json(about_file(out), about)
    return out


class Answerer:
    """A chat model that answers batches of prompts; loaded when first asked."""

    def __init__(self, source: ModelSource, template: str | None, sampling: Sampling) -> None:
        self.source, self.sampling = source, sampling
        self.tokenizer = source.tokenizer()
        self.template = choose_template(self.tokenizer, template, model=source.name)
        self._masker = Masker(self.tokenizer)
        ends = [self._masker.end_token(), self.tokenizer.eos_token_id]
        self.ends = list(dict.fromkeys(each for each in ends if each is not None))
        self._model: Any = None

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt, ready for an answer.

        Raises:
            DataError: a prompt that leaves no room for an answer.
        """
        context = context_of(self.source.config())
        ids = [self._masker.prompt_ids(prompt) for prompt in prompts]
        room = (context or 10**12) - self.sampling.max_new_tokens
        if long := [i for i, each in enumerate(ids) if len(each) > room]:
            raise DataError(
                f"{len(long)} prompts leave no room for {self.sampling.max_new_tokens} new tokens in the {context} "
                f"that {self.source.name} sees; the first is prompt {long[0]} with {len(ids[long[0]])}. Lower "
                "--max-new-tokens"
            )
        return ids

    def load(self, device: str) -> Any:
        """The model, read once; it generates under our settings alone."""
        if self._model is None:
            dtype = torch.float32 if device == "cpu" else torch.bfloat16
            self._model = load_weights(self.source, torch.device(device), dtype)
            self._model.generation_config = generation_config(self.sampling, self.ends)
        return self._model


def generation_config(sampling: Sampling, ends: Sequence[int]) -> "GenerationConfig":
    """Our settings alone: a model's own defaults would be mixed in."""
    from transformers import GenerationConfig

    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=sampling.temperature > 0,
        eos_token_id=list(ends),
        pad_token_id=ends[0],
        **(drawn if sampling.temperature else {}),
    )


def _opened(
    out: Path, source: ModelSource, prompts: str | Path, asked: Sequence[Prompt], answerer: Answerer, sampling: Sampling
) -> dict[str, object]:
    """The record of the file, new or as it stands; refused if that is of another teacher, prompts or settings."""
    weights, style = fingerprint(source), str(answerer.tokenizer.chat_template)
    parts = {"weights": weights, "prompts": [list(p) for p in asked], "template": style, **sampling.decisive}
    identity = content_hash(parts, digits=16)
    file = about_file(out)
    check_file(file)
    if file.exists():
        about = read_json(file)
        if about["identity"] != identity:
            raise ConfigError(
                f"{out} holds answers by {about['teacher']} to {about['prompts']} with {about['sampling']}; the "
                "teacher, its template, the prompts or the settings differ now. Choose another --out, or delete both "
                "files"
            )
        return about
    if out.exists() and out.stat().st_size:
        raise ConfigError(f"{out} exists and was not written by this command; choose another --out")
    about: dict[str, object] = {
        "generator": GENERATOR,
        "identity": identity,
        "teacher": source.name,
        "teacher_fingerprint": weights,
        "prompts": str(prompts),
        "asked": len(asked),
        "template": answerer.template,
        "sampling": asdict(sampling),
    }
    write_json(file, about)
    return about


def _answer_all(
    answerer: Answerer, asked: Sequence[Prompt], ids: Sequence[list[int]], journal: Path, device: str, say: Say
) -> float:
    """Answer what is not answered yet, batch by batch; returns the seconds of this start."""
    sampling = answerer.sampling
    order = sorted(range(len(asked)), key=lambda i: (-len(ids[i]), i))
    batches = [order[i : i + sampling.batch] for i in range(0, len(order), sampling.batch)]
    done = {int(row["prompt"]) for row in keep_lines(journal)}
    if sampling.temperature:  # a sampled answer belongs to its batch: one that was cut short is drawn again whole
        whole = {i for batch in batches if done.issuperset(batch) for i in batch}
        done = {int(row["prompt"]) for row in keep_lines(journal, lambda row: row["prompt"] in whole)}
    model = answerer.load(device) if len(done) < len(asked) else None
    if model is not None:
        check_speaks(model, ids[order[-1]], answerer.source.name)
    began = said = time.monotonic()
    tokens, before = 0, len(done)
    for batch in batches:
        missing = [i for i in batch if i not in done]
        if not missing:
            continue
        torch.manual_seed(int(content_hash({"seed": sampling.seed, "first": batch[0]}, digits=12), 16))
        try:
            made = continued(model, [ids[i] for i in missing], answerer.ends)
        except torch.OutOfMemoryError as error:
            raise RunError(f"out of memory with {len(missing)} prompts at once; lower --batch") from error
        rows = []
        for i, (answer, is_cut) in zip(missing, made, strict=True):
            text = answerer.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            messages = [*asked[i], {"role": "assistant", "content": str(text).strip()}]
            rows.append({"prompt": i, "messages": messages, "tokens": len(answer), "truncated": is_cut})
        append_json_lines(journal, rows)
        done.update(missing)
        tokens += sum(len(answer) for answer, _ in made)
        if (now := time.monotonic()) - said > LOG_SECONDS or len(done) == len(asked):
            said, rate = now, (len(done) - before) / (now - began)
            left = format_seconds((len(asked) - len(done)) / rate)
            say(f"{len(done):,} of {len(asked):,} answers, {tokens / (now - began):.3g} tokens/s, about {left} left")
    return time.monotonic() - began


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """What became of the answers."""

    pairs: int
    cut_off: int
    """Prompts left out because an answer met the limit of tokens."""
    alike: int
    """Left out because both said the same."""


def contrast_answers(chosen: Path, rejected: Path, out: Path) -> Contrast:
    """Join two files of answers to the same prompts into pairs for `distillaw instruct dpo`.

    Raises:
        DataError: the two did not answer the same prompts.
    """
    import json

    teacher, student = (read_json(about_file(file))["teacher"] for file in (chosen, rejected))
    both = [{int(row["prompt"]): row for row in read_json_lines(file)} for file in (chosen, rejected)]
    asked, other = ({i: row["messages"][:-1] for i, row in rows.items()} for rows in both)
    if asked != other:
        raise DataError(f"{chosen} and {rejected} do not answer the same prompts; generate both from one file")
    rows, cut_off, alike = [], 0, 0
    for index in sorted(asked):
        better, worse = (rows[index]["messages"][-1]["content"] for rows in both)
        if any(rows[index]["truncated"] for rows in both):
            cut_off += 1
        elif better == worse:
            alike += 1
        else:
            by = {"chosen_by": teacher, "rejected_by": student, "judged": False}
            rows.append({"prompt": asked[index], "chosen": better, "rejected": worse, **by})
    check_file(about_file(out))
    if out.exists() and out.stat().st_size and not about_file(out).exists():
        raise ConfigError(f"{out} exists and was not written by this command; choose another --out")
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), known=True)
    found = Contrast(pairs=len(rows), cut_off=cut_off, alike=alike)
    by = {"teacher": teacher, "student": student, "judged": False}
    write_json(about_file(out), {"generator": GENERATOR, **by, **asdict(found)})
    return found
