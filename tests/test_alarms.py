"""Every generated situation raises the alarms that it should, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.alarms import GENERATED, ON_FREE, PROFILED, REAL, STRANGE, TRAININGS, Situation, as_it_should
from wsi_magnet.results.alarms import Alarm


# The quick twin of those with a profile is in tests/train/test_profile.py.
@pytest.mark.parametrize(
    "situation",
    [*ON_FREE, *TRAININGS, *(pytest.param(one, marks=pytest.mark.slow) for one in PROFILED)],
    ids=lambda one: one.name,
)
def test_alarms_are_as_they_should(situation: Situation, tmp_path: Path) -> None:
    alarms = situation.raised(tmp_path)
    assert as_it_should(situation, alarms), alarms
    assert all(one.text and "\n" not in one.text for one in alarms)


def test_there_are_thirty_situations_with_the_real_slides() -> None:
    assert len(GENERATED) + len(TRAININGS) + len(REAL) >= 30


def test_a_real_slide_may_raise_more_than_must_be_but_a_good_one_nothing() -> None:
    both = (Alarm(STRANGE[0], ""), Alarm("uncertain", ""))
    strange = Situation("strange", STRANGE, lambda _: both, may_raise_more=True)
    assert as_it_should(strange, both)
    assert not as_it_should(strange, both[1:])
    assert not as_it_should(Situation("good", (), lambda _: both), both)
