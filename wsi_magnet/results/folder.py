"""A result folder: who may work in it, what it was made from, and what lies where."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsi_magnet.config import Ngff, RunConfig
from wsi_magnet.errors import ResultMismatchError, StoreError
from wsi_magnet.geometry import Size
from wsi_magnet.results.pyramid import Pyramid, PyramidSpec, replace_text
from wsi_magnet.results.record import FORMAT, RUN_VERSION, RunRecord
from wsi_magnet.schema import SchemaError
from wsi_magnet.storage.atomic import PARTIAL
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, delete, names, read_bytes
from wsi_magnet.storage.lock import LOCK_FILES, FolderLock, locked_folder

Existing = Literal["resume", "restart", "overwrite"]
"""What becomes of a result that is there already: gone on with; begun again; replaced whatever it is of."""

_CURE = "choose another output folder with -o (or replace all that is in this one with --overwrite)"
_FENCING_TOKEN = ".turn"


@dataclass(frozen=True, slots=True)
class Products:
    """The images that a run writes."""

    sizes: tuple[Size, ...]
    """Extent of each pyramid level, finest first."""
    classes: int
    ngff: Ngff
    tile_px: int
    probabilities: bool
    """Kept at the end; while the run needs them they are there in any case."""
    uncertainty: bool

    def specs(self, folder: Location) -> dict[str, PyramidSpec]:
        """Descriptions of the images by product, the mask first."""
        channels = {"mask": None, "probabilities": self.classes, "uncertainty": None}
        if not self.uncertainty:
            del channels["uncertainty"]
        return {
            name: PyramidSpec(
                folder / f"{name}.ome.zarr",
                self.sizes,
                count,
                self.ngff,
                self.tile_px,
                durable=name != "probabilities" or self.probabilities,
            )
            for name, count in channels.items()
        }

    def pyramids(self, folder: Location) -> dict[str, Pyramid]:
        """The images in a result folder by name: "mask", "probabilities" and, where kept, "uncertainty"."""
        return {name: Pyramid(spec) for name, spec in self.specs(folder).items()}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a mask depends on, by the words that a user knows it by."""

    parts: Mapping[str, str]

    def differences(self, other: Fingerprint) -> list[str]:
        """A text for each that differs: "--refine was all and is 0.2"."""
        return [
            f"{name} was {self.parts.get(name, 'not given')} and is {other.parts.get(name, 'not given')}"
            for name in sorted({*self.parts, *other.parts})
            if self.parts.get(name) != other.parts.get(name)
        ]


def fingerprint(
    slide_identity: str, mpp_xy: tuple[float, float], bundle: tuple[str, str], config: RunConfig
) -> Fingerprint:
    """`bundle` is its name and its sha256."""
    return Fingerprint(
        {
            "the slide": slide_identity[:16],
            "its microns per pixel (--mpp)": f"{mpp_xy[0]:g} x {mpp_xy[1]:g}",
            "--bundle": f"{bundle[0]} ({bundle[1][:12]})",
            "--refine": str(config.refine),
            "--tissue": "on" if config.tissue else "off",
            "--tile": str(config.tile_px),
            "--ngff": config.ngff,
            "--keep": ",".join(config.kept) or "nothing",
            "--batch-size": str(config.batch_size or "auto"),
            "--precision": config.precision,
        }
    )


class ResultFolder:
    """`<output>/<slide name>/`."""

    def __init__(self, path: Location) -> None:
        self.path = path
        self._lock = FolderLock()
        self.run_json = path / "run.json"
        self.summary_json = path / "summary.json"
        self.journal = path / "journal.jsonl"
        self.tissue_png = path / "tissue.png"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only run in this folder, which is made if need be; the claim ends with the process, however it ends.

        Raises ResultBusyError if another run holds it, StoreError if it cannot be written.
        """
        with locked_folder(self.path) as self._lock:
            yield

    def check_lock(self) -> None:
        """Raises ResultBusyError where another run has taken the folder over meanwhile."""
        self._lock.check()

    def read_run(self) -> RunRecord | None:
        """run.json, or None where there is none.

        Raises ResultMismatchError for one that this version cannot use: damaged, foreign, or of a newer version.
        """
        with storage_errors(self.run_json):
            try:
                values = json.loads(read_bytes(self.run_json))
            except (FileNotFoundError, NotADirectoryError):
                return None
            except (IsADirectoryError, ValueError, RecursionError):
                values = None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise _unusable(f"{self.run_json} is damaged, or not of this program; {_CURE}")
        if values.get("version") not in range(1, RUN_VERSION + 1):
            raise _unusable(
                f"{self.run_json} has version {values.get('version')} and this program writes {RUN_VERSION}; "
                f"use the program that made it, or {_CURE}"
            )
        try:
            return RunRecord.from_json(values)
        except SchemaError as error:
            raise _unusable(f"{self.run_json} is damaged: {error}; {_CURE}") from None

    def write_run(self, record: RunRecord) -> None:
        """Replace run.json at once. Raises ResultBusyError where another run has taken the folder over."""
        self.check_lock()
        write_json(self.run_json, record.to_json())

    def admit(self, wanted: Fingerprint, existing: Existing) -> RunRecord | None:
        """What an earlier run of the same thing left in run.json, or None where the folder is to be `emptied`.

        Decides only, and changes nothing. Raises ResultMismatchError where a start would lose another result.
        """
        if existing == "overwrite":
            return None
        earlier = self.read_run()
        if earlier is None:
            self._refuse_strangers()
            return None
        before = Fingerprint(earlier.fingerprint)
        if before.parts.get("the slide") != wanted.parts.get("the slide"):
            raise _unusable(
                f"{self.path} holds the result of another slide, or of this one's file before it changed "
                f"({earlier.slide.path}); choose another output folder with -o (or replace that result with "
                "--overwrite)"
            )
        if existing == "restart":
            return None
        differences = before.differences(wanted)
        if differences:
            raise ResultMismatchError(
                f"{self.path} was made otherwise: {'; '.join(differences)}. "
                "Go on as it was begun, or begin again with --restart",
                cure="--restart",
                stays=True,
            )
        return earlier

    def _refuse_strangers(self) -> None:
        # run.json is the first thing that a run writes, so whatever lies here without it is somebody else's.
        with storage_errors(self.path):
            found = {*names(self.path)}
        others = sorted(found - LOCK_FILES - {_FENCING_TOKEN, self.run_json.name + PARTIAL})
        if others:
            raise ResultMismatchError(
                f"{self.path} holds files that are no result of this program ({', '.join(others[:3])}); "
                "choose another output folder with -o, or take them away"
            )

    def set_fencing_token(self, token: str) -> None:
        """From now on only tasks that hold this token may write here. Raises StoreError."""
        replace_text(self.path / _FENCING_TOKEN, token)

    def clear_fencing_token(self) -> None:
        """From now on no task may write here. Raises StoreError."""
        with storage_errors(self.path):
            delete(self.path / _FENCING_TOKEN)

    def fencing_token(self) -> str | None:
        """The token that was set last; None without one. Raises StoreError."""
        with storage_errors(self.path):
            try:
                return read_bytes(self.path / _FENCING_TOKEN).decode()
            except FileNotFoundError:
                return None

    def refuse_inputs_inside(self, inputs: Iterable[Path]) -> None:
        """Raises ResultMismatchError for a file that a run reads where it writes: a result is deleted as a whole."""
        if not isinstance(self.path, Path):
            return  # slides and bundles are files
        folder = self.path.resolve()
        for path in inputs:
            if path.resolve().is_relative_to(folder):
                raise ResultMismatchError(
                    f"{path} lies where its result would go, in {self.path}; choose another output folder with -o"
                )

    def empty(self) -> None:
        """Delete all that an earlier run, or somebody else, left in the folder."""
        with storage_errors(self.path):
            for name in names(self.path):
                if name not in LOCK_FILES:
                    delete(self.path / name)


def _unusable(text: str) -> ResultMismatchError:
    return ResultMismatchError(text, cure="--overwrite", stays=True)


def write_json(path: Location, values: Mapping[str, Any]) -> None:
    """Write a file that is there whole or not at all, and stays there after a power cut. Raises StoreError."""
    replace_text(path, json.dumps(values, indent=2) + "\n")


def require_writable(path: Location) -> None:
    """Raises StoreError now rather than after the slide has been looked through; a claim asks an object store."""
    if not isinstance(path, Path):
        return
    probe = path
    while not probe.exists():
        probe = probe.parent
    if not probe.is_dir():
        raise StoreError(
            f"{probe} is a file, so {path} cannot be a result folder; choose another output folder with -o"
        )
    if not os.access(probe, os.W_OK | os.X_OK):
        raise StoreError(f"{probe} cannot be written by this user; choose another output folder with -o")
