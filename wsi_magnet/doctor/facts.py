"""What was found out, as frozen values: verdicts are made from these alone, so that tests need no broken machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Fit = Literal["fits", "missing", "older", "newer"]


@dataclass(frozen=True, slots=True)
class Package:
    """A package that this one asks for."""

    name: str
    version: str | None
    """Installed; None where it is not."""
    wanted: str
    """Its bounds, as in ">=2.6,<3"."""
    fit: Fit


@dataclass(frozen=True, slots=True)
class Software:
    """Python and packages, by what this package's own metadata asks for."""

    python: str
    python_wanted: str
    python_fits: bool
    version: str
    """Of wsi-magnet, as it runs."""
    metadata: str | None
    """The version that is installed; None where this is a folder of source that was never installed."""
    packages: tuple[Package, ...] = ()
    extras: Mapping[str, tuple[Package, ...]] = field(default_factory=dict)
    """Those for users."""


@dataclass(frozen=True, slots=True)
class Processors:
    """Of this machine, and of this process."""

    machine: int
    usable: int
    """By affinity and the container's share: threads that a run takes."""
    bf16: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes."""

    total: int | None
    available: int | None
    limit: int | None
    """Of the container, the batch system's job, or `ulimit -v`."""


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """Limits of this process."""

    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is written to, tried by writing."""

    path: str
    """As asked for."""
    tried: str
    """The folder itself or, where it is still to be made, the one above it that is there."""
    error: str | None = None
    """Why nothing can be written; then the rest says nothing."""
    free_bytes: int = 0
    filesystem: str = "unknown"
    locks: str | None = None
    """What is wrong with file locks; None where a second one was refused as it should be."""
    renames: str | None = None
    """What is wrong with renaming over a file."""
    fsync_s: float = 0.0
    """Of a small file."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A URL that is written to, tried by writing."""

    path: str
    error: str | None = None
    conditions: bool = False
    """True where it writes only on the conditions that a claim needs."""
    request_s: float = 0.0
    """To write a small object."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A part of the examination that ended before its time."""

    during: str
    how: str


@dataclass(frozen=True, slots=True)
class OpenSlideFacts:
    """What OpenSlide was seen to do."""

    version: str
    """Of the library."""
    python_version: str
    decoders: tuple[str, ...]
    """That it tried on pictures of its own; none where it is too old to have them."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Codecs:
    """What imagecodecs brought back, by format: None, or what went wrong."""

    version: str
    errors: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """A bundle's header."""

    path: str
    error: str | None = None
    name: str = ""
    network: str = ""
    classes: int = 0
    mpps: tuple[float, ...] = ()
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """The slide that was asked about."""

    path: str
    error: str | None = None
    reader: str = ""
    vendor: str = ""
    size: str = ""
    levels: int = 0
    mpp: float | None = None
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run takes, by `estimate`."""

    base_bytes: int
    """Of a worker process without its threads."""
    thread_bytes: int
    """More for each of its threads."""
    disk_bytes: int | None
    """At most, before compression; None where no slide was given."""

    def memory_bytes(self, processes: int, threads: int) -> int:
        """Of processes with so many threads each."""
        return processes * (self.base_bytes + threads * self.thread_bytes)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device that torch sees."""

    name: str
    total_bytes: int
    free_bytes: int
    capability: str
    """As in "8.6"."""
    error: str | None
    """What a small computation on it ended with; None where it was right."""


@dataclass(frozen=True, slots=True)
class Computing:
    """torch, and what it can compute on."""

    torch: str
    cuda: str | None
    """The CUDA that torch was built for; None for a CPU build."""
    cuda_error: str | None
    """Why torch sees no device though it was built for CUDA."""
    gpus: tuple[Gpu, ...]
    nodes: int
    """NVIDIA devices that the system shows, whether torch can use them or not."""
    driver: str | None
    """Of NVIDIA, as the kernel says."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES, if set."""
    device: str
    """That was asked for."""
    resolved: str | None
    """What that is here; None where it is not here."""
    precision: str
    """What `--precision auto` is on it."""
    bundle_error: str | None = None
    """Why the bundle's tensors could not be loaded."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A run from end to end on a slide made for it."""

    where: str
    """For people: "here"."""
    error: str | None = None
    """Why it ended before its time."""
    size: str = ""
    """Of the slide, in pixels."""
    slide_s: float = 0.0
    """To load, to start workers and to segment."""
    labels: Mapping[int, int] = field(default_factory=dict)
    """Pixels by value, as they lie in the mask."""
    known: tuple[int, ...] = ()
    """Values that may be there."""
    failures: tuple[str, ...] = ()
