"""The tiny study as a file."""

import pytest

from tiny import STUDY


@pytest.fixture(scope="session")
def tiny_text():
    """Content of a study file that runs in seconds."""
    return STUDY


@pytest.fixture
def tiny(tmp_path, tiny_text):
    """Path of that study file."""
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_text)
    return path
