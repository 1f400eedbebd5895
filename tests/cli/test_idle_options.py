"""Every option of five commands, one by one: where it acts the answer is another; where it cannot act it is refused.

A row is the option with a value, a call in which it acts, and a call in which it could not; "" where there is none. A
new option has to be given its row.
"""

import json
from functools import cache

import pytest

from distillaw.cli.app import app
from in_process import answer

A = "--student 1B --tokens 20B"
SIZED = f"{A} --teacher-params 8B"
SHAPE = "--tokens 20B --layers 12 --width 1024 --ffn 4096 --heads 16"
TEACHER_SHAPE = f"{A} --teacher-layers 32 --teacher-width 4096 --teacher-ffn 16384 --teacher-heads 32"
NAMED = f"{A} --teacher llama-3.1-8b"
REFERENCE = f"{A} --reference-batch 524288 --reference-lr 3e-4"
SGD = f"{REFERENCE} --optimizer sgd"
MODEL = "nowhere --out scores"
TEXT = f"{MODEL} --text notes.txt"
CHAT = f"{MODEL} --questions chat.jsonl --judge judge"
CODE = f"{MODEL} --tasks gsm8k,humaneval"
SETTLE = "--student 1M --tokens 20M"  # without a teacher, so that nothing is trained

ROWS = {
    "cost": [
        ("--student 2B", "--tokens 20B", SHAPE),
        ("--tokens 30B", "--student 1B", ""),
        ("--config config.json", "--tokens 20B", A),
        ("--layers 14", "--tokens 20B", A),
        ("--width 2048", "--tokens 20B", A),
        ("--ffn 2048", "--tokens 20B", A),
        ("--heads 8", "--tokens 20B", A),
        ("--kv-heads 4", SHAPE, A),
        ("--head-dim 32", SHAPE, A),
        ("--vocab 50000", A, ""),
        ("--context 1024", A, ""),
        ("--no-tied", A, ""),
        ("--convention all-weights", A, SHAPE),
        ("--aspect 64", A, SHAPE),
        ("--ffn-ratio 4", A, SHAPE),
        ("--group-size 4", A, SHAPE),
        ("--teacher llama-3.1-8b", A, SIZED),
        ("--teacher-params 8B", A, NAMED),
        ("--teacher-config config.json", A, NAMED),
        ("--teacher-layers 36", A, NAMED),
        ("--teacher-width 8192", A, SIZED),
        ("--teacher-ffn 8192", A, SIZED),
        ("--teacher-heads 16", A, SIZED),
        ("--teacher-kv-heads 4", TEACHER_SHAPE, SIZED),
        ("--teacher-head-dim 32", TEACHER_SHAPE, A),
        ("--teacher-vocab 60000", SIZED, A),
        ("--no-teacher-tied", SIZED, NAMED),
        ("--teacher-aspect 64", SIZED, TEACHER_SHAPE),
        ("--teacher-ffn-ratio 4", SIZED, NAMED),
        ("--teacher-group-size 2", SIZED, A),
        ("--teacher-tokens 2T", SIZED, A),
        ("--scenario inference", f"{SIZED} --teacher-tokens 2T", f"{SIZED} --delta-lgt 1"),
        ("--delta-lgt 0.5", SIZED, f"{SIZED} --scenario inference"),
        ("--delta-pre 0.5", f"{SIZED} --teacher-tokens 2T", SIZED),
        ("--students-served 3", SIZED, A),
        ("--logits own", f"{SIZED} --students-served 3", f"{SIZED} --scenario inference"),
        ("--device h200", A, ""),
        ("--devices 64xh100", A, ""),
        ("--batch 1M", f"{A} --devices 8xh100", A),
        ("--mfu 0.3", A, ""),
        ("--price 7", A, ""),
        ("--precision bf16", A, ""),
        ("--sequences 4", A, ""),
        ("--recompute", A, ""),
        ("--serving-sequences 4", A, ""),
        ("--serving-bits 8", A, ""),
        ("--cache-scheme dense-bf16", A, ""),
    ],
    "gap": [
        ("--student 2B", "--tokens 20B", ""),
        ("--tokens 90B", "--student 1B", "--student 1B --tokens-per-param 80"),
        ("--tokens-per-param 80", "--student 1B", A),
        ("--teacher-tokens 2T", A, f"{A} --teacher-tokens-per-param 100"),
        ("--teacher-tokens-per-param 100", A, f"{A} --teacher-tokens 2T"),
        ("--teacher llama-3.1-8b", A, ""),
        ("--teacher-loss 2.0", A, ""),
        ("--law surrogate-s2", A, ""),
        ("--arm pruned", A, ""),
        ("--margin 2", A, ""),
        ("--explain", A, ""),
    ],
    "regime": [
        ("--student 2B", "--tokens 20B", ""),
        ("--tokens 30B", "--student 1B", ""),
        ("--batch 524288", A, f"{A} --steps 20000"),
        ("--steps 10000", A, f"{A} --batch 524288"),
        ("--context 2048", A, ""),
        ("--devices 8", A, ""),
        ("--micro-batch 4", A, ""),
        ("--width 1024", f"{REFERENCE} --reference-width 512", REFERENCE),
        ("--optimizer sgd", A, ""),
        ("--norm batchnorm", A, ""),
        ("--distil", A, ""),
        ("--loss 2.5", A, ""),
        ("--cooldown 0.1", A, ""),
        ("--device h200", A, ""),
        ("--mfu 0.3", f"{A} --device h200", A),
        ("--price 7", f"{A} --device h200", A),
        ("--reference-batch 1048576", f"{A} --reference-lr 3e-4", A),
        ("--reference-lr 1e-3", f"{A} --reference-batch 524288", A),
        ("--reference-tokens 1B", REFERENCE, A),
        ("--reference-width 512", f"{REFERENCE} --width 1024", REFERENCE),
        ("--reference-weight-decay 0.3", REFERENCE, SGD),
        ("--reference-beta1 0.8", REFERENCE, SGD),
        ("--reference-beta2 0.9", REFERENCE, SGD),
        ("--reference-warmup 1M", REFERENCE, A),
    ],
    "evaluate": [
        ("--model other", "--out scores --tasks gsm8k", ""),
        ("--out scores", "nowhere --tasks gsm8k", ""),
        ("--text notes.txt", MODEL, ""),
        ("--teacher other", TEXT, CODE),
        ("--tasks gsm8k", MODEL, ""),
        ("--data evals", CODE, CHAT),
        ("--limit 5", CHAT, TEXT),
        ("--shots 2", CODE, TEXT),
        ("--chat", CODE, CHAT),
        ("--samples 10", CODE, f"{MODEL} --tasks gsm8k"),
        ("--temperature 0.5", f"{CODE} --samples 10", CODE),
        ("--questions chat.jsonl", f"{MODEL} --judge judge", MODEL),
        ("--judge judge", f"{MODEL} --questions chat.jsonl", MODEL),
        ("--judge-model served", f"{MODEL} --questions chat.jsonl --judge http://here", CODE),
        ("--judge-seconds 60", f"{MODEL} --questions chat.jsonl --judge http://here --judge-model m", CHAT),
        ("--second-judge other", CHAT, TEXT),
        ("--second-judge-model served", f"{CHAT} --second-judge http://here", CHAT),
        ("--judge-prompts words.jsonl", CHAT, TEXT),
        ("--against other", CHAT, TEXT),
        ("--answer-tokens 64", CHAT, TEXT),
        ("--task-folder more", CODE, TEXT),
        ("--skip-missing", CODE, TEXT),
        ("--max-bytes 1M", TEXT, CODE),
        ("--context 512", TEXT, CHAT),
        ("--bins 11", TEXT, CODE),
        ("--text-column body", TEXT, CODE),
        ("--max-document-chars 4000", TEXT, CHAT),
        ("--section-chars 500", TEXT, CHAT),
        ("--tokenizer ids", TEXT, CHAT),
        ("--batch 4", CODE, ""),
        ("--device cpu", CODE, ""),
        ("--processes 2", CODE, ""),
        ("--sharding fsdp", f"{CODE} --processes 2", ""),
        ("--precision bf16", CODE, ""),
        ("--dry-run", CODE, ""),
    ],
    "settle": [
        ("--file asked.toml", "", ""),
        ("--corpus sotu", SETTLE, f"{SETTLE} --world tiny"),
        ("--world tiny", SETTLE, f"{SETTLE} --corpus sotu"),
        ("--like study", SETTLE, f"{SETTLE} --corpus sotu"),
        ("--student 1M", "--tokens 20M", ""),
        ("--tokens 20M", "--student 1M", ""),
        ("--teacher oracle", SETTLE, ""),
        ("--budget 2%", SETTLE, ""),
        ("--margin 0.01", SETTLE, ""),
        ("--level 0.8", SETTLE, ""),
        ("--out settled", SETTLE, ""),
        ("--dry-run", SETTLE, ""),
        ("--workers 1", SETTLE, ""),
    ],
}
CASES = [(verb, *row) for verb, rows in ROWS.items() for row in rows]


@pytest.mark.parametrize("verb", ROWS)
def test_every_option_has_its_row(verb):
    arguments = app[verb].assemble_argument_collection()
    shared = {"--json", "--quiet"}
    options = [{n for n in a.names if n.startswith("--")} for a in arguments if a.parse]
    rows = {row[0].split()[0] for row in ROWS[verb]}
    assert all(names & rows for names in options if names and not names <= shared)
    assert rows <= set().union(*options)


COUNTS = ("cost", "gap", "regime")
"""Verbs that answer at once; of the others only what is refused is seen."""


def _numbers(done):
    """What is answered, less what repeats the question; None where it is refused."""
    if done.returncode:
        return None
    return {k: v for k, v in json.loads(done.stdout).items() if k not in ("question", "assumptions")}


@cache
def _without(verb, line):
    """The numbers of a call without the option in question."""
    return _numbers(answer(verb, *line.split(), "--json"))


@pytest.mark.parametrize(("verb", "option", "acts", "idle"), CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_an_option_acts_or_is_refused(verb, option, acts, idle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    beside = ["--json"] if verb in COUNTS else []
    if verb == "evaluate" and option != "--dry-run":
        beside = ["--dry-run"]  # without torch
    done = answer(verb, *acts.split(), *option.split(), *beside)
    assert "does nothing" not in done.stderr
    if verb in COUNTS and (before := _without(verb, acts)) is not None:
        assert _numbers(done) != before
    if idle:
        done = answer(verb, *idle.split(), *option.split())
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr or done.stdout
        if verb in COUNTS:
            assert _without(verb, idle) is not None  # so that it is the option that was refused
        else:
            assert option.split()[0] in done.stderr or "one of them" in done.stderr
