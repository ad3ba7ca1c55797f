"""Result folders of a cohort's output."""

from __future__ import annotations

from pathlib import Path

from tests.cohort.made import Batches, write_slide
from tests.runs import MadeRun, run_serially
from wsi_magnet.cohort.paths import result_folders


def test_an_output_stands_for_its_results(batches: Batches, tmp_path: Path) -> None:
    write_slide(batches.slides / "a.tif", 1)
    write_slide(batches.slides / "b.tif", 2)
    (batches.slides / "c.svs").write_bytes(b"")
    batches.run()
    both = [batches.out / "a", batches.out / "b"]
    assert result_folders(batches.out) == both
    assert [result for named in sorted(batches.folder.glob("[!.]*")) for result in result_folders(named)] == both
    assert result_folders(batches.out / "a") == [batches.out / "a"]
    assert result_folders(tmp_path / "nothing") == [tmp_path / "nothing"], "its reader reports what is wrong"
    run_serially(MadeRun(write_slide(tmp_path / "d.tif", 3), batches.bundle), batches.folder)
    assert result_folders(batches.out) == [*both, batches.out / "d"], "a single run beside a batch"


def test_an_output_of_runs_stands_for_them(batches: Batches, tmp_path: Path) -> None:
    run_serially(MadeRun(write_slide(tmp_path / "d.tif", 3), batches.bundle), batches.folder)
    (batches.folder / "notes").mkdir()
    assert result_folders(batches.out) == [batches.out / "d"]
    assert result_folders(batches.out / "d") == [batches.out / "d"]
