"""The workers of a real scheduler, and a function's result on each."""

from __future__ import annotations

from importlib.metadata import version

from distributed import Client, LocalCluster

from wsi_magnet.runtime.workers import info_of


def test_workers_are_told_as_they_were_started() -> None:
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=3,
            processes=False,
            memory_limit="2GB",
            resources={"GPU": 2},
            dashboard_address=":0",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        scheduler_info = info_of(client)
    assert len(scheduler_info.workers) == 2
    for member in scheduler_info.workers.values():
        assert (member.threads, member.resources, member.memory_limit_bytes) == (3, {"GPU": 2}, 2_000_000_000)
        assert -1 < member.unheard_s < 10
    assert scheduler_info.scheduler_versions["distributed"] == version("distributed")
