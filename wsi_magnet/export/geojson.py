"""GeoJSON files, written feature by feature and renamed when complete; several where one would be too large."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import IO, Any, cast

from wsi_magnet.errors import ConfigError
from wsi_magnet.export.objects import ObjectOptions, objects_of
from wsi_magnet.export.qupath import FeatureStyle, feature
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.output import Exported, FileOptions, provisional, refuse_existing

SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz")
"""Suffixes of files that QuPath opens; it ignores files of other names without a message."""


def write_geojson(
    source: Result, target: Path, objects: ObjectOptions, style: FeatureStyle, files: FileOptions
) -> Exported:
    """The regions of a result as GeoJSON.

    Raises ConfigError for a name or a class that does not fit, StoreError for what cannot be read or written, and where
    the target exists.
    """
    features = (feature(one, style) for one in objects_of(source, objects))
    exported = write_features(features, target, describe(source, objects), files)
    notes = list(source.unfinished)
    if not exported.objects:
        notes.append("the mask has no region of these classes, so the file has no objects")
    return Exported(exported.files, exported.objects, tuple(notes))


def describe(source: Result, options: ObjectOptions) -> dict[str, Any]:
    """The provenance of the objects, stored in the file; QuPath ignores it."""
    return {
        "slide": source.name,
        "slide_identity": source.identity,
        "bundle": source.record.bundle.name,
        "bundle_sha256": source.record.bundle.sha256,
        "version": source.record.program_version,
        "state": source.state,
        "preliminary": source.running,
        "alarms": [one.kind for one in source.alarms],
        "mpp": source.geometry.mpp,
        "frame": options.frame,
        "origin_xy_level0_px": list(source.geometry.bounds_xy if options.frame == "qupath" else (0, 0)),
        "simplified_um": options.simplify_um,
        "note": "Not for diagnosis.",
    }


def write_features(
    features: Iterable[Mapping[str, Any]], target: Path, description: Mapping[str, Any], options: FileOptions
) -> Exported:
    """Features as one FeatureCollection, or as several, named x.part-01.geojson, x.part-02.geojson and so on.

    Raises ConfigError for a name that QuPath would ignore, StoreError as `write_geojson` does.
    """
    check_target(target, options.overwrite)
    with storage_errors(target), closing(_Parts(target, description)) as parts:
        count = 0
        for one in features:
            parts.add(json.dumps(one, separators=(",", ":"), ensure_ascii=False), options.part_bytes)
            count += 1
        return Exported(parts.finish(), count)


def check_target(target: Path, overwrite: bool) -> None:
    """Raises ConfigError for a name of another kind, StoreError where the file or a part of it exists."""
    if not target.name.lower().endswith(SUFFIXES):
        raise ConfigError(f"{target} has no suffix that QuPath reads; end it in {', '.join(SUFFIXES)}")
    for path in (target, *_numbered(target)):
        refuse_existing(path, overwrite=overwrite)


class _Parts:
    """Files being written, with provisional names until all are complete."""

    def __init__(self, target: Path, description: Mapping[str, Any]) -> None:
        self._target = target
        self._head = '{"type":"FeatureCollection","wsi-magnet":' + json.dumps(description, ensure_ascii=False)
        self._file: IO[str] | None = None
        self._open = ExitStack()
        self._paths: list[Path] = []
        self._bytes = 0

    def add(self, text: str, part_bytes: int) -> None:
        if self._file is None or (part_bytes and self._bytes > part_bytes):
            self._next()
        assert self._file is not None
        self._bytes += self._file.write(("," if self._bytes else "") + "\n" + text)

    def _next(self) -> None:
        self._end()
        path = provisional(self._target, len(self._paths) + 1)
        self._paths.append(path)
        raw: IO[bytes] = self._open.enter_context(path.open("wb"))
        if self._target.name.lower().endswith(".gz"):
            # Without name and time, so that two exports of one result are equal byte for byte.
            compressed = gzip.GzipFile("", "wb", 6, raw, mtime=0)
            self._open.callback(compressed.close)
            raw = cast(IO[bytes], compressed)
        # A slide's name on disk may contain bytes that are not text.
        self._file = self._open.enter_context(io.TextIOWrapper(raw, encoding="utf-8", errors="replace"))
        self._file.write(self._head + ',"features":[')
        self._bytes = 0

    def _end(self) -> None:
        if self._file is not None:
            self._file.write("\n]}\n")
            self._open.close()
            self._file = None

    def finish(self) -> tuple[Path, ...]:
        """Give all files their names, and delete those of an earlier export."""
        if not self._paths:
            self._next()
        self._end()
        names = (
            [self._target]
            if len(self._paths) == 1
            else [_part(self._target, i + 1, len(self._paths)) for i in range(len(self._paths))]
        )
        for path, name in zip(self._paths, names, strict=True):
            path.replace(name)
        for earlier in {self._target, *_numbered(self._target)} - set(names):
            earlier.unlink(missing_ok=True)
        self._paths = []
        return tuple(names)

    def close(self) -> None:
        """Delete incomplete files."""
        with suppress(OSError):  # a full disk, for example, which has been reported already
            self._open.close()
        for path in self._paths:
            path.unlink(missing_ok=True)


def _stem(target: Path) -> tuple[str, str]:
    suffix = next(s for s in sorted(SUFFIXES, key=len, reverse=True) if target.name.lower().endswith(s))
    return target.name[: -len(suffix)], target.name[-len(suffix) :]


def _part(target: Path, number: int, count: int) -> Path:
    """Name of a part. Names sort as their numbers do, and no slide's own name is likely to be one."""
    stem, suffix = _stem(target)
    digits = max(2, len(str(count)))
    return target.with_name(f"{stem}.part-{number:0{digits}}{suffix}")


def _numbered(target: Path) -> list[Path]:
    """The numbered files of an earlier export."""
    stem, suffix = _stem(target)
    pattern = re.compile(re.escape(stem) + r"\.part-[0-9]+" + re.escape(suffix))
    folder = target.parent
    return sorted(p for p in folder.iterdir() if pattern.fullmatch(p.name)) if folder.is_dir() else []
