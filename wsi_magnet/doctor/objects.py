"""Whether results can be put into an object store: objects made, found, written over on conditions, and deleted."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from pathlib import Path

from wsi_magnet.doctor.apart import within
from wsi_magnet.doctor.disk import PROBE, gather_folder
from wsi_magnet.doctor.facts import Ended, Folder, ObjectStore
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.storage.conditional import create_bytes, replace_seen, seen
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Url, delete, names, read_bytes, to_location

PATIENCE_S = 60.0
"""For about ten requests; libraries of stores try a few times before they give up."""


def gather_output(output: str) -> Folder | ObjectStore:
    """Try what results would be written to, a folder or a URL."""
    try:
        where = to_location(output)
    except WsiMagnetError as error:
        return ObjectStore(output, str(error))
    if isinstance(where, Path):
        return gather_folder(where)
    found = within(PATIENCE_S, lambda: _try(where), during=f"a look at {where}")
    return ObjectStore(str(where), found.how) if isinstance(found, Ended) else found


def _try(where: Url) -> ObjectStore:
    probe = where / f"{PROBE}{secrets.token_hex(4)}"
    one = probe / "one"
    with storage_errors(where):
        try:
            begun = time.perf_counter()
            create_bytes(one, b"first")
            request_s = time.perf_counter() - begun
            error = None if read_bytes(one) == b"first" and names(probe) == ["one"] else "it does not keep what it gets"
            refuses = not create_bytes(one, b"again")
            stale = seen(one)
            replaces = stale is not None and replace_seen(one, stale, b"second")
            refuses_stale = stale is not None and not replace_seen(one, stale, b"third")
            return ObjectStore(str(where), error, refuses and replaces and refuses_stale, request_s)
        finally:
            with suppress(Exception):  # the reason that counts is on its way
                delete(probe)
