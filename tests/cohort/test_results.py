"""What of an output is a result."""

from __future__ import annotations

from pathlib import Path

from tests.cohort.made import Batches, write_slide
from tests.commands import Call
from wsi_magnet.cohort.results import results_of


def test_an_output_stands_for_the_results_in_it(batches: Batches, call: Call, tmp_path: Path) -> None:
    write_slide(batches.slides / "a.tif", 1)
    write_slide(batches.slides / "b.tif", 2)
    (batches.slides / "c.svs").write_bytes(b"")
    batches.run()
    both = [batches.out / "a", batches.out / "b"]
    assert results_of(batches.out) == both
    assert [result for named in sorted(batches.folder.glob("[!.]*")) for result in results_of(named)] == both
    assert results_of(batches.out / "a") == [batches.out / "a"]
    assert results_of(tmp_path / "nothing") == [tmp_path / "nothing"], "whoever reads it says what is wrong"
    made = call("report", batches.out, "-o", tmp_path / "report.html", "--size", "200")
    assert made.exit_code == 0, made.output
    text = (tmp_path / "report.html").read_text()
    assert "a.tif" in text
    assert "b.tif" in text
