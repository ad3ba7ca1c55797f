"""Results to make pages of, and a browser to look at them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import Browser, started
from tests.runs import MadeRun, free_spec, run_serially, write_bundle
from wsi_magnet.config import RunConfig
from wsi_magnet.nets.spec import ClassInfo

EVIL = "</script><script>document.title = 'taken over'</script>"
EVIL_SLIDE = "<img src=x onerror=alert(1)> & 'co'.svs"


@pytest.fixture(scope="session")
def graded(small_svs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a real slide by a bundle with Gleason patterns, half of it refined, with names that are markup."""
    folder = tmp_path_factory.mktemp("graded")
    slide = folder / EVIL_SLIDE
    shutil.copy(small_svs, slide)
    spec = free_spec(
        name="<b>free",
        mpps=(8.0, 4.0, 2.0),
        classes=(
            ClassInfo(EVIL, 2, (100, 150, 220)),
            ClassInfo("Gleason 3", 3, (255, 210, 60)),
            ClassInfo("Gleason 4", 4, (240, 110, 0)),
        ),
        card={"licence": "<i>none</i>", "not for": "diagnosis"},
    )
    bundle = write_bundle(folder / "graded.safetensors", spec)
    config = RunConfig(tile_px=512, refine=0.5, keep_uncertainty=True)
    return run_serially(MadeRun(slide, bundle), folder / "out", config).folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium; skips where there is none."""
    with started() as window:
        yield window
