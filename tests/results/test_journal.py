"""The journal: what is written comes back, and a torn line costs one tile."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.errors import ResultBusyError
from wsi_magnet.results.journal import CellResult, Journal, TileResult, read_history
from wsi_magnet.storage.location import to_location

QUARTERS = ((10, 4), (0, 0), (255, 1), (3, 2))


def tile(scale: int, row: int, col: int = 0) -> TileResult:
    cells = (
        CellResult(row, col, True, QUARTERS),
        CellResult(row, col + 1, False, QUARTERS, "torn JPEG"),
        CellResult(row, col + 2, True, QUARTERS, unaffected=True),
    )
    return TileResult(scale, row, col, cells, {0: 5, 255: 7}, {"read": 0.5}, "host:1")


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.tile(tile(0, 0))
        journal.scale_done(0)
        journal.tile(tile(1, 3))
    history = read_history(path)
    assert history.tiles == {(0, 0, 0): tile(0, 0), (1, 3, 0): tile(1, 3)}
    assert history.finished_scales == {0}
    assert list(history.of_scale(1)) == [tile(1, 3)]


def test_a_finished_scale_of_a_journal_of_0_1_0_is_read(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"pass":0}\n{"scale":1}\n')
    assert read_history(tmp_path / "journal.jsonl").finished_scales == {0, 1}


def test_a_complete_scale_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_magnet.storage.append_log.WAIT_S", 60.0)
    path = to_location("memory://scales/journal.jsonl")
    with Journal(path) as journal:
        journal.tile(tile(0, 0))
        journal.scale_done(0)
        history = read_history(path)
    assert (history.finished_scales, len(history.tiles)) == (frozenset({0}), 1)
    assert read_history(path) == history


def test_a_folder_that_was_taken_over_gets_no_line(tmp_path: Path) -> None:
    def lost() -> None:
        raise ResultBusyError("another run")

    with pytest.raises(ResultBusyError), Journal(tmp_path / "journal.jsonl", lost) as journal:
        journal.tile(tile(0, 0))
    assert not read_history(tmp_path / "journal.jsonl").tiles


def test_no_journal_is_an_empty_history(tmp_path: Path) -> None:
    assert not read_history(tmp_path / "none").tiles


@given(st.integers(0, 2000))
def test_a_torn_journal_keeps_its_whole_lines_and_takes_more(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        with Journal(path) as journal:
            for row in range(5):
                journal.tile(tile(0, row))
        whole = path.read_bytes()
        torn = whole[: cut % len(whole)]
        path.write_bytes(torn)
        kept = torn.count(b"\n")
        assert len(read_history(path).tiles) == kept
        with Journal(path) as journal:
            journal.tile(tile(0, 9))
        assert len(read_history(path).tiles) in (kept + 1, kept + 2), (
            "a line torn just before its newline is whole after all"
        )
        assert (0, 9, 0) in read_history(path).tiles
