import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "planning"))

import pytest
from synthetic_study import write_study

from distillaw.report.document import write_report
from in_browser import chromium, open_file  # noqa: F401


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """A synthetic study with its report written."""
    folder = tmp_path_factory.mktemp("reported")
    write_study(folder)
    write_report(folder)
    return folder
