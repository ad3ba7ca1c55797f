"""Arguments of worker processes of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wsi_magnet.errors import ConfigError
from wsi_magnet.runtime.clusters.local import local_options
from wsi_magnet.runtime.clusters.spec import parse_cluster


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory_limit": "tons"}, "memory_limit is 'tons', not bytes of a worker"),
        ({"memory_limit": [1]}, r"memory_limit is \[1\], not bytes of a worker"),
        ({"threads_per_worker": "lots"}, "threads_per_worker is 'lots', not a whole number"),
        ({"threads_per_worker": 0}, "threads_per_worker is 0, not a whole number"),
    ],
)
def test_threads_and_memory_are_numbers(options: dict[str, Any], said: str) -> None:
    local = parse_cluster({"kind": "local", "workers": 1, "options": options}, Path("local.yaml"))
    with pytest.raises(ConfigError, match=f"local.yaml: options: {said}"):
        local_options(local)


def test_memory_is_spelt_as_dask_spells_it() -> None:
    for limit in ("auto", "2GB", 0, 1e9, None):
        local = parse_cluster({"kind": "local", "workers": 1, "options": {"memory_limit": limit}}, Path("local.yaml"))
        assert local_options(local)["memory_limit"] == limit
