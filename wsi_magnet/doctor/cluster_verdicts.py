"""Verdicts on a cluster's workers: each held against the client, and equal complaints said once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from wsi_magnet.doctor.cluster_facts import Client, Cluster, WorkerFacts
from wsi_magnet.doctor.facts import Cost, Ended
from wsi_magnet.doctor.lines import Line, byte_text, ok, problem, problem_of, warning
from wsi_magnet.runtime.types import SchedulerInfo, WorkerInfo
from wsi_magnet.text import counted

CLOCK_S = 60.0

UNHEARD_S = 15.0
"""Workers tell their scheduler every second or so that they are there."""

MUST_EQUAL = ("python", "wsi-magnet", "torch", "dask", "distributed", "cloudpickle", "numpy", "zarr", "OpenSlide")
"""Versions in which a difference is a problem: Dask's parts do not understand each other, tasks cannot be unpacked, or
masks would be of two kinds. Others are only told. Python is compared by its first two numbers."""

_PYTHON = "python"
_SPOKEN = ("dask", "distributed", "msgpack", "cloudpickle", "toolz", "tornado")
"""What a scheduler says of itself, where it says anything."""


def cluster(found: Cluster, client: Client, cost: Cost | None) -> Iterator[Line]:
    """Whether its workers can do a run as the client would have it done."""
    answered = {a: facts for a, facts in found.answers.items() if isinstance(facts, WorkerFacts)}
    silent = {a: text for a, text in found.answers.items() if isinstance(text, str)}
    for text, addresses in _alike(silent).items():
        cure = f"install wsi-magnet {client.versions.get('wsi-magnet')} and all it needs there, as it is here"
        yield problem("workers", f"{_named(addresses, found)} cannot answer: {text}", cure)
    if not answered:
        return
    hosts = len({facts.host for facts in answered.values()})
    threads = sum(member.threads for member in found.members.values())
    yield ok("workers", f"{len(answered)} on {counted(hosts, 'host')} answered, {counted(threads, 'thread')} in all")
    yield from _versions(answered, found, client)
    yield from _scheduler(found, client)
    yield from _bundle(answered, found, client)
    yield from _output(answered, found, client)
    yield from _slide(answered, found, client)
    yield from _clocks(answered, found)
    yield from _gpus(answered, found, client)
    yield from _memory(answered, found, cost)
    yield from _threads(answered, found)


def unreachable(found: Ended, file: str | None = None) -> Iterator[Line]:
    """Of a cluster that is not there; file: the one that describes it, where it was to be made."""
    running = "see that the scheduler runs, and that this machine can reach it"
    yield problem_of("cluster", found.how, running if file is None else f"see what {file} says")


def unanswered(found: Ended, scheduler_info: SchedulerInfo) -> Iterator[Line]:
    """Of workers one of which does not answer; those that their scheduler has not heard of are named."""
    mute = [address for address, member in scheduler_info.members.items() if member.unheard_s > UNHEARD_S]
    who = f"; its scheduler has not heard of {', '.join(mute)}" if mute else ""
    cure = "see whether they hang (a file system that does not answer, a process that is stopped), and start them anew"
    yield problem("workers", f"{found.during}: {found.how}{who}", cure)


def _versions(answered: Mapping[str, WorkerFacts], found: Cluster, client: Client) -> Iterator[Line]:
    wrong: dict[str, str] = {}
    other: dict[str, str] = {}
    for address, facts in answered.items():
        for name, here in client.versions.items():
            there = facts.versions.get(name, "unknown")
            if _comparable(name, here) == _comparable(name, there):
                continue
            kept = wrong if name in MUST_EQUAL else other
            kept[address] = ", ".join(filter(None, [kept.get(address), f"{name} {there} (here {here})"]))
    cure = "install the same versions on both sides, best from one lock file or one container"
    for text, addresses in _alike(wrong).items():
        yield problem("versions", f"{_named(addresses, found)}: {text}", cure)
    for text, addresses in _alike(other).items():
        yield warning("versions", f"{_named(addresses, found)}: {text}", cure)
    if not wrong and not other:
        yield ok("versions", f"as here on all workers that answered: {', '.join(client.versions)}")


def _scheduler(found: Cluster, client: Client) -> Iterator[Line]:
    """A scheduler computes nothing, so that only Dask's own parts have to be the same."""
    differing = [
        f"{name} {there} (here {client.versions[name]})"
        for name, there in found.scheduler_versions.items()
        if name in _SPOKEN and name in client.versions and there != client.versions[name]
    ]
    if differing:
        cure = "start the scheduler from the environment that client and workers have"
        yield problem("scheduler", ", ".join(differing), cure)
    elif found.scheduler_versions:
        yield ok("scheduler", f"{found.description}: speaks as here (distributed {client.versions['distributed']})")


def _bundle(answered: Mapping[str, WorkerFacts], found: Cluster, client: Client) -> Iterator[Line]:
    if client.bundle_sha256 is None:
        return
    wrong = {a: f.bundle_error for a, f in answered.items() if f.bundle_error is not None}
    wrong |= {
        a: f"another file than here ({f.bundle_sha256[:12]}, here {client.bundle_sha256[:12]})"
        for a, f in answered.items()
        if f.bundle_sha256 is not None and f.bundle_sha256 != client.bundle_sha256
    }
    for text, addresses in _alike(wrong).items():
        cure = "put the bundle where all see it under one path, or copy the same file to each"
        yield problem("bundle", f"{_named(addresses, found)}: {text}", cure)
    if not wrong:
        yield ok("bundle", f"the same file on all workers ({client.bundle_sha256[:12]})")


def _output(answered: Mapping[str, WorkerFacts], found: Cluster, client: Client) -> Iterator[Line]:
    if client.output is None:
        yield warning("output", "not looked for on the workers", "pass -o OUT, the folder that results would go to")
        return
    wrong = {a: f.output for a, f in answered.items() if f.output is not None}
    for text, addresses in _alike(wrong).items():
        cure = "name a folder that client and workers share under one path, and may write to"
        yield problem("output", f"{client.output} on {_named(addresses, found)}: {text}", cure)
    if found.unseen:
        cure = "mount the same file system everywhere (NFS: see that attributes are not kept for long)"
        text = f"{client.output}: what was written on {_named(found.unseen, found)} is not seen here"
        yield problem("output", text, cure)
    twice = [a for a, f in answered.items() if f.lock_taken]
    if twice:
        cure = "mount it with locks that count everywhere (Lustre: -o flock; NFS: without nolock or local_lock)"
        text = f"{client.output}: {_named(twice, found)} could take a lock that is held here"
        yield warning("output", text + ", so that runs from two hosts could write one result", cure)
    if not wrong and not found.unseen and not twice:
        locks = "" if "://" in client.output else ", and locks count there"
        yield ok("output", f"{client.output} is the same place for all workers{locks}")


def _slide(answered: Mapping[str, WorkerFacts], found: Cluster, client: Client) -> Iterator[Line]:
    if client.slide is None:
        return
    wrong = {a: f.slide_error for a, f in answered.items() if f.slide_error is not None}
    if client.slide_identity is not None:
        others = [a for a, f in answered.items() if f.slide_identity not in (None, client.slide_identity)]
        wrong |= dict.fromkeys(others, "another slide than here lies there")
    for text, addresses in _alike(wrong).items():
        cure = "put slides where all workers see them under the path that they have here"
        yield problem("slide", f"{client.slide} on {_named(addresses, found)}: {text}", cure)
    if not wrong:
        yield ok("slide", f"{client.slide} opens on all workers")


def _clocks(answered: Mapping[str, WorkerFacts], found: Cluster) -> Iterator[Line]:
    """Clocks that are off for certain: an answer was given at some time between the asking and the last answer."""
    begun, ended = found.asked
    off = {
        a: f"{abs(f.clock - (begun if f.clock < begun else ended)):.0f} s {'behind' if f.clock < begun else 'ahead'}"
        for a, f in answered.items()
        if not begun - CLOCK_S <= f.clock <= ended + CLOCK_S
    }
    for text, addresses in _alike(off).items():
        yield warning("clocks", f"{_named(addresses, found)}: {text}", "have their hosts keep time (chrony, ntpd)")
    if not off:
        yield ok("clocks", "within a minute of this one")


def _gpus(answered: Mapping[str, WorkerFacts], found: Cluster, client: Client) -> Iterator[Line]:
    declared = {a for a, m in found.members.items() if m.resources.get("GPU", 0) > 0}
    idle = [a for a, f in answered.items() if f.cuda and a not in declared]
    empty = [a for a, f in answered.items() if not f.cuda and a in declared]
    start = "start workers that have one with `dask worker ... --resources GPU=1`"
    if client.device.startswith("cuda") and not declared:
        yield problem("GPU", f"--device {client.device}, but no worker declares a GPU", start)
    elif idle:
        yield warning("GPU", f"{_named(idle, found)} see one and do not declare it", start)
    if empty:
        cure = "see to torch and the driver there, or start them without --resources GPU=..."
        yield problem("GPU", f"{_named(empty, found)} declare one, but torch sees none there", cure)
    elif declared:
        yield ok("GPU", f"{counted(len(declared), 'worker')} declare one, and torch sees it there")


def _memory(answered: Mapping[str, WorkerFacts], found: Cluster, cost: Cost | None) -> Iterator[Line]:
    if cost is None:
        return
    small: dict[str, str] = {}
    for address, facts in answered.items():
        member = found.members.get(address, WorkerInfo(address, 1, {}, None, 0.0))
        limits = [b for b in (facts.memory_limit_bytes, member.memory_limit_bytes) if b]
        takes = cost.memory_bytes(1, member.threads)
        if limits and min(limits) < takes:
            needs = f"about {byte_text(takes)} for {counted(member.threads, 'thread')}"
            small[address] = f"{byte_text(min(limits))} allowed, and a run takes {needs}"
    for text, addresses in _alike(small).items():
        cure = "start them with more memory (--memory-limit, or the batch system's), or with fewer --nthreads"
        yield problem("memory", f"{_named(addresses, found)}: {text}", cure)
    if not small:
        each = byte_text(cost.memory_bytes(1, 1))
        yield ok("memory", f"enough on all workers: a run takes about {each} of one with a single thread")


def _threads(answered: Mapping[str, WorkerFacts], found: Cluster) -> Iterator[Line]:
    by_host: dict[str, list[str]] = defaultdict(list)
    for address, facts in answered.items():
        by_host[facts.host].append(address)
    for host, addresses in sorted(by_host.items()):
        threads = sum(found.members[a].threads for a in addresses if a in found.members)
        processors = max(answered[a].processors for a in addresses)
        if threads > processors:
            text = f"{host}: {counted(threads, 'thread')} for {counted(processors, 'processor')}"
            yield warning("threads", text, "start its workers with fewer --nthreads in all")


def _comparable(name: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if name == _PYTHON else version


def _alike(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Addresses by text."""
    found: dict[str, list[str]] = defaultdict(list)
    for address, text in texts.items():
        found[text].append(address)
    return found


def _named(addresses: Sequence[str], found: Cluster) -> str:
    """For people: all of them, or the first two and how many more."""
    if len(addresses) == len(found.answers) > 1:
        return f"all {len(addresses)} workers"
    names = [_one(address, found) for address in addresses[:2]]
    more = f" and {len(addresses) - 2} more" if len(addresses) > 2 else ""
    return f"{'worker' if len(addresses) == 1 else 'workers'} {', '.join(names)}{more}"


def _one(address: str, found: Cluster) -> str:
    answer = found.answers.get(address)
    return f"{address} on {answer.host}" if isinstance(answer, WorkerFacts) else address
