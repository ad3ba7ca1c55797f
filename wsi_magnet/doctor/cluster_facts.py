"""What was found out of a cluster, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wsi_magnet.runtime.types import WorkerInfo


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a worker of a cluster says of itself."""

    host: str
    pid: int
    processors: int
    """That its process may use."""
    versions: Mapping[str, str]
    """By package; "python" and "OpenSlide" among them."""
    clock: float
    """Seconds since 1970, UTC."""
    memory_limit_bytes: int | None
    bundle_sha256: str | None
    bundle_error: str | None
    output: str | None
    """What is wrong with OUT as this worker sees it; None where it found the probe and wrote beside it."""
    lock_taken: bool
    """True where it could take a lock that the client held."""
    slide_identity: str | None
    slide_error: str | None
    cuda: int
    """CUDA devices that its torch sees."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster's answers."""

    description: str
    asked: tuple[float, float]
    """When the workers were asked and when all had answered, by the client's clock."""
    scheduler_versions: Mapping[str, str]
    members: Mapping[str, WorkerInfo]
    """By address."""
    answers: Mapping[str, WorkerFacts | str]
    """By address; a text is why there is none."""
    unseen: tuple[str, ...]
    """Workers whose file in OUT the client does not see."""


@dataclass(frozen=True, slots=True)
class Client:
    """What the workers of a cluster are held against."""

    host: str
    versions: Mapping[str, str]
    bundle_sha256: str | None
    slide_identity: str | None
    output: str | None
    slide: str | None
    device: str
