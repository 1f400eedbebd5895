"""Where the papers' tables are: DISTILLAW_DATA, or ../shared/data beside the checkout."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def published_data() -> Path:
    root = Path(os.environ.get("DISTILLAW_DATA", Path(__file__).parents[3] / "shared" / "data"))
    folder = root / "published"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set DISTILLAW_DATA to the folder that holds published/")
    return folder
