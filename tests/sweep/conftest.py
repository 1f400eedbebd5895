"""A study small enough to be run many times: 25k-parameter models on a few thousand tokens of the speeches."""

import pytest

from tiny import DATA

TINY = f"""
name = "tiny"
batch_tokens = 128
peak_lr = 0.01
{DATA}[tuning]
enabled = false
[students]
params = ["0.03M", "0.05M"]
tokens = ["4k", "8k"]
[[teachers]]
params = "0.05M"
tokens = "16k"
[[replicates]]
params = "0.03M"
seeds = 2
tokens = ["4k"]
[target]
params = "0.03M"
tokens = "8k"
"""


@pytest.fixture(scope="session")
def tiny_text():
    """Content of a study file that runs in seconds."""
    return TINY


@pytest.fixture
def tiny(tmp_path, tiny_text):
    """Path of that study file."""
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_text)
    return path
