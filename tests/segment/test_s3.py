"""Results in S3: the same, bit for bit, as in a folder, whatever happens on the way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import Call, one_line
from tests.runs import MadeRun, labels_of, run_serially
from tests.s3 import BUCKET, files, objects
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import ResultBusyError, ResultMismatchError
from wsi_magnet.results.events import Event, Note, ScaleStarted, TileFinished
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.storage import location as places
from wsi_magnet.storage import lock
from wsi_magnet.storage.location import to_location

KEPT = RunConfig(keep_probabilities=True, keep_uncertainty=True)


@pytest.fixture(scope="module")
def local_run(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run into a folder."""
    return run_serially(made_run, tmp_path_factory.mktemp("local"), KEPT).folder


@pytest.fixture(scope="module")
def s3_run(made_run: MadeRun, s3_server: str) -> str:
    """The same run into S3, for those who only read it."""
    return str(segment_slide(made_run.slide, f"s3://{BUCKET}/read-only", bundle=made_run.bundle, config=KEPT).folder)


def images(found: dict[str, bytes], product: str = "") -> dict[str, bytes]:
    """What the images consist of, or one of them."""
    return {name: data for name, data in found.items() if f"{product}.ome.zarr/" in name or name == "tissue.png"}


@pytest.mark.slow
def test_a_run_writes_the_same_objects_as_files(made_run: MadeRun, local_run: Path, s3_run: str) -> None:
    assert s3_run == f"s3://{BUCKET}/read-only/{made_run.slide.stem}"
    found = objects(s3_run)
    assert images(found) == images(files(local_run))
    assert set(found) - set(images(found)) == {"run.json", "summary.json", "journal.jsonl"}, "nothing else stays"
    assert (labels_of(to_location(s3_run)) == labels_of(local_run)).all(), "as zarr itself reads it"
    assert not [name for name in ("run.json", "summary.json") if b"secret" in found[name]]


@pytest.mark.slow
def test_typed_again_it_does_nothing(call: Call, made_run: MadeRun, s3_run: str) -> None:
    before = objects(s3_run)
    output = s3_run.rpartition("/")[0]
    arguments = ["run", made_run.slide, "-o", output, "--bundle", made_run.bundle]
    again = call(*arguments, "--keep", "probabilities,uncertainty")
    assert "Finished before" in again.stdout
    assert f"{s3_run}/mask.ome.zarr" in again.stdout
    fewer = call(*arguments)
    assert fewer.exit_code == 0, fewer.output
    assert "from an earlier --keep; it stays" in fewer.stderr
    assert objects(s3_run) == before


@pytest.mark.slow
def test_shards_of_zarr_v3(made_run: MadeRun, bucket: str, tmp_path: Path) -> None:
    config = RunConfig(ngff="0.5")
    local = run_serially(made_run, tmp_path, config).folder
    url = str(segment_slide(made_run.slide, bucket, bundle=made_run.bundle, config=config).folder)
    assert images(objects(url)) == images(files(local))
    assert any(name.startswith("mask.ome.zarr/0/c/") for name in objects(url))


@pytest.mark.slow
def test_killed_and_gone_on_with_by_worker_processes(
    long_run: MadeRun, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = [sys.executable, "-m", "wsi_magnet", "run", str(long_run.slide), "-o", bucket, "--workers", "2"]
    start += ["--bundle", str(long_run.bundle), "--tile", "512"]
    process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"{bucket}/{long_run.slide.stem}"
    until = time.monotonic() + 120
    while not [name for name in objects(url) if name.startswith("journal/")]:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until, "nothing happens"
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    monkeypatch.setattr(lock, "LEASE_S", 3.0)
    seen: list[Event] = []
    segment_slide(
        long_run.slide,
        bucket,
        bundle=long_run.bundle,
        config=RunConfig(tile_px=512),
        execution=Execution("cpu", workers=2),
        observe=seen.append,
    )
    kept = [event.done for event in seen if isinstance(event, ScaleStarted)]
    kept += [event.text.count("was finished before") for event in seen if isinstance(event, Note)]
    assert sum(kept) > 0, "what the killed run had finished was done again"
    assert any(isinstance(event, TileFinished) for event in seen)
    whole = run_serially(long_run, tmp_path, KEPT).folder
    assert images(objects(url), "mask") == images(files(whole), "mask")
    found = objects(url)
    beside = {name for name in set(found) - set(images(found)) if not name.startswith("log")}
    assert beside == {"run.json", "summary.json", "journal.jsonl"}


@pytest.mark.slow
def test_two_clients_on_one_folder(made_run: MadeRun, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LEASE_S", 3600.0)  # the second is refused at once, and does not wait for it to run out
    folder = ResultFolder(to_location(bucket) / made_run.slide.stem)
    with (
        folder.locked(),
        pytest.raises(ResultBusyError, match=r"another run \(process \d+ on .*\) is working in s3://"),
    ):
        segment_slide(made_run.slide, bucket, bundle=made_run.bundle)


@pytest.mark.slow
def test_what_is_no_result_is_not_deleted(made_run: MadeRun, bucket: str) -> None:
    thesis = to_location(bucket) / made_run.slide.stem / "thesis.txt"
    places.replace_bytes(thesis, b"years of work")
    with pytest.raises(ResultMismatchError, match=r"thesis\.txt"):
        segment_slide(made_run.slide, bucket, bundle=made_run.bundle)
    assert places.read_bytes(thesis) == b"years of work"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiles", "csv", "ome-tiff"])
def test_exports_are_those_of_a_folder(call: Call, local_run: Path, s3_run: str, tmp_path: Path, kind: str) -> None:
    suffix = {"tiles": "geojson", "ome-tiff": "ome.tif"}.get(kind, kind)
    for result, name in ((s3_run, "s3"), (local_run, "local")):
        written = call("export", result, "--to", kind, "-o", tmp_path / f"{name}.{suffix}")
        assert written.exit_code == 0, written.output
    assert (tmp_path / f"s3.{suffix}").read_bytes() == (tmp_path / f"local.{suffix}").read_bytes()


@pytest.mark.slow
def test_fsspecs_own_configuration_is_heard_and_nothing_is_left_open(
    s3_server: str, s3_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", s3_server)
    start = [sys.executable, "-m", "wsi_magnet", "export", s3_run, "--to", "csv", "-o", str(tmp_path / "x.csv")]
    done = subprocess.run(start, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_overlay_and_report_of_a_url(call: Call, local_run: Path, s3_run: str, tmp_path: Path) -> None:
    for result, name in ((s3_run, "s3"), (local_run, "local")):
        assert call("overlay", result, "-o", tmp_path / f"{name}.png", "--size", "500").exit_code == 0
    assert (tmp_path / "s3.png").read_bytes() == (tmp_path / "local.png").read_bytes()
    report = call("report", s3_run, local_run, "-o", tmp_path / "all.html", "--size", "300")
    assert report.exit_code == 0, report.output
    assert len(list((tmp_path / "all-slides").iterdir())) == 2


@pytest.mark.slow
def test_a_store_that_cannot_be_used_is_told_in_one_line(
    call: Call, made_run: MadeRun, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(output: str) -> str:
        places._filesystem.cache_clear()
        return one_line(call("run", made_run.slide, "-o", output, "--bundle", made_run.bundle))

    assert "no such bucket" in told("s3://nobody-has-made-this/x")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        text = told(f"s3://{BUCKET}/x")
        assert "does not answer" in text
        assert "AWS_ENDPOINT_URL" in text
    with monkeypatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        text = told(f"s3://{BUCKET}/x")
        assert "access is refused" in text
        assert "AWS_SECRET_ACCESS_KEY" in text
    places._filesystem.cache_clear()
