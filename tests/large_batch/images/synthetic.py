"""Studies on disk whose every number is chosen: errors per column and seed, and walks of known slope."""

import json
import math
from dataclasses import asdict

import numpy as np

from distillaw.large_batch.diffusion import log_steps
from distillaw.large_batch.images.results import CELLS, RECORD
from distillaw.large_batch.images.spec import (
    COLUMNS,
    Batches,
    DiffusionSpec,
    Drop,
    ImageStudy,
    NetworkSpec,
    Schedule,
    plan_cells,
)
from distillaw.large_batch.images.train import describe

TEST_IMAGES, TRAIN_IMAGES = 10_000, 60_000
WRONG = {"SB": 180, "LB": 300, "+LR": 250, "+GBN": 248, "+RA": 150, "RA alone": 190, "noise": 245}
"""Errors of each column on average: 98.20, 97.00, 97.50, 97.52, 98.50, 98.10 and 97.55 % right."""
SLOPES = {
    (128, False): 1.0,
    (1024, False): 0.7,
    (4096, False): 0.4,
    (128, True): 1.0,
    (1024, True): 0.95,
    (4096, True): 0.9,
}


def make_study(**changes):
    usual = {
        "name": "made",
        "paper": "F1",
        "network": NetworkSpec(kind="f1"),
        "columns": COLUMNS,
        "seeds": 5,
        "batches": Batches(small=128, large=4096),
        "diffusion": DiffusionSpec(batches=(128, 1024, 4096)),
        "schedule": Schedule(epochs=50, drops=(Drop(epoch=30, factor=0.1),)),
    }
    return ImageStudy(**usual | changes)


def write_study(folder, study, *, wrong=WRONG, spread=4, slopes=SLOPES, skip=lambda cell: False, diverged=()):
    """The record and a result for each cell, as `run_study` leaves them.

    Args:
        folder: of the study.
        study: its settings.
        wrong: mean errors by column.
        spread: of errors over seeds: seed s has (s - 2) spread more.
        slopes: (batch, corrected) to b; the walks are exactly b (1 + ln t).
        skip: cells without a result.
        diverged: columns whose cells failed.
    """
    cells = plan_cells(study, images=TRAIN_IMAGES)
    data = {
        "path": "made.npz",
        "format": "made",
        "train_images": TRAIN_IMAGES,
        "test_images": TEST_IMAGES,
        "classes": 10,
        "shape": [1, 28, 28],
        "fingerprint": "0",
    }
    info = {
        "kind": "large-batch",
        "name": study.name,
        "version": "0",
        "command": "distillaw large-batch run",
        "date": "2026-01-01",
        "spec": asdict(study),
        "data": data,
        "device": "cpu",
        "workers": 2,
        "machine": "made",
        "seconds": 60.0,
        "notes": ["a note"],
        "cells": [],
    }
    for cell in cells:
        name = cell.folder(study, "0")
        info["cells"].append({"column": cell.column, "seed": cell.seed, "folder": name})
        if not skip(cell):
            path = folder / CELLS / name / "result.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(_result(cell, study, wrong, spread, slopes, diverged)))
    folder.mkdir(exist_ok=True)
    (folder / RECORD).write_text(json.dumps(info))
    return folder


def _result(cell, study, wrong, spread, slopes, diverged):
    steps = log_steps(cell.first_phase)
    slope = slopes[cell.batch, bool(cell.peak_lr > study.optimizer.peak_lr)]
    slope *= 1 + 0.01 * (cell.seed - 2)
    distances = [slope * (1 + math.log(step)) for step in steps]
    curves = {
        "steps": steps,
        "distances": {"total": distances, "first": [d / 2 for d in distances]},
        "losses": [1.0] * len(steps),
        "evaluated": [steps[-1]],
        "accuracy": [97.0],
    }
    found = {
        **describe(cell),
        "params": 1,
        "device": "cpu",
        "torch": "0",
        "seconds": 2.0,
        "cpu_seconds": 1.0,
        "curves": curves,
    }
    if cell.column in diverged:
        return found | {"state": "diverged", "error": "the loss is nan by step 50", "step": 50}
    if cell.is_walk:
        return found | {"state": "done"}
    count = wrong[cell.column] + spread * (cell.seed - 2)
    places = np.random.default_rng([cell.seed, count]).permutation(TEST_IMAGES)[:count]
    return found | {
        "state": "done",
        "accuracy": 100 * (TEST_IMAGES - count) / TEST_IMAGES,
        "loss": 0.1,
        "wrong": sorted(places.tolist()),
        "test_images": TEST_IMAGES,
        "train_accuracy": 99.9,
        "train_loss": 0.01,
        "fresh_accuracy": 98.0,
    }
