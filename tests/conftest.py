"""Shared fixtures: folder of real slides, one thread a process, Ctrl-C as in a terminal."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before torch and numpy are imported, here and in every process that a test starts: the machine's cores are shared by
# worker threads and processes, and sums come out the same on every machine.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

# A shell starts `make test &` with Ctrl-C ignored, and every process of a test would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from typing import TYPE_CHECKING  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

if TYPE_CHECKING:
    from tests.commands import Call
    from tests.runs import MadeRun

# No test depends on how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parent.parent
TEST_DATA = "WSI_MAGNET_TEST_DATA"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real slides that are not in the repository; skips where the environment does not name one."""
    folder = os.environ.get(TEST_DATA)
    if not folder:
        pytest.skip(f"{TEST_DATA} names no folder of real slides")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"{TEST_DATA}={folder} is not a folder")
    return path


@pytest.fixture(scope="session")
def demo_slide() -> Path:
    """A prostate mosaic of RINGS: 2625 x 1500, three levels, no mpp."""
    return ROOT / "demo" / "rings_P1_D5_9_13.tif"


@pytest.fixture(scope="session")
def small_svs() -> Path:
    """OpenSlide's CMU-1-Small-Region: Aperio, one level of 2220 x 2967, mpp 0.499."""
    return ROOT / "tests" / "data" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="session")
def made_run(small_svs: Path, tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """A real slide, and a bundle whose networks cost nothing: 43 cells over three scales."""
    from tests.runs import MadeRun, free_spec, write_bundle

    return MadeRun(small_svs, write_bundle(tmp_path_factory.mktemp("bundles") / "free.safetensors", free_spec()))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server with an empty bucket; skips where none can be started."""
    from tests import s3

    if lacking := s3.missing():
        pytest.skip(f"no S3 server: {lacking} not installed")
    with s3.s3_server() as address:
        yield address


@pytest.fixture
def bucket(s3_server: str) -> str:
    """The URL of a folder in S3 where nothing lies yet."""
    from uuid import uuid4

    from tests.s3 import BUCKET

    return f"s3://{BUCKET}/{uuid4().hex[:8]}"


@pytest.fixture
def call() -> Call:
    """Runs `wsi-magnet` with the arguments that it is given."""
    from tests.commands import call_command

    return call_command
