"""Results in S3: the same, bit for bit, as in a folder, whatever happens on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import MadeRun, labels_of, run_serially
from tests.s3 import files, objects
from wsi_magnet.config import RunConfig
from wsi_magnet.segmentation import segment_slide

KEPT = RunConfig(keep_probabilities=True, keep_uncertainty=True)


@pytest.fixture(scope="module")
def local_run(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run into a folder."""
    return run_serially(made_run, tmp_path_factory.mktemp("local"), KEPT).folder


def images(found: dict[str, bytes]) -> dict[str, bytes]:
    """What the images consist of."""
    return {name: data for name, data in found.items() if ".ome.zarr/" in name or name == "tissue.png"}


def test_a_run_writes_the_same_objects_as_files(made_run: MadeRun, local_run: Path, bucket: str) -> None:
    summary = segment_slide(made_run.slide, bucket, bundle=made_run.bundle, config=KEPT)
    assert str(summary.folder) == f"{bucket}/{made_run.slide.stem}"
    found = objects(str(summary.folder))
    assert images(found) == images(files(local_run))
    assert set(found) - set(images(found)) == {"run.json", "summary.json", "journal.jsonl"}, "nothing else stays"
    assert (labels_of(summary.folder) == labels_of(local_run)).all(), "as zarr itself reads it"
    assert "secret" not in found["run.json"].decode()
    again = segment_slide(made_run.slide, bucket, bundle=made_run.bundle, config=KEPT)
    assert again.done_before
    assert again.summary == summary.summary
