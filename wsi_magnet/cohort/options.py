"""What a batch was asked for, and the command that asks for the same again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wsi_magnet.cohort.slide_job import SlideJob
from wsi_magnet.cohort.state import file_marks
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import CohortError
from wsi_magnet.nets.spec import bundle_path, read_spec
from wsi_magnet.results.folder import Existing
from wsi_magnet.segment.command_line import execution_words, work_words
from wsi_magnet.storage.location import Location


@dataclass(frozen=True, slots=True)
class CohortOptions:
    """What a batch was asked for, but for the slides."""

    out: Location
    """Absolute."""
    config: RunConfig = field(default_factory=RunConfig)
    bundle: str | None = None
    execution: Execution = field(default_factory=Execution)
    in_flight: int | None = None
    """Slides at once; None: as many as keep all workers busy."""
    fail_fast: bool = False
    """True ends the batch with the first slide that fails."""
    retry_failed: bool = False
    override_mpp: bool = False
    """True where the configuration's mpp also replaces what slides say; else it is for those that say nothing."""
    existing: Existing = "resume"
    """What becomes of results that are there."""

    def config_of(self, job: SlideJob) -> RunConfig:
        """A slide's configuration: the batch's, with what a list says of the slide."""
        return self.config if job.mpp is None else replace(self.config, mpp=job.mpp)

    def overrides_mpp(self, job: SlideJob) -> bool:
        """True where a slide's configuration says its mpp, whatever the slide itself says."""
        return job.mpp is not None or (self.override_mpp and self.config.mpp is not None)

    def config_where_told(self, job: SlideJob) -> RunConfig:
        """A slide's configuration as long as the slide itself says its mpp."""
        config = self.config_of(job)
        return config if self.overrides_mpp(job) else replace(config, mpp=None)

    def bundle_of(self, job: SlideJob) -> str | None:
        """A slide's bundle, likewise."""
        return self.bundle if job.bundle is None else job.bundle

    def slide_command(self, job: SlideJob, *more: str) -> str:
        """What goes on with one slide, for a shell. more: options to be added."""
        words = ["wsi-magnet", "batch", job.slide, "-o", str(self.out)]
        if self.overrides_mpp(job):
            more = ("--override-mpp", *more)
        return shlex.join([*words, *self._options(self.config_of(job), self.bundle_of(job)), *more])

    def command(self, sources: Sequence[str]) -> str:
        """What goes on with the batch, from any folder."""
        slides = [str(Path(source).expanduser().absolute()) for source in sources]
        words = ["wsi-magnet", "batch", *slides, "-o", str(self.out), *self._options(self.config, self.bundle)]
        words += ["--override-mpp"] if self.override_mpp else []
        return shlex.join(words + (["--fail-fast"] if self.fail_fast else []))

    def _options(self, config: RunConfig, bundle: str | None) -> Iterator[str]:
        yield from work_words(config, bundle)
        yield from execution_words(self.execution)
        if self.in_flight is not None:
            yield from ("--in-flight", str(self.in_flight))


class Bundles:
    """Name and hash of each bundle, read once however many slides want it."""

    def __init__(self) -> None:
        self._read: dict[str | None, tuple[str, str]] = {}
        self._marks: dict[str | None, tuple[int, int]] = {}

    def told(self, bundle: str | None) -> tuple[str, str]:
        """(name, SHA-256) of a bundle. Raises BundleError."""
        if bundle not in self._read:
            self._marks[bundle] = file_marks(str(bundle_path(bundle)))
            spec, sha256 = read_spec(bundle)
            self._read[bundle] = spec.name, sha256
        return self._read[bundle]

    def require_unchanged(self, bundle: str | None) -> None:
        """Raises CohortError where a bundle that was told is not the same any more, BundleError where it is none."""
        path = bundle_path(bundle)
        if bundle in self._read and file_marks(str(path)) != self._marks[bundle]:
            _, sha256 = read_spec(bundle)
            if sha256 != self._read[bundle][1]:
                raise CohortError(
                    f"{path} has been replaced since this batch began, and one batch has one bundle; put back what was "
                    "there, or choose another output folder with -o; what is finished is kept"
                )

    def asked(self, config: RunConfig, bundle: str | None, *, override_mpp: bool = True) -> dict[str, Any]:
        """What a slide's mask depends on besides the slide: where it is equal to what was recorded, nothing differs.

        override_mpp: whether the configuration's mpp is the slide's whatever that says itself.
        """
        name, sha256 = self.told(bundle)
        asked = {"config": config.to_json(), "bundle": name, "bundle_sha256": sha256}
        return asked if override_mpp or config.mpp is None else {**asked, "mpp": "where the slide says none"}
