from pathlib import Path
from types import SimpleNamespace

import pytest
from ranked import CONTEXT


@pytest.fixture(scope="session")
def repository():
    return Path(__file__).parents[3]


@pytest.fixture
def forked(monkeypatch):
    """Processes come from a server that has imported torch: spawned ones import it for seconds each."""
    server = SimpleNamespace(get_context=lambda kind: CONTEXT)
    monkeypatch.setattr("distillaw.large_batch.images.study.multiprocessing", server)
