"""Shared fixtures: folder of real slides, one thread a process, Ctrl-C as in a terminal."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

# Before torch and numpy are imported, here and in every process that a test starts: the machine's cores are shared by
# worker threads and processes, and sums come out the same on every machine.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

# Results are written with fsync, which on a disk is most of a small run's time: temporary folders lie in memory where
# there is enough of it. The processes of pytest-xdist get theirs from the one that starts them.
_MEMORY = Path("/dev/shm")
if "PYTEST_DEBUG_TEMPROOT" not in os.environ and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 4 * 2**30:
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(_MEMORY)

# A shell starts `make test &` with Ctrl-C ignored, and every process of a test would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from typing import TYPE_CHECKING  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

if TYPE_CHECKING:
    from tests.commands import Call
    from tests.runs import MadeRun

# No test depends on how busy the machine is. `make test-slow` repeats the properties with many examples.
for _profile, _examples in (("quick", 10), ("thorough", 60)):
    settings.register_profile(
        _profile,
        max_examples=_examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
settings.load_profile("quick")

ROOT = Path(__file__).resolve().parent.parent
TEST_DATA = "WSI_MAGNET_TEST_DATA"


@pytest.fixture(autouse=True)
def handlers_of_signals() -> Iterator[None]:
    """Restore the handlers of Ctrl-C and SIGTERM: a command that was stopped leaves its own, for its process ends."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    yield
    for one, handler in before.items():
        if signal.getsignal(one) is not handler:
            signal.signal(one, handler)


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
    """A part of a real slide, and a bundle whose networks cost nothing: 1, 4 and 8 cells at its three scales."""
    from tests.runs import MadeRun, free_spec, write_bundle
    from tests.slides_made import cut_out
    from wsi_magnet.geometry import Size

    folder = tmp_path_factory.mktemp("made_run")
    slide = cut_out(small_svs, folder / "part.tif", (100, 1500), Size(1150, 1400))
    return MadeRun(slide, write_bundle(folder / "free.safetensors", free_spec()))


@pytest.fixture(scope="session")
def long_run(made_run: MadeRun, small_svs: Path) -> MadeRun:
    """The whole slide with the same bundle: 4, 6 and 21 cells, for tests that catch a run in the middle."""
    return replace(made_run, slide=small_svs)


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
