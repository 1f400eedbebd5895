import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "planning"))

import pytest
from synthetic_study import World, write_study

from distillaw.fitting.api import fit
from distillaw.runs.record import read_study

SILENT = {"seed_sd": 0.0, "shared_seed_sd": 0.0, "interaction_sd": 0.0}
"""Losses are those of the law, but for a constant that all runs share."""


@pytest.fixture(scope="session")
def grid(tmp_path_factory):
    """A silent study of four sizes and three budgets, three seeds in one cell."""
    folder = tmp_path_factory.mktemp("grid")
    write_study(
        folder, World(students=(4e4, 8e4, 16e4, 32e4), budgets=(200_000, 600_000, 1_800_000), documents=20, **SILENT)
    )
    return folder


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    """A noisy study with a supervised law that its runs identify."""
    folder = tmp_path_factory.mktemp("fitted")
    sizes = (2e4, 3e4, 4.5e4, 7e4, 1e5, 1.5e5, 2.2e5, 3.3e5, 5e5, 7.5e5, 1.1e6, 1.7e6)
    world = World(
        students=sizes,
        budgets=(1e5, 4e5, 16e5, 64e5),
        teachers=((3e5, 5e6),),
        documents=10,
        seeds=2,
        seed_sd=0.004,
        shared_seed_sd=0.0,
        interaction_sd=0.0,
    )
    write_study(folder, world)
    fit(folder, family="supervised", bootstrap=40).save(folder / "laws" / "supervised.json")
    return folder


@pytest.fixture(scope="session")
def noisy(tmp_path_factory):
    """A study as people have it: two sizes, two budgets, three teachers, noise."""
    folder = tmp_path_factory.mktemp("noisy")
    write_study(folder)
    return folder


@pytest.fixture
def grid_record(grid):
    return read_study(grid)
