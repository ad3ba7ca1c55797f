"""The names that the package itself offers: all there are, and enough for a batch."""

from __future__ import annotations

from pathlib import Path

import wsi_magnet
from tests.runs import MadeRun
from wsi_magnet import CohortOptions, Execution, find_slides, segment_cohort


def test_every_name_is_there() -> None:
    assert {*wsi_magnet._HOME, "__version__"} == set(wsi_magnet.__all__) <= set(dir(wsi_magnet))
    for name in wsi_magnet.__all__:
        assert getattr(wsi_magnet, name)


def test_a_batch_in_python(made_run: MadeRun, tmp_path: Path) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"no slide")
    out = tmp_path / "results"
    slides = find_slides([str(bad), str(made_run.slide)], out).slides
    cohort = segment_cohort(slides, CohortOptions(out, bundle=str(made_run.bundle), execution=Execution(workers=1)))
    assert cohort.counts == {"finished": 1, "failed": 1}
    assert "cannot be opened" in (cohort.states["bad"].error or "")
