"""Location of a result, a folder of this machine or a URL of an object store, and the operations that differ.

A path of this machine is a `pathlib.Path` and stays one. A `Url` is a value with the arithmetic of a path and no more:
requests are made by the functions below, so that none is sent unawares. Only this module imports fsspec, and the
libraries of the stores are imported when a URL is used.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from wsi_magnet.errors import ConfigError, StoreError
from wsi_magnet.storage.atomic import replace_file, sync
from wsi_magnet.values import documented

STORES = {
    "s3": "pip install '.[s3]' in wsi-magnet's checkout",
    "s3a": "pip install '.[s3]' in wsi-magnet's checkout",
    "gs": "pip install gcsfs",
    "gcs": "pip install gcsfs",
    "az": "pip install adlfs",
    "abfs": "pip install adlfs",
    "abfss": "pip install adlfs",
    "memory": "pip install fsspec",
}
"""Protocols with atomic writes, and the command that installs each. Others that fsspec knows (SFTP, SMB) write a file
piece by piece, and a killed worker would leave half of it."""

_LOCAL = ("file", "local")

_S3 = {"max_concurrency": 1}
"""Options of s3fs: one request for an object. With several parts at once it asks for the size of each before it reads
it, and lists where there is none: three requests for a chunk of background."""

_REQUESTS = 16
"""Concurrent requests where many are needed: each waits for the network."""


@documented
@dataclass(frozen=True, slots=True, order=True)
class Url:
    """A location in an object store, "s3://bucket/results"; arithmetic with names only, no requests."""

    protocol: str
    """Protocol of the store, such as "s3"."""
    key: str
    """Bucket and name: "bucket/results"."""

    def __truediv__(self, name: str) -> Url:
        return self.joinpath(name)

    def joinpath(self, *names: str) -> Url:
        """The location of that name below this one."""
        return Url(self.protocol, "/".join((self.key, *names)))

    def with_name(self, name: str) -> Url:
        """The neighbour of that name."""
        return self.parent / name

    def absolute(self) -> Url:
        """Itself: a URL has no working folder."""
        return self

    def resolve(self) -> Url:
        """Itself: a URL has no links."""
        return self

    @property
    def parent(self) -> Url:
        """The enclosing location."""
        return Url(self.protocol, self.key.rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Suffix of the name, with its dot; "" where there is none."""
        return Path(self.name).suffix

    def __str__(self) -> str:
        return f"{self.protocol}://{self.key}"


Location = Path | Url


def to_location(text: str | os.PathLike[str] | Url) -> Location:
    """Parse a location as typed by a user: a path, with ~, or a URL.

    Raises ConfigError for a URL that cannot hold a result, StoreError where the library for it is not installed.
    """
    if isinstance(text, Path | Url):
        return text
    typed = str(text)  # other libraries' paths print as their URL
    protocol, found, key = typed.partition("://")
    if not found or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", protocol):
        return Path(typed).expanduser()
    protocol = protocol.lower()
    if protocol in _LOCAL:
        return Path(f"/{key.lstrip('/')}")
    if protocol not in STORES:
        raise ConfigError(f"{typed}: {protocol}:// is no object store; mount it and name the folder")
    first = key.strip("/").partition("/")[0]
    if not first:
        raise ConfigError(f"{typed} names no bucket; write {protocol}://BUCKET/FOLDER")
    if ":" in first.partition("@")[0] and "@" in first:
        raise ConfigError(f"{protocol}://...: credentials do not belong into a URL; set them in the environment")
    _require(protocol)
    return Url(protocol, re.sub("/{2,}", "/", key).strip("/"))


def _require(protocol: str) -> None:
    """Raise StoreError if the protocol's library is not installed."""
    import fsspec

    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise StoreError(f"{protocol}:// needs a package that is not installed; {STORES[protocol]}") from error


def filesystem(protocol: str) -> Any:
    """The client of a process for an object store, shared by its threads.

    Endpoint and credentials come from the environment or fsspec's configuration. It caches no listings: other processes
    write what this one must see.
    """
    return _filesystem(protocol, os.getpid())


def awaited_filesystem(protocol: str) -> Any:
    """The same client for zarr, which awaits its answers in an event loop."""
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    # The wrapper's threads use the existing client; a client of zarr's loop would leave its connections open.
    return AsyncFileSystemWrapper(filesystem(protocol), asynchronous=True)


@cache
def _filesystem(protocol: str, pid: int) -> Any:
    # fsspec's own cache has a client for each thread, each with its own connections.
    import fsspec

    options = _S3 if protocol.startswith("s3") else {}
    return fsspec.get_filesystem_class(protocol)(use_listings_cache=False, skip_instance_cache=True, **options)


# The functions below raise the errors of the operating system or of a store's library; see `storage_errors`.


def exists(path: Location) -> bool:
    """True if a file, an object or a folder exists."""
    if isinstance(path, Path):
        return path.exists()
    return size_bytes(path) is not None or bool(names(path))


def size_bytes(path: Location) -> int | None:
    """Size of a file or object; None where there is none."""
    if isinstance(path, Path):
        return path.stat().st_size if path.is_file() else None
    with suppress(FileNotFoundError):
        found = filesystem(path.protocol).info(path.key)
        return int(found["size"]) if found["type"] == "file" else None
    return None


def read_bytes(path: Location) -> bytes:
    """Read a whole file or object. Raises FileNotFoundError."""
    if isinstance(path, Path):
        return path.read_bytes()
    return cast(bytes, filesystem(path.protocol).cat_file(path.key))


def read_all(paths: Iterable[Url]) -> list[bytes]:
    """Read whole objects concurrently; returned in the order of `paths`."""
    # fsspec's calls for several names treat "*", "?" and "[" as patterns, and slides have such names.
    with ThreadPoolExecutor(_REQUESTS) as requests:
        return list(requests.map(read_bytes, paths))


def replace_bytes(path: Location, data: bytes) -> None:
    """Write a file or object atomically; durable when this returns."""
    if isinstance(path, Url):
        filesystem(path.protocol).pipe_file(path.key, data)
    else:
        replace_file(path, data)


def names(path: Location) -> list[str]:
    """Names in a folder, sorted; none where the folder does not exist."""
    if isinstance(path, Path):
        return sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    try:
        found = filesystem(path.protocol).ls(path.key, detail=False)
    except FileNotFoundError:
        return []
    below = (one.strip("/") for one in found)
    return sorted(one.rpartition("/")[2] for one in below if one != path.key)


def parts_below(path: Url) -> Iterator[tuple[str, ...]]:
    """Names, from the first folder down, of all objects below a URL, from one listing."""
    for key in filesystem(path.protocol).find(path.key):
        if below := key.strip("/").removeprefix(path.key).strip("/"):  # s3fs may list the folder itself
            yield tuple(below.split("/"))


def make_folder(path: Location) -> None:
    """Make a folder with its parents, durably; nothing for a URL, because an object store has only names."""
    if not isinstance(path, Path) or path.is_dir():
        return
    missing = [path, *(parent for parent in path.parents if not parent.exists())]
    path.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync(one.parent)


def delete(path: Location) -> None:
    """Delete a file, an object or a folder with its content; nothing where it does not exist."""
    if isinstance(path, Url):
        _delete_below(path)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _delete_below(path: Url) -> None:
    client = filesystem(path.protocol)
    with suppress(FileNotFoundError):
        keys = list(client.find(path.key))
        if keys and not any(set("*?[") & set(key) for key in keys):
            client.rm(keys)  # a thousand in a request, but it treats names as patterns
            return
        with ThreadPoolExecutor(_REQUESTS) as requests:
            list(requests.map(client.rm_file, keys))


def delete_object(path: Url) -> None:
    """Delete one object; nothing where it does not exist."""
    with suppress(FileNotFoundError):
        filesystem(path.protocol).rm_file(path.key)
