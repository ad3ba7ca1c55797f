"""Result folder: its lock, its fingerprint and its files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsi_magnet.config import MAGNET, Ngff, RunConfig
from wsi_magnet.errors import ResultMismatchError, StoreError
from wsi_magnet.geometry import Size
from wsi_magnet.planning.areas import Areas
from wsi_magnet.results.pyramid import Pyramid, PyramidSpec, count_chunks, replace_text
from wsi_magnet.results.record import FORMAT, RUN_VERSION, RunRecord
from wsi_magnet.schema import SchemaError
from wsi_magnet.storage.atomic import PARTIAL
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, delete, names, read_bytes
from wsi_magnet.storage.lock import LOCK_FILES, FolderLock, locked_folder
from wsi_magnet.text import counted

Existing = Literal["resume", "restart", "overwrite"]
"""Treatment of an existing result: resumed; made again; replaced, whatever it is the result of."""

_CURE = "choose another output folder with -o (or replace all that is in this one with --overwrite)"
_FENCING_TOKEN = ".turn"
KEEP, _NOTHING = "--keep", "nothing"
_METHOD = "--method"
_AREAS = "the content of --roi, --exclude and --tissue-mask"


@dataclass(frozen=True, slots=True)
class Products:
    """Images that a run writes."""

    sizes: tuple[Size, ...]
    """Extent of each pyramid level, finest first."""
    classes: int
    ngff: Ngff
    tile_px: int
    probabilities: bool
    """True to keep them at the end; during the run they exist in any case."""
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
        """Images of a result folder by product: "mask", "probabilities" and, if kept, "uncertainty"."""
        return {name: Pyramid(spec) for name, spec in self.specs(folder).items()}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything on which a mask depends, as text by option or plain name."""

    parts: Mapping[str, str]

    @property
    def keeps(self) -> set[str]:
        """Images that are kept besides the mask."""
        return {*self.parts.get(KEEP, "").split(",")} - {"", _NOTHING}

    def differences(self, other: Fingerprint) -> list[str]:
        """A text for each difference: "--refine was all and is 0.2"."""
        return [
            f"{name} was {self._text(name)} and is {other._text(name)}"
            for name in sorted({*self.parts, *other.parts})
            if self.parts.get(name) != other.parts.get(name)
        ]

    def _text(self, name: str) -> str:
        return self.parts.get(name, MAGNET if name == _METHOD else "not given")


def fingerprint(
    slide_identity: str,
    mpp_xy: tuple[float, float],
    bundle: tuple[str, str],
    config: RunConfig,
    areas: str | None = None,
) -> Fingerprint:
    """Fingerprint of a run. bundle: (name, SHA-256). areas: digest of those of the configuration's files."""
    return Fingerprint(
        {
            "the slide": slide_identity[:16],
            "its microns per pixel (--mpp)": f"{mpp_xy[0]:g} x {mpp_xy[1]:g}",
            "--bundle": f"{bundle[0]} ({bundle[1][:12]})",
            "--refine": str(config.refine),
            "--tissue": "on" if config.tissue else "off",
            "--tile": str(config.tile_px),
            "--ngff": config.ngff,
            KEEP: ",".join(config.kept) or _NOTHING,
            "--batch-size": str(config.batch_size or "auto"),
            "--precision": config.precision,
            **({} if areas is None else {_AREAS: areas[:12]}),
            **({} if config.method == MAGNET else {_METHOD: config.method}),  # versions before had no other
        }
    )


class ResultFolder:
    """Result folder of a slide, `<output>/<slide name>/`."""

    def __init__(self, path: Location) -> None:
        self.path = path
        self._lock = FolderLock()
        self.run_json = path / "run.json"
        self.summary_json = path / "summary.json"
        self.journal = path / "journal.jsonl"
        self.tissue_png = path / "tissue.png"
        self.areas_json = path / "areas.geojson"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock this folder, which is created if needed; the lock ends with the process, however it ends.

        Raises ResultBusyError if another run holds the lock, StoreError if the folder cannot be written.
        """
        with locked_folder(self.path) as self._lock:
            yield

    def check_lock(self) -> None:
        """Raise ResultBusyError if another run has taken the lock over."""
        self._lock.check()

    def read_run(self) -> RunRecord | None:
        """Read run.json; None if there is none.

        Raises ResultMismatchError for a file that this version cannot use: damaged, foreign, or of a newer version.
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
        version = values.get("version")
        if type(version) is not int or not 1 <= version <= RUN_VERSION:
            raise _unusable(
                f"{self.run_json} has version {version!r} and this program writes {RUN_VERSION}; "
                f"use the program that made it, or {_CURE}"
            )
        try:
            return RunRecord.from_json(values)
        except SchemaError as error:
            raise _unusable(f"{self.run_json} is damaged: {error}; {_CURE}") from None

    def read_areas(self) -> Areas:
        """Areas that the run took from files. Raises StoreError where they cannot be read."""
        with storage_errors(self.areas_json):
            return Areas.load(self.areas_json)

    def require_chunks(self, record: RunRecord) -> None:
        """Raise ResultMismatchError for a finished result whose images have lost stored chunks, which read as 0.

        The chunks of results of older versions were not counted. Takes one listing of each image. Raises StoreError.
        """
        for name in ("mask", *record.config.kept):
            wanted = record.chunks.get(name, 0)
            # What is stored is counted, as the folder alone says nothing of the pixels in it.
            lost = wanted - count_chunks(self.path / f"{name}.ome.zarr") if wanted else 0
            if lost > 0:
                raise ResultMismatchError(
                    f"{self.path} was finished, but {counted(lost, 'chunk')} of its {name}.ome.zarr are gone "
                    f"({wanted - lost} of {wanted} are there); make it again with `wsi-magnet run --restart`",
                    cure="--restart",
                )

    def write_run(self, record: RunRecord) -> None:
        """Replace run.json atomically. Raises ResultBusyError if another run has taken the lock over, StoreError."""
        self.check_lock()
        write_json(self.run_json, record.to_json())

    def admit(self, wanted: Fingerprint, existing: Existing) -> RunRecord | None:
        """Record of an earlier run that can be resumed; None if the folder is to be emptied.

        Changes nothing. Raises ResultMismatchError if a start would lose another result.
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
        if not earlier.running and wanted.keeps <= _at_hand(before):
            differences = [one for one in differences if not one.startswith(f"{KEEP} ")]
        if differences:
            again = "start again with --restart"
            if missing := sorted(wanted.keeps - before.keeps):
                again += (
                    f", which computes all of the slide: {' and '.join(missing)} cannot be made from what is stored"
                )
            raise ResultMismatchError(
                f"{self.path} was made with other options: {'; '.join(differences)}. "
                f"Resume it with {_same_options(before, wanted)}, or {again}",
                cure="--restart",
                stays=True,
            )
        return earlier

    def _refuse_strangers(self) -> None:
        # A run writes run.json first, so files in a folder without it are not ours.
        with storage_errors(self.path):
            found = {*names(self.path)}
        others = sorted(found - LOCK_FILES - {_FENCING_TOKEN, self.run_json.name + PARTIAL})
        if others:
            raise ResultMismatchError(
                f"{self.path} holds files that are no result of this program ({', '.join(others[:3])}); "
                "choose another output folder with -o, or remove them"
            )

    def set_fencing_token(self, token: str) -> None:
        """Allow only tasks with this token to write here from now on. Raises StoreError."""
        replace_text(self.path / _FENCING_TOKEN, token)

    def clear_fencing_token(self) -> None:
        """Allow no task to write here from now on. Raises StoreError."""
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
        """Raise ResultMismatchError for an input of the run inside this folder: a result is deleted as a whole."""
        if not isinstance(self.path, Path):
            return  # inputs are local files
        folder = self.path.resolve()
        for path in inputs:
            if path.resolve().is_relative_to(folder):
                raise ResultMismatchError(
                    f"{path} lies where its result would go, in {self.path}; choose another output folder with -o"
                )

    def empty(self) -> None:
        """Delete all content of the folder but its lock. Raises StoreError."""
        with storage_errors(self.path):
            for name in names(self.path):
                if name not in LOCK_FILES:
                    delete(self.path / name)


def _at_hand(before: Fingerprint) -> set[str]:
    """Images that a finished result holds, or that can be made from what it holds: uncertainty from probabilities."""
    return {*before.keeps, "uncertainty"} if "probabilities" in before.keeps else before.keeps


def _same_options(before: Fingerprint, wanted: Fingerprint) -> str:
    """The options to resume with, in words; `--refine` by its value, since its default was another in 0.1.0."""
    refine = before.parts.get("--refine")
    if refine == wanted.parts.get("--refine"):
        return "the same options"
    others = len(before.differences(wanted)) > 1
    return f"--refine {refine}{' and the other options as they were' if others else ''}"


def _unusable(text: str) -> ResultMismatchError:
    return ResultMismatchError(text, cure="--overwrite", stays=True)


def write_json(path: Location, values: Mapping[str, Any]) -> None:
    """Write a JSON file atomically and durably. Raises StoreError."""
    replace_text(path, json.dumps(values, indent=2) + "\n")


def require_writable(path: Location) -> None:
    """Raise StoreError if a folder cannot be written, before the slide is read; object stores are tested by the
    lock.
    """
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
