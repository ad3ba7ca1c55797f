"""The uncertainty of a finished result, made from its probabilities: every byte as if the run had kept it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.few import slow_except
from tests.runs import MadeRun, labels_of, local, run_serially
from wsi_magnet.config import Ngff, RunConfig
from wsi_magnet.errors import ResultMismatchError
from wsi_magnet.results import uncertainty
from wsi_magnet.results.events import Note, TileFinished
from wsi_magnet.results.reader import Result


def files_of(image: Path) -> dict[str, bytes]:
    return {str(path.relative_to(image)): path.read_bytes() for path in image.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ngff", slow_except(["0.4"], ["0.4", "0.5"]))
def test_it_is_the_image_that_the_run_would_have_kept(made_run: MadeRun, tmp_path: Path, ngff: Ngff) -> None:
    both = RunConfig(tile_px=1024, ngff=ngff, keep_probabilities=True, keep_uncertainty=True)
    kept = local(run_serially(made_run, tmp_path / "kept", both).folder)
    later = RunConfig(tile_px=1024, ngff=ngff, keep_probabilities=True)
    folder = local(run_serially(made_run, tmp_path / "later", later).folder)
    events: list[object] = []
    done = run_serially(made_run, tmp_path / "later", both, observe=events.append)
    assert done.done_before
    assert not [event for event in events if isinstance(event, TileFinished)]
    assert [event.text for event in events if isinstance(event, Note)] == [
        "the uncertainty is computed from the probabilities that this result has kept"
    ]
    expected, found = files_of(kept / "uncertainty.ome.zarr"), files_of(folder / "uncertainty.ome.zarr")
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == set()
    records = [json.loads((one / "run.json").read_text()) for one in (kept, folder)]
    for key in ("config", "fingerprint", "chunks"):
        assert records[0][key] == records[1][key]
    assert Result(folder).uncertainty is not None
    events.clear()
    run_serially(made_run, tmp_path / "later", both, observe=events.append)
    assert not events, "it is not made twice"


@pytest.mark.slow
def test_killed_while_it_is_written_it_is_written_again(
    made_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_serially(made_run, tmp_path, RunConfig(tile_px=512, keep_probabilities=True))
    more = RunConfig(tile_px=512, keep_uncertainty=True)
    with monkeypatch.context() as patch:
        patch.setattr(uncertainty, "_write_coarser", dies)
        with pytest.raises(KeyboardInterrupt):
            run_serially(made_run, tmp_path, more)
    folder = local(run_serially(made_run, tmp_path, more).folder)
    stored = labels_of(folder, 0, "probabilities")
    assert np.array_equal(labels_of(folder, 0, "uncertainty"), uncertainty.margin_uncertainty(stored))
    assert json.loads((folder / "run.json").read_text())["fingerprint"]["--keep"] == "probabilities,uncertainty"


def dies(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_without_probabilities_it_cannot_be_made(made_run: MadeRun, tmp_path: Path) -> None:
    run_serially(made_run, tmp_path)
    with pytest.raises(ResultMismatchError, match="uncertainty cannot be made from what is stored"):
        run_serially(made_run, tmp_path, RunConfig(tile_px=512, keep_uncertainty=True))
