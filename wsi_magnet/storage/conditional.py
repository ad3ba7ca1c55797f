"""Conditional writes for object stores: put-if-absent and compare-and-swap."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from wsi_magnet.storage.location import Url, filesystem


def create_bytes(path: Url, data: bytes) -> bool:
    """Put an object if there is none; False if there is one."""
    try:
        filesystem(path.protocol).pipe_file(path.key, data, mode="create")
    except OSError as error:
        if not _refused(error):
            raise
        return False
    return True


@dataclass(frozen=True, slots=True)
class Seen:
    """State of an object when it was read."""

    version: str
    """Version (ETag) of the object in the store."""
    data: bytes


def seen(path: Url) -> Seen | None:
    """Read an object with its version; None where there is none."""
    client = filesystem(path.protocol)
    with suppress(FileNotFoundError):
        return Seen(str(client.info(path.key).get("ETag", "")), client.cat_file(path.key))
    return None


def replace_seen(path: Url, found: Seen, data: bytes) -> bool:
    """Replace an object if it is still in the state that was seen; False if it has changed.

    S3 compares on the server. For other stores it is compared here, so two simultaneous writers may both get True, and
    must read the object again.
    """
    client = filesystem(path.protocol)
    conditions = {"IfMatch": found.version} if path.protocol.startswith("s3") else {}
    try:
        if not conditions and seen(path) != found:
            return False
        client.pipe_file(path.key, data, **conditions)
    except FileNotFoundError:
        return False
    except OSError as error:
        if not _refused(error):
            raise
        return False
    return True


def _refused(error: OSError) -> bool:
    """True if the store did not write because its condition did not hold."""
    response = getattr(error.__cause__, "response", {})
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return isinstance(error, FileExistsError) or code in ("PreconditionFailed", "ConditionalRequestConflict")
