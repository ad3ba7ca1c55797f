"""A real S3 server for tests, in a process of its own: everything goes over HTTP, as it would to anybody's."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BUCKET = "results"

_NEEDED = ("s3fs", "moto", "flask", "flask_cors")


def missing() -> str:
    """What is not installed and would be needed, or nothing."""
    return ", ".join(name for name in _NEEDED if importlib.util.find_spec(name) is None)


@contextmanager
def s3_server() -> Iterator[str]:
    """The server's address; the environment names it, with credentials, as a user's would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    start = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    told = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    try:
        _wait(address, process)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in told.items():
                patch.setenv(name, value)
            _make_bucket()
            yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, "the S3 server did not start"
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.1)


def _make_bucket() -> None:
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(BUCKET)


def objects(url: str) -> dict[str, bytes]:
    """All objects below a URL, by their name there, read by s3fs alone."""
    import s3fs

    client = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    root = url.removeprefix("s3://")
    found = (key for key in client.find(root) if key != root)  # s3fs lists the folder where it came to be meanwhile
    return {key.removeprefix(f"{root}/"): client.cat_file(key) for key in found}


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their name there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
