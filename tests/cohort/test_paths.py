"""Result folders of a cohort's output."""

from __future__ import annotations

from pathlib import Path

from tests.cohort.made import Batches, write_slide
from tests.commands import Call
from wsi_magnet.cohort.paths import result_folders


def test_an_output_stands_for_its_results(batches: Batches, call: Call, tmp_path: Path) -> None:
    write_slide(batches.slides / "a.tif", 1)
    write_slide(batches.slides / "b.tif", 2)
    (batches.slides / "c.svs").write_bytes(b"")
    batches.run()
    both = [batches.out / "a", batches.out / "b"]
    assert result_folders(batches.out) == both
    assert [result for named in sorted(batches.folder.glob("[!.]*")) for result in result_folders(named)] == both
    assert result_folders(batches.out / "a") == [batches.out / "a"]
    assert result_folders(tmp_path / "nothing") == [tmp_path / "nothing"], "its reader reports what is wrong"
    made = call("report", batches.out, "-o", tmp_path / "report.html", "--size", "200")
    assert made.exit_code == 0, made.output
    text = (tmp_path / "report.html").read_text()
    assert "a.tif" in text
    assert "b.tif" in text
