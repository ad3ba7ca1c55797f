"""Options of a batch, the commands that repeat it, and the bundles that it uses."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.cohort.state import file_stamp
from wsi_magnet.config import Count, Execution, RunConfig
from wsi_magnet.errors import CohortError
from wsi_magnet.nets.spec import bundle_path, read_spec
from wsi_magnet.nets.trust import require_trust
from wsi_magnet.results.folder import Existing
from wsi_magnet.segment.command_line import execution_words, work_words
from wsi_magnet.storage.location import Location, Url, to_location
from wsi_magnet.values import check, check_fields, documented


@documented
@dataclass(frozen=True, slots=True)
class CohortOptions:
    """All options of a batch besides its slides. Raises ConfigError, naming the field, for a value not allowed."""

    out: Location
    """Output folder; text is accepted, of a path or a URL, and becomes absolute."""
    config: RunConfig = field(default_factory=RunConfig)
    """Options of each slide's run."""
    bundle: str | None = None
    """Path of the bundle; None is the one that ships with the package."""
    execution: Execution = field(default_factory=Execution)
    """Device and workers, by default processes of this machine."""
    in_flight: Count | None = None
    """Slides at once; None: as many as keep all workers busy."""
    fail_fast: bool = False
    """True: the first slide that fails ends the batch."""
    retry_failed: bool = False
    """True: slides that failed before are tried again."""
    override_mpp: bool = False
    """True: the configuration's mpp replaces that of every slide; otherwise it is for slides without one."""
    existing: Existing = "resume"
    """Treatment of existing results."""

    def __post_init__(self) -> None:
        out = check(str | os.PathLike | Url, self.out, "out")
        object.__setattr__(self, "out", to_location(out).absolute())
        if isinstance(self.bundle, os.PathLike):
            object.__setattr__(self, "bundle", os.fspath(self.bundle))
        check_fields(self)

    def config_of(self, slide: CohortSlide) -> RunConfig:
        """Configuration for a slide: the batch's, with the mpp and the regions of a list."""
        config = self.config if slide.mpp is None else replace(self.config, mpp=slide.mpp)
        return config if slide.roi is None else replace(config, roi=slide.roi)

    def overrides_mpp(self, slide: CohortSlide) -> bool:
        """True if the configuration's mpp replaces the one in the slide's file."""
        return slide.mpp is not None or (self.override_mpp and self.config.mpp is not None)

    def config_without_default_mpp(self, slide: CohortSlide) -> RunConfig:
        """Configuration for a slide with an mpp in its file."""
        config = self.config_of(slide)
        return config if self.overrides_mpp(slide) else replace(config, mpp=None)

    def bundle_of(self, slide: CohortSlide) -> str | None:
        """Bundle for a slide: that of a list, or the batch's."""
        return self.bundle if slide.bundle is None else slide.bundle

    def slide_command(self, slide: CohortSlide, *more: str) -> str:
        """The shell command that resumes one slide. more: options to add."""
        words = ["wsi-magnet", "batch", slide.path, "-o", str(self.out)]
        if self.overrides_mpp(slide):
            more = ("--override-mpp", *more)
        return shlex.join([*words, *self._words(self.config_of(slide), self.bundle_of(slide)), *more])

    def command(self, sources: Sequence[str]) -> str:
        """The shell command that resumes the batch, from any working folder."""
        slides = [str(Path(source).expanduser().absolute()) for source in sources]
        words = ["wsi-magnet", "batch", *slides, "-o", str(self.out), *self._words(self.config, self.bundle)]
        words += ["--override-mpp"] if self.override_mpp else []
        return shlex.join(words + (["--fail-fast"] if self.fail_fast else []))

    def _words(self, config: RunConfig, bundle: str | None) -> Iterator[str]:
        yield from work_words(config, bundle)
        yield from execution_words(self.execution)
        if self.in_flight is not None:
            yield from ("--in-flight", str(self.in_flight))


class Bundles:
    """Names and hashes of a batch's bundles, as they were when each was first used."""

    def __init__(self) -> None:
        self._first: dict[str | None, tuple[str, str]] = {}

    def identity(self, bundle: str | None) -> tuple[str, str]:
        """(name, SHA-256) of a bundle when it was first used. Raises BundleError."""
        if bundle not in self._first:
            spec, sha256 = read_spec(bundle)
            require_trust(spec, bundle_path(bundle))
            self._first[bundle] = spec.name, sha256
        return self._first[bundle]

    def require_unchanged(self, bundle: str | None) -> None:
        """Raises CohortError for a bundle that has been replaced since its first use, BundleError if it is gone."""
        if read_spec(bundle)[1] != self.identity(bundle)[1]:
            raise CohortError(
                f"{bundle_path(bundle)} has been replaced since this batch started, and one batch has one bundle; "
                "restore it, or choose another output folder with -o; finished slides are kept"
            )

    def run_params(self, config: RunConfig, bundle: str | None, *, override_mpp: bool = True) -> dict[str, Any]:
        """Everything that a slide's mask depends on besides the slide; equal values give an equal mask.

        override_mpp: the configuration's mpp is the slide's, whatever its file has.
        """
        name, sha256 = self.identity(bundle)
        params = {"config": config.to_json(), "bundle": name, "bundle_sha256": sha256}
        if files := config.area_files:
            params["files"] = {option: list(file_stamp(path)) for option, path in files.items()}
        return params if override_mpp or config.mpp is None else {**params, "mpp": "where the slide says none"}
