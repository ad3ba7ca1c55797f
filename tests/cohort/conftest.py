"""A cohort for each test, with the bundle that all share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cohort.made import Batches, write_free_bundle


@pytest.fixture(scope="session")
def free_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks that cost nothing, at 1 and 0.5 µm."""
    return write_free_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def batches(tmp_path: Path, free_bundle: Path) -> Batches:
    """A folder without slides so far, and an output."""
    (tmp_path / "slides").mkdir()
    return Batches(tmp_path / "slides", tmp_path / "out", free_bundle)
