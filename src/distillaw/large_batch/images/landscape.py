"""The paper's test of alpha: how far losses scatter at random distances from fresh weights, on images.

Weights w_0 are Glorot's, v is a random direction of unit length over all parameters, z uniform in [0, c]:
L(w_0 + z v) - L(w_0) for many v, on the same images. The network is in training mode, normalised by the
statistics of these images, since running statistics of fresh weights mean nothing. Fitted by large_batch/diffusion.py.
"""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from distillaw.errors import ConfigError
from distillaw.large_batch.diffusion import fit_alpha
from distillaw.large_batch.images.networks import build_network
from distillaw.large_batch.images.results import LANDSCAPE
from distillaw.large_batch.images.spec import ImageStudy
from distillaw.large_batch.images.study import machine, read_data
from distillaw.large_batch.images.train import make_feeds, seed_of
from distillaw.runs.files import write_json


def measure_landscape(
    study: ImageStudy,
    path: Path,
    out: Path,
    *,
    steps: int,
    farthest: float,
    images: int,
    device: str = "cpu",
    seed: int = 0,
    command: str = "",
) -> dict[str, Any]:
    """Take so many random steps from fresh weights, fit alpha and write `landscape.json` into a folder.

    Args:
        study: its network and how images are prepared.
        path: the images.
        out: the folder.
        steps: directions v, 1000 in the paper.
        farthest: c, the largest distance; 10 in the paper.
        images: the first so many training images, all at once.
        device: cpu, cuda or cuda:N.
        seed: of weights and directions.
        command: what the user typed, for the record.

    Raises:
        ConfigError: a distance that is not positive, more images than there are.
        DataError: too few steps for a fit, or losses that are not finite.
    """
    if not 0 < farthest < math.inf:
        raise ConfigError(f"farthest = {farthest:g}: a distance above 0")
    data = read_data(study, path)
    if not 2 <= images <= len(data.train):
        raise ConfigError(f"images = {images}: from 2 to the {len(data.train)} of the training set")
    torch.set_num_threads(1)
    began = time.monotonic()
    feeds = make_feeds(data, study, device)
    dropout = torch.Generator(device).manual_seed(seed)
    model = build_network(study.network, feeds.shape, seed=seed_of(seed, 0), dropout=dropout)
    _glorot(model, seed=seed_of(seed, 1))
    model.to(device).train()
    pixels_BCHW, labels_B = feeds.train.plain(0, images)
    random = torch.Generator().manual_seed(seed_of(seed, 2))

    @torch.no_grad()
    def loss() -> float:
        dropout.manual_seed(seed)  # the same masks at every step
        return float(functional.cross_entropy(model(pixels_BCHW), labels_B))

    start_P = parameters_to_vector(model.parameters()).detach().clone()
    at_start = loss()
    distances = farthest * torch.rand(steps, generator=random, dtype=torch.float64).numpy()
    differences = np.empty(steps)
    for i, distance in enumerate(distances):
        direction_P = torch.randn(len(start_P), generator=random).to(device)
        vector_to_parameters(start_P + distance / direction_P.norm() * direction_P, model.parameters())
        differences[i] = loss() - at_start
    found = {
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "device": device,
        "seconds": time.monotonic() - began,
        "network": asdict(study.network),
        "data": {"path": str(path), "images": images, "fingerprint": data.fingerprint()},
        "params": len(start_P),
        "steps": steps,
        "farthest": farthest,
        "seed": seed,
        "loss_at_start": at_start,
        **asdict(fit_alpha(distances, differences)),
    }
    write_json(out / LANDSCAPE, found)
    return found


def _glorot(model: nn.Module, *, seed: int) -> None:
    """Uniform weights of Glorot and Bengio 2010, zero biases; norms stay at one and zero."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=random)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
