import pytest
from synthetic_study import World, write_study


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """One synthetic study with three teachers, two students, two budgets, three seeds of one cell."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, World())
    return folder
