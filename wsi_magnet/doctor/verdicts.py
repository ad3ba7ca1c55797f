"""Verdicts on this machine: pure functions from facts to lines."""

from __future__ import annotations

import os
from collections.abc import Iterator

from wsi_magnet.doctor.asked import Asked
from wsi_magnet.doctor.facts import (
    BundleFacts,
    Codecs,
    Cost,
    Ended,
    Folder,
    Memory,
    ObjectStore,
    OpenFiles,
    OpenSlideFacts,
    Processors,
    SlideFacts,
)
from wsi_magnet.doctor.lines import Line, byte_text, ok, problem, problem_of, warning
from wsi_magnet.text import counted

FORMATS = "Aperio, DICOM, Hamamatsu, Leica, MIRAX, Philips, Sakura, Trestle, Ventana, tiled TIFF"
"""Of OpenSlide 4.0.0."""

FORMATS_SINCE = {(4, 0, 1): "Argos, Huron, Zeiss"}
"""Formats that came later, by the version that brought them."""

OLDEST_OPENSLIDE = (4, 0)

LEAST_FREE_BYTES, USUAL_FREE_BYTES = 100_000_000, 2_000_000_000
"""With less than the first no result fits; a large slide's takes up to the second while it is made."""

LEAST_OPEN_FILES = 1024
"""A process of Dask and its workers keeps hundreds open."""

SLOW_FSYNC_S = 0.2
"""A tile is made to last by a few of them, and is computed in about a second."""


def processors(found: Processors) -> Iterator[Line]:
    """How many threads a run takes here."""
    bf16 = "they multiply bfloat16" if found.bf16 else "without bfloat16"
    if found.usable < found.machine:
        yield ok("processors", f"{found.usable} of this machine's {found.machine} may be used; {bf16}")
    else:
        yield ok("processors", f"{found.usable}; {bf16}")


def memory(found: Memory, cost: Cost | None, asked: Asked) -> Iterator[Line]:
    """Whether a run fits."""
    bound = min((b for b in (found.total, found.limit) if b is not None), default=None)
    if bound is None:
        yield warning("memory", "this system does not say how much it has", "see that a run has about 2 GB")
        return
    limited = found.limit is not None and found.limit == bound
    has = byte_text(bound) + (" allowed to this process" if limited else "")
    if found.available is not None and found.available < bound:
        has += f", {byte_text(found.available)} free"
    if cost is None or asked.remote:
        yield ok("memory", has)
        return
    takes = cost.memory_bytes(asked.processes, asked.threads)
    where = f"{counted(asked.processes, 'process', 'processes')} of {counted(asked.threads, 'thread')}"
    text = f"{has}; a run takes about {byte_text(takes)} ({where})"
    each = cost.memory_bytes(1, 1)
    cure = f"give it more, or allow fewer processors (as with `taskset`); one thread takes {byte_text(each)}"
    if takes > bound:
        yield problem("memory", text, cure)
    elif found.available is not None and takes > found.available:
        yield warning("memory", text, f"end other programs, or {cure}")
    else:
        yield ok("memory", text)


def open_files(found: OpenFiles) -> Iterator[Line]:
    """Whether Dask can keep open what it needs."""
    if found.soft >= LEAST_OPEN_FILES or found.soft < 0:
        yield ok("open files", f"{found.soft} a process" if found.soft >= 0 else "without limit")
        return
    if found.hard < 0 or found.hard >= LEAST_OPEN_FILES:
        cure = f"run `ulimit -n {LEAST_OPEN_FILES}` before"
    else:
        cure = f"ask whoever runs this machine for at least {LEAST_OPEN_FILES} (nofile in /etc/security/limits.conf)"
    yield warning("open files", f"{found.soft} a process are few", cure)


def folder(found: Folder, subject: str, cost: Cost | None = None) -> Iterator[Line]:
    """Whether a folder can be written to, is large enough, and keeps what it is given."""
    other = "name a folder on a larger disk in TMPDIR" if subject == "temporary" else "choose another folder with -o"
    named = found.path if found.tried == found.path else f"{found.path} (to be made below {found.tried})"
    if found.error is not None:
        yield problem(subject, f"{found.path} cannot be written: {found.error}", other)
        return
    text = f"{named}: {byte_text(found.free_bytes)} free on {found.filesystem}"
    if found.locks is not None:
        yield problem(
            subject,
            f"{named}: files cannot be locked on this {found.filesystem} ({found.locks}), so that two runs could "
            "write one result",
            "mount it with locks (Lustre: -o flock; NFS: without nolock), or " + other,
        )
    if found.renames is not None:
        yield problem(subject, f"{named}: {found.renames} on this {found.filesystem}", other)
    if found.free_bytes < LEAST_FREE_BYTES:
        yield problem(subject, text, f"make room, or {other}")
    elif cost is not None and cost.disk_bytes is not None and found.free_bytes < cost.disk_bytes:
        at_most = f"; the slide's result takes up to {byte_text(cost.disk_bytes)} before compression"
        yield warning(subject, text + at_most, f"make room, or {other}")
    elif subject != "temporary" and found.free_bytes < USUAL_FREE_BYTES:
        yield warning(subject, f"{text}; a large slide may not fit", f"make room, or {other}")
    elif found.fsync_s > SLOW_FSYNC_S:
        yield warning(
            subject,
            f"{text}; to make a small file last (fsync) takes {found.fsync_s:.1f} s",
            f"{other}, if time counts",
        )
    elif found.locks is None and found.renames is None:
        yield ok(subject, f"{text}; locks and renames work, fsync takes {1000 * found.fsync_s:.1f} ms")


def temporary_elsewhere(named: str | None, used: str) -> Iterator[Line]:
    """Of a TMPDIR that Python passes over, because it is not there or cannot be written."""
    if named and os.path.abspath(named) != used:
        cure = "name a folder in TMPDIR that is there and can be written"
        yield warning("temporary", f"TMPDIR={named} cannot be written, so that {used} is used", cure)


def object_store(found: ObjectStore) -> Iterator[Line]:
    """Whether results can be put there, each by one run alone."""
    if found.error is not None:
        yield problem_of("output", found.error, "see that the store answers, and that your keys may write there")
        return
    text = f"{found.path}: objects can be written, listed and deleted; to write one takes {found.request_s:.2f} s"
    if found.conditions:
        yield ok("output", f"{text}; claims hold")
    else:
        cure = "use a store that has conditional writes (If-None-Match, If-Match), or let only one run write a result"
        yield warning("output", f"{text}; but it writes without regard to conditions, so that claims do not hold", cure)


def openslide(found: OpenSlideFacts) -> Iterator[Line]:
    """Whether slides can be read."""
    cure = "pip install --force-reinstall openslide-bin openslide-python (conda: conda install openslide)"
    if not found.version:
        yield problem("OpenSlide", found.error or "it cannot be loaded", cure)
        return
    number = _number(found.version)
    if found.error is not None:
        yield problem("OpenSlide", f"{found.version} does not read what it should: {found.error}", cure)
    elif number < OLDEST_OPENSLIDE:
        yield problem("OpenSlide", f"{found.version} is older than 4.0", cure)
    else:
        formats = ", ".join([FORMATS, *(names for since, names in FORMATS_SINCE.items() if number >= since)])
        yield ok("OpenSlide", f"{found.version} read a pyramid of JPEGs; it knows {formats}")
        if found.decoders:
            yield ok("OpenSlide", f"decoders tried: {', '.join(found.decoders)}")


def codecs(found: Codecs) -> Iterator[Line]:
    """Whether plain TIFFs can be read."""
    wrong = [f"{name} ({error})" for name, error in found.errors.items() if error is not None]
    if wrong:
        cure = "pip install --force-reinstall imagecodecs"
        yield problem("imagecodecs", f"{found.version} fails at {' and '.join(wrong)}", cure)
    else:
        yield ok("imagecodecs", f"{found.version} decodes {' and '.join(found.errors)}")


def bundle(found: BundleFacts) -> Iterator[Line]:
    """Whether there is one."""
    if found.error is not None:
        yield problem_of("bundle", found.error, "pass the path of a bundle, or none for the one that ships")
        return
    scales = ", ".join(f"{mpp:g}" for mpp in found.mpps)
    about = f"{found.classes} classes at {scales} µm/px, sha256 {found.sha256[:12]}"
    yield ok("bundle", f"{found.name} ({found.network}): {about}")


def slide(found: SlideFacts) -> Iterator[Line]:
    """Whether it can be read."""
    if found.error is not None:
        yield problem("slide", found.error, "see that it is whole and of a format that is known, or export it anew")
        return
    text = f"{found.path}: {found.vendor}, {found.size} px, {counted(found.levels, 'level')}"
    if found.mpp is None:
        yield warning("slide", f"{text}; it does not say its resolution", "pass --mpp to the run")
    else:
        yield ok("slide", f"{text} at {found.mpp:g} µm/px; all levels can be decoded in their middle")


def ended(found: Ended) -> Iterator[Line]:
    """Of a part that did not come to its end."""
    yield problem(
        "doctor",
        f"{found.during} did not end: {found.how}",
        "install the packages anew in an environment of their own (README, Install), for this processor",
    )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-")[0].split(".") if part.isdigit())
