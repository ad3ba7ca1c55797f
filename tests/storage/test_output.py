"""Places of output files."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_magnet.errors import StoreError
from wsi_magnet.storage.output import refuse_existing


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_place_that_may_not_be_looked_at_is_one_line(monkeypatch: pytest.MonkeyPatch, overwrite: bool) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(StoreError, match="check its permissions"):
        refuse_existing(Path("forbidden/x.csv"), overwrite=overwrite)


def test_what_exists_is_replaced_on_request_only(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    refuse_existing(tmp_path / "x", overwrite=True)
    refuse_existing(tmp_path / "new" / "x", overwrite=False)
    with pytest.raises(StoreError, match="x exists; choose another name with -o, or replace it with --overwrite"):
        refuse_existing(tmp_path / "x", overwrite=False)
    with pytest.raises(StoreError, match="x is a file, not a folder"):
        refuse_existing(tmp_path / "x" / "y" / "z", overwrite=True)
