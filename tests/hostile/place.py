"""A folder with a small good file of each kind that commands read, and some that are no files at all."""

import json
import os
from pathlib import Path

import numpy as np
import tiny_images
from synthetic_study import World, write_study

import distillaw as dl
import tiny
from tiny import RUN

STUDY = tiny.STUDY.replace("[data]", '[data]\ncorpus = "text.txt"')
SETTLE = """
name = "settled"
batch_tokens = 512
peak_lr = 0.008
[data]
world_tokens = "1.1M"
[data.world]
vocab = 256
document_tokens = 512
[data.world.hmm]
states = 16
[training]
context = 128
[[teachers]]
path = "oracle"
[target]
params = "0.1M"
tokens = "1M"
[settle]
budget = "20%"
"""
WORLD = """
seed = 1
vocab = 65
document_tokens = 512
[hmm]
states = 16
branching = 8
"""
IMAGES = tiny_images.TOML
QUESTION = """
[plan]
student = "300M"
tokens = "6B"
teacher-params = ["1B"]
teacher-tokens = ["20B"]
"""
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "vocab_size": 300,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "architectures": ["LlamaForCausalLM"],
    "rms_norm_eps": 1e-6,
}


def table_of_runs() -> dict[str, np.ndarray]:
    """Thirty-six runs of a published law."""
    params, tokens = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 4e9, 6), np.geomspace(2e9, 2e11, 6)))
    loss = dl.published("busbridge2025").supervised(params=params, tokens=tokens)
    return {"params": params, "tokens": tokens, "loss": loss}


def csv_of(columns: dict[str, np.ndarray]) -> str:
    """The table as text."""
    rows = zip(*columns.values(), strict=True)
    return "".join(f"{','.join(map(str, row))}\n" for row in ((*columns,), *rows))


def run_toml(corpus: str = "missing.txt") -> str:
    """A file of `distillaw train` whose text is not there, so that nothing can be trained."""
    return 'name = "one"\n' + RUN.format(tokens=4096).replace("[data]", f'[data]\ncorpus = "{corpus}"')


def lay_out(folder: Path) -> None:
    """Write all of them."""
    texts = {
        "runs.csv": csv_of(table_of_runs()),
        "text.txt": "To be, or not to be. " * 400,
        "empty.csv": "",
        "empty.toml": "",
        "broken.toml": "x = [",
        "broken.json": "{",
        "study.toml": STUDY,
        "settle.toml": SETTLE,
        "world.toml": WORLD,
        "question.toml": QUESTION,
        "config.json": json.dumps(CONFIG),
        "run.toml": run_toml(),
        "images.toml": IMAGES,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "folder").mkdir()
    (folder / "pipes").mkdir()
    for pipe in ("pipe", "pipe.csv", "pipe.toml", "pipe.json", "pipes/a.txt"):
        os.mkfifo(folder / pipe)
    (folder / "loop").symlink_to("loop")
    write_study(folder / "study", World(seeds=2, documents=20))
    dl.fit(table_of_runs(), family="supervised", bootstrap=20).save(folder / "law.json")
