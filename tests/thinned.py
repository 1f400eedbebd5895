"""Cases of which `make test` runs a part and `make test-all` every one."""

from collections.abc import Sequence
from typing import Any

import pytest


def one_in(n: int, cases: Sequence[Any]) -> list[Any]:
    """The cases, all but each n-th of them slow."""
    return [case if k % n == 0 else pytest.param(case, marks=pytest.mark.slow) for k, case in enumerate(cases)]
