"""Translation of errors of the operating system and of object stores to StoreErrors that name location and cure."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from wsi_magnet.errors import OutageError, OutOfSpaceError, StoreError, WsiMagnetError
from wsi_magnet.storage.location import Location, Url

_LIBRARIES = ("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "s3fs")
"""Packages whose exceptions are translated; any other exception is a defect of ours."""

_FULL = ("quota", "insufficient storage", "storage backend has reached")
"""Texts of stores that are full, in lower case."""

_AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH)
"""Error numbers of a network share that does not answer."""

_AGAIN = "what is finished is kept: run the same command again"


@contextmanager
def storage_errors(path: Location) -> Iterator[None]:
    """Context that turns errors of the system and of an object store into StoreErrors of one line."""
    try:
        yield
    except WsiMagnetError:
        raise
    except OSError as error:
        if not isinstance(path, Url):
            raise _of_system(path, error) from error
        raise _of_store(path, error) from error
    except Exception as error:
        if not isinstance(path, Url) or type(error).__module__.partition(".")[0] not in _LIBRARIES:
            raise
        raise _of_store(path, error) from error


def _of_system(path: Location, error: OSError) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutOfSpaceError(
            f"{path}: no space left ({error.strerror}); what is finished is kept: "
            "free some space and run the same command again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(
            f"{path} cannot be read or written ({error.strerror}: {error.filename}); check its permissions, or "
            "choose another output folder with -o"
        )
    if error.errno in _AWAY:
        return OutageError(f"{path} does not answer ({error.strerror}); see to the disk or the share; {_AGAIN}")
    if error.errno in (errno.EISDIR, errno.ENOTDIR):
        return StoreError(
            f"{path} is damaged ({error.strerror}: {error.filename}); remove it, or rebuild the result "
            "with `wsi-magnet run --restart`"
        )
    return StoreError(f"{path}: {error.strerror or error}")


def _of_store(path: Url, error: Exception) -> StoreError:
    reason = " ".join(str(error).split()) or type(error).__name__
    kind = type(error).__name__
    s3 = path.protocol.startswith("s3")
    if any(word in reason.lower() for word in _FULL):
        return OutOfSpaceError(f"{path}: no space left ({reason}); free some space; {_AGAIN}")
    if "bucket does not exist" in reason.lower():
        return StoreError(f"{path}: there is no such bucket; make it, or correct its name")
    if isinstance(error, PermissionError) or any(word in kind for word in ("Credential", "Token", "Auth", "Profile")):
        where = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" if s3 else "the variables of its library"
        return StoreError(
            f"{path}: access is refused ({reason}); credentials come from the environment ({where}) or from fsspec's "
            "configuration, on the host of every worker too"
        )
    if isinstance(error, ConnectionError | TimeoutError) or any(word in kind for word in ("Connect", "Timeout", "DNS")):
        where = "AWS_ENDPOINT_URL or FSSPEC_S3_ENDPOINT_URL" if s3 else "the environment"
        return OutageError(f"{path}: the store does not answer ({reason}); check the endpoint ({where}); {_AGAIN}")
    return StoreError(f"{path}: {reason}; {_AGAIN}")
