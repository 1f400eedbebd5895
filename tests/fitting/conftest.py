"""Runs made from published laws."""

import numpy as np
import pytest

from distillaw.laws.published import published


@pytest.fixture(scope="session")
def grid() -> dict[str, np.ndarray]:
    """A 6 x 5 noise-free supervised grid of the published law."""
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1.4e8, 1e10, 6), np.geomspace(3e9, 5e11, 5)))
    return {"params": N, "tokens": D, "loss": published("busbridge2025").supervised(params=N, tokens=D)}


@pytest.fixture(scope="session")
def study() -> dict[str, np.ndarray]:
    """A run table as a study writes it: teachers and no-teacher students, then distilled students (set S2)."""
    law = published("surrogate-s2")
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1.4e8, 1e10, 6), np.geomspace(3e9, 5e11, 5)))
    NS, DS, LT = (
        v.ravel()
        for v in np.meshgrid(np.geomspace(1.4e8, 5e9, 5), np.geomspace(3e9, 5e11, 4), np.linspace(1.9, 2.7, 6))
    )
    plain = law.supervised(params=N, tokens=D)
    taught = law.distillation(student_params=NS, student_tokens=DS, teacher_loss=LT)
    return {
        "run_id": np.array([f"r{i}" for i in range(len(N) + len(NS))]),
        "params": np.r_[N, NS],
        "tokens": np.r_[D, DS],
        "loss": np.r_[plain, taught],
        "teacher_loss": np.r_[np.full(len(N), np.nan), LT],
        "purpose": np.array(["teacher"] * len(N) + ["grid"] * len(NS)),
    }


def noisy(table: dict, scale: float, seed: int) -> dict:
    """The table with multiplicative noise on the losses."""
    rng = np.random.default_rng(seed)
    return table | {"loss": table["loss"] * np.exp(scale * rng.standard_normal(len(table["loss"])))}


@pytest.fixture(scope="session")
def with_noise():
    return noisy
