"""The law of starts: its equation, what it makes of published factors, members, and where it holds."""

import numpy as np
import pytest

from distillaw.errors import DataError
from distillaw.laws.starts import CUTS, StartLaw

AT = {"student_params": 4e9, "source_params": 8e9, "source_tokens": 2e11}


def test_the_head_start_is_the_share_of_what_the_source_read_that_its_size_keeps():
    law = StartLaw(share=0.6, taught=0.2, power=1.5)
    assert law.head_start(**AT, taught=False)[0] == pytest.approx(0.6 * 2e11 * 0.5**1.5)
    assert law.head_start(**AT, taught=True)[0] == pytest.approx(0.2 * 2e11 * 0.5**1.5)


def test_a_head_start_fades_nearly_as_a_searched_sub_network_was_seen_to():
    """Factors 5.16 at 10B tokens and 1.26 at 100B (arXiv:2510.07227v2): 41.6B tokens ahead, later 26B."""
    ahead = 4.16 * 1e10
    assert 1 + ahead / 1e11 == pytest.approx(1.416, abs=1e-3)
    law = StartLaw(share=1.0, taught=ahead / 3e11, power=0.0)
    assert law.head_start(student_params=1e9, source_params=7e9, source_tokens=3e11, taught=True)[0] == pytest.approx(
        ahead
    )


def test_members_come_first_and_coordinates_broadcast():
    law = StartLaw(share=np.array([0.3, 0.6, 1.2]), taught=0.2, power=np.array([1.0, 1.5, 2.0]))
    found = law.head_start(**AT | {"student_params": [1e9, 2e9]}, taught=False)
    assert found.shape == (3, 2)
    one = StartLaw(share=0.6, taught=0.2, power=1.5)
    assert found[1, 1] == pytest.approx(one.head_start(**AT | {"student_params": 2e9}, taught=False)[0])


def test_it_says_where_it_holds_and_refuses_what_is_no_size():
    inside = CUTS.inside(student_params=[4e9, 1e8], source_params=8e9)
    assert inside.tolist() == [True, False]
    with pytest.raises(DataError, match="source_tokens"):
        CUTS.head_start(**AT | {"source_tokens": 0}, taught=True)
