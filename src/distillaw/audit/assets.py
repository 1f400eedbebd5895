"""What lies on disk before anything is trained: tokenizers, a template's markers, a teacher's precision, stored rows.

[target]
kind = "tokenizers"            # TARGET: the student's folder
[assets]
teacher = "models/teacher"     # a folder with tokenizer and weights
markers = ["<|im_end|>"]       # each must be one token, the same on both sides
dtype = "bfloat16"             # the teacher's weights

[target]
kind = "store"                 # TARGET: a folder of `distillaw cache build`, or a JSONL of rows
[assets]
teacher = "models/teacher"
temperature = 1.0              # a row: input_ids (T), token_ids and logprobs (T, K) of what follows each position
rows = 16                      # rows that the teacher is asked about again
"""

import json
from pathlib import Path
from typing import Any

import torch

from distillaw.audit.contract import Contract
from distillaw.audit.findings import Findings
from distillaw.errors import CacheError, ConfigError, VocabularyError

_CLOSE = 0.02
"""Nats by which log-probabilities may differ on average, between machines and precisions."""


def _needed(contract: Contract, name: str) -> Any:
    if name not in contract.assets:
        raise ConfigError(f"assets.{name} is not declared; a {contract.target.kind} is held against it")
    return contract.assets[name]


# --- tokenizers ---------------------------------------------------------------------------------------------


def audit_tokenizers(target: str, contract: Contract) -> Findings:
    """Two tokenizers id by id, their special tokens, a template's markers, and the teacher's weights.

    Raises:
        ConfigError: a folder is not declared or has no tokenizer.
    """
    from transformers import AutoTokenizer

    findings = Findings(target, "tokenizers")
    folder = str(_needed(contract, "teacher"))
    opened: list[Any] = []
    for place in (target, folder):
        try:
            opened.append(AutoTokenizer.from_pretrained(place))
        except (OSError, ValueError) as error:
            raise ConfigError(f"audit: {place}: no tokenizer can be opened there ({str(error)[:120]})") from None
    own, other = opened
    ours, theirs = own.get_vocab(), other.get_vocab()
    unlike = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
    if unlike:
        shown = ", ".join(f"{t!r} is {ours.get(t, 'absent')} and {theirs.get(t, 'absent')}" for t in unlike[:3])
        findings.wrong("tokenizers", f"{len(unlike)} tokens have other ids: {shown} (student and teacher)")
    for name in ("eos_token_id", "bos_token_id", "unk_token_id"):
        a, b = getattr(own, name), getattr(other, name)
        if a != b:
            findings.wrong("tokenizers", f"{name} is {a} for the student and {b} for the teacher")
    if own.pad_token_id is not None and own.pad_token_id == own.eos_token_id:
        findings.notes.append(
            f"pad = eos = {own.pad_token_id}: masks must come from lengths; by id they drop every answer's end"
        )
    for marker in contract.assets.get("markers", ()):
        for whose, tokenizer in (("student", own), ("teacher", other)):
            ids = tokenizer.encode(marker, add_special_tokens=False)
            if len(ids) != 1:
                findings.wrong("tokenizers", f"the marker {marker!r} is {len(ids)} tokens for the {whose}: {ids[:6]}")
    _templates(findings, own, other)
    findings.right("tokenizers", f"{len(ours)} tokens id by id, special tokens, markers")
    if "dtype" in contract.assets:
        _weights(findings, Path(folder), str(contract.assets["dtype"]))
    return findings


def _templates(findings: Findings, own: Any, other: Any) -> None:
    """Whether a conversation comes out as the same ids."""
    if not own.chat_template or not other.chat_template:
        return
    chat = [{"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "Four."}]
    ids = [t.apply_chat_template(chat, tokenize=True, return_dict=False) for t in (own, other)]
    if ids[0] != ids[1]:
        first = next((i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b), min(map(len, ids)))
        says = f"the chat templates differ from token {first} on ({len(ids[0])} and {len(ids[1])} tokens)"
        findings.wrong("tokenizers", says)


def _weights(findings: Findings, folder: Path, declared: str) -> None:
    """The types that the teacher's safetensors hold."""
    from safetensors import safe_open

    names = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    found: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            kinds = {opened.get_slice(name).get_dtype() for name in opened.keys()}
        found |= {names.get(kind, kind) for kind in kinds}
    if not found:
        findings.untestable("precision", f"{folder} holds no safetensors")
    elif found != {declared}:
        findings.wrong("precision", f"the teacher's weights are {', '.join(sorted(found))}, declared: {declared}")
    else:
        findings.right("precision", f"the teacher's weights are {declared}")


# --- stored rows --------------------------------------------------------------------------------------------


def audit_store(target: str, contract: Contract) -> Findings:
    """Stored targets against a fresh forward pass; ConfigError: nothing there, or rows that cannot be read."""
    findings, path = Findings(target, "store"), Path(target)
    if not path.exists():
        raise ConfigError(f"audit: {path}: no such store")
    (_own_store if path.is_dir() else _rows)(findings, path, contract)
    return findings


def _own_store(findings: Findings, path: Path, contract: Contract) -> None:
    """A folder of `distillaw cache build`."""
    from distillaw.models.parallel import ALONE
    from distillaw.sweep.target_stores import ask_teacher_again, find_teacher, open_maker
    from distillaw.targets.manifest import read_manifest
    from distillaw.targets.store import check_files

    manifest = read_manifest(path)
    for problem in check_files(path, manifest):
        if problem:
            findings.wrong("store", problem)
    if findings.is_wrong:
        return

    def load(teacher: str, store: Any, request: Any) -> Any:
        return open_maker(find_teacher(teacher), store, request, ALONE)

    assets = contract.assets
    teacher, data = assets.get("teacher"), assets.get("data")
    windows = int(assets.get("rows", 16))
    try:
        compared = ask_teacher_again(
            path, manifest, load, teacher=teacher, data=None if data is None else Path(data), windows=windows
        )
    except (CacheError, VocabularyError) as error:  # another teacher, another text
        findings.wrong("store", str(error))
        return
    if not compared.agrees:
        findings.wrong("store", compared.disagreement)
    findings.right(
        "store", f"{compared.windows} windows asked again, losses off by {compared.loss_difference:.2g} nats"
    )


def _rows(findings: Findings, path: Path, contract: Contract) -> None:
    """A JSONL of rows of anybody's."""
    from transformers import AutoModelForCausalLM

    limit = int(contract.assets.get("rows", 16))
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(line)
        if missing := [k for k in ("input_ids", "token_ids", "logprobs") if k not in row]:
            raise ConfigError(
                f"{path}, line {number}: no {', '.join(missing)}; a row has input_ids, token_ids, logprobs"
            )
        rows.append(row)
        if len(rows) >= limit:
            break
    t = float(contract.assets.get("temperature", 1.0))
    model = AutoModelForCausalLM.from_pretrained(str(_needed(contract, "teacher"))).eval()
    with torch.no_grad():
        fresh = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double() for row in rows]
    stored = [(torch.tensor(r["token_ids"]), torch.tensor(r["logprobs"], dtype=torch.float64)) for r in rows]
    if (gap := _gap(stored, fresh, t)) <= _CLOSE:
        findings.right("store", f"{len(rows)} rows asked again, log-probabilities off by {gap:.2g} nats on average")
        return
    tries = {f"they are of {s:+d} positions": _gap(stored, fresh, t, step=s) for s in (-2, -1, 1, 2)}
    tries["they are of the next row"] = _gap(stored, fresh[1:] + fresh[:1], t)
    tries["they are of the row before"] = _gap(stored, fresh[-1:] + fresh[:-1], t)
    for other in (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0):
        if other != t:
            tries[f"their temperature is {other:g}, declared: {t:g}"] = _gap(stored, fresh, other)
    tries["they are renormalised over the stored ids"] = _gap(stored, fresh, t, renormalised=True)
    says, best = min(tries.items(), key=lambda each: each[1])
    known = f": {says}" if best <= _CLOSE else "; neither shifts, rows, temperatures nor renormalising explain it"
    findings.wrong("store", f"log-probabilities are off by {gap:.3g} nats on average{known}")


def _gap(
    stored: list[tuple[torch.Tensor, torch.Tensor]],
    logits: list[torch.Tensor],
    temperature: float,
    *,
    step: int = 0,
    renormalised: bool = False,
) -> float:
    """Mean absolute difference of log-probabilities, stored at t against fresh at t + step."""
    total, count = 0.0, 0
    for (ids, values), z in zip(stored, logits, strict=True):
        fresh = (z / temperature).log_softmax(-1)
        here = range(max(0, -step), min(len(ids), len(fresh), len(fresh) - step))
        at = torch.tensor(list(here), dtype=torch.int64)
        got = fresh[at + step].gather(-1, ids[at])
        got = got.log_softmax(-1) if renormalised else got
        total += float((got - values[at]).abs().sum())
        count += got.numel()
    return total / count if count else float("inf")
