"""Tiny chat data and the model that is tuned on it."""

import json

import pytest
from families import chatml_tokenizer, save_model, sums


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A folder with a fresh model whose tokenizer has no chat template."""
    return save_model(tmp_path_factory.mktemp("model"), chatml_tokenizer())


@pytest.fixture(scope="session")
def chats(tmp_path_factory):
    """A file of 48 conversations."""
    file = tmp_path_factory.mktemp("data") / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in sums()))
    return file


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """A file of 48 preferences: a right sum against a wrong one."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {
            "prompt": f"What is {a} and {b}?",
            "chosen": f"{a} and {b} are {a + b}.",
            "rejected": f"It is {a + b + 1}, thank you",
        }
        for a in range(8)
        for b in range(6)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
