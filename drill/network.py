"""Faults of the network: between the command and its workers, in network namespaces with a router in between."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from shutil import which

from drill.cluster import Cluster, Site
from drill.scene import DrillFailedError, Scene, SkippedError, Typed

TCP_TIMEOUT_S = 12
"""Seconds without an answer after which a connection is given up; Dask's default is 30 s, its minimum 11 s."""

SHORT_S, LONG_S = 4, 2 * TCP_TIMEOUT_S + 1
"""Seconds of a cut that connections survive, and of one that none survives."""

RETURN_S = 15
"""Seconds that the program waits for a scheduler in the drills where it should give up."""

Cut = tuple[Callable[[bool], None], float]
"""Function that switches a connection off (False) and on, and the seconds in between."""

_ENV = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{TCP_TIMEOUT_S}s"}


@dataclass(frozen=True, slots=True)
class Network:
    """Two network namespaces, with a router in a third between them."""

    near: str
    router: str
    far: str

    def site(self, far: bool) -> Site:
        """Site of the cluster at one end."""
        return Site(address(far), ("ip", "netns", "exec", self.far if far else self.near), _ENV)

    def connect(self, on: bool) -> None:
        """Connect or disconnect the router's link to the far end."""
        _ip("-n", self.router, "link", "set", "far", "up" if on else "down")

    def forward(self, on: bool) -> None:
        """Let the router forward packets, or drop them silently."""
        _inside(self.router, f"echo {int(on)} > /proc/sys/net/ipv4/ip_forward")


def address(far: bool) -> str:
    """IP address of one end."""
    return f"10.213.{int(far)}.2"


@contextmanager
def network() -> Iterator[Network]:
    """A network within the context. Raises SkippedError if it cannot be created."""
    if os.geteuid() or not which("ip"):
        raise SkippedError("network namespaces need root and iproute2")
    made = Network(*(f"drill{os.getpid()}{place}" for place in ("near", "router", "far")))
    try:
        for name in (made.near, made.router, made.far):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        for far, name in ((False, made.near), (True, made.far)):
            cable = "far" if far else "near"
            _ip("-n", made.router, "link", "add", cable, "type", "veth", "peer", "name", "out", "netns", name)
            for place, end, host in ((made.router, cable, 1), (name, "out", 2)):
                _ip("-n", place, "addr", "add", f"10.213.{int(far)}.{host}/24", "dev", end)
                _ip("-n", place, "link", "set", end, "up")
            _ip("-n", name, "route", "add", "default", "via", f"10.213.{int(far)}.1")
        made.forward(True)
        yield made
    finally:
        for name in (made.near, made.router, made.far):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise SkippedError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _inside(name: str, script: str) -> None:
    subprocess.run(["ip", "netns", "exec", name, "sh", "-c", script], check=True)


def client_cut_off(scene: Scene) -> None:
    """The command loses its cluster: for a short and for a long time, by its link and by dropped packets."""
    with network() as net:
        cluster = Cluster(scene, [net.site(True)] * 2, net.site(True))
        _cut_again_and_again(scene, net, cluster, [(net.connect, SHORT_S), (net.forward, LONG_S)])


def workers_cut_off(scene: Scene) -> None:
    """Command and scheduler lose all workers in the same ways."""
    with network() as net:
        cluster = Cluster(scene, [net.site(True)] * 2, net.site(False))
        _cut_again_and_again(scene, net, cluster, [(net.forward, SHORT_S), (net.connect, LONG_S)])


def _cut_again_and_again(scene: Scene, net: Network, cluster: Cluster, cuts: Sequence[Cut]) -> None:
    typed = _typed(scene, net, cluster)
    for switch, seconds in cuts:
        if not scene.until_middle(typed, 1, 6):
            break
        switch(False)
        time.sleep(seconds)
        switch(True)
        scene.injected += 1
        scene.note_recovery(typed)
    scene.finish(typed)
    scene.check()


def bad_line(scene: Scene) -> None:
    """A connection that drops packets in bursts during the whole run."""
    with network() as net:
        cluster = Cluster(scene, [net.site(True)] * 2, net.site(True))
        typed = _typed(scene, net, cluster)
        while not typed.finished:
            for on, most_s in ((False, 0.4), (True, 1.0)):
                net.forward(on)
                time.sleep(scene.rng.random() * most_s)
            scene.injected += 1
            if time.monotonic() > scene.deadline:
                raise DrillFailedError("the command does not end on a connection that drops packets")
        scene.finish(typed)
        scene.check()


def cut_for_good(scene: Scene) -> None:
    """The network does not return: the command ends with an error; after a repair it is typed again.

    Its wait of minutes is shortened.
    """
    with network() as net:
        cluster = Cluster(scene, [net.site(True)] * 2, net.site(True))
        typed = _typed(scene, net, cluster, WSI_MAGNET_DRILL_RETURN_S=str(RETURN_S))
        scene.until_middle(typed)
        net.forward(False)
        scene.injected += 1
        error = scene.finish(typed, code=1)
        if "scheduler" not in error:
            raise DrillFailedError(f"a lost network is reported as {error!r}")
        net.forward(True)
        again = _typed(scene, net, cluster)
        scene.note_recovery(again)
        scene.finish(again)
        scene.check()


def _typed(scene: Scene, net: Network, cluster: Cluster, **env: str) -> Typed:
    near: Sequence[str] = net.site(False).prefix
    return scene.type("--scheduler", cluster.address, prefix=near, env={**_ENV, **env})
