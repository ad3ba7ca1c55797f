"""Writing to an object store only where there is nothing yet, or over what was seen: what two processes agree by."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from wsi_magnet.storage.location import Url, filesystem


def create_bytes(path: Url, data: bytes) -> bool:
    """Write an object only where there is none; False where there is one."""
    try:
        filesystem(path.protocol).pipe_file(path.key, data, mode="create")
    except OSError as error:
        if not _refused(error):
            raise
        return False
    return True


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as it was found."""

    version: str
    """What the store calls this state of it."""
    data: bytes


def seen(path: Url) -> Seen | None:
    """An object as it is now; None where there is none."""
    client = filesystem(path.protocol)
    with suppress(FileNotFoundError):
        return Seen(str(client.info(path.key).get("ETag", "")), client.cat_file(path.key))
    return None


def replace_seen(path: Url, found: Seen, data: bytes) -> bool:
    """Write an object over what was seen; False where it is another by now.

    S3 compares by itself. Elsewhere it is compared here, so two writers of the same instant both get True, and find
    out when they look again.
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
    """True where a store did not write because its condition did not hold."""
    told = getattr(error.__cause__, "response", {})
    code = told.get("Error", {}).get("Code") if isinstance(told, dict) else None
    return isinstance(error, FileExistsError) or code in ("PreconditionFailed", "ConditionalRequestConflict")
