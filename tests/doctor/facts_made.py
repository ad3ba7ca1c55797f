"""Facts of a machine on which everything is as it should be, to be spoilt one by one."""

from __future__ import annotations

from collections.abc import Iterable

from wsi_magnet.config import Execution
from wsi_magnet.doctor.asked import Asked
from wsi_magnet.doctor.facts import (
    BundleFacts,
    Codecs,
    Computing,
    Cost,
    Folder,
    Gpu,
    Memory,
    OpenSlideFacts,
    Package,
    SlideFacts,
    Software,
    Trial,
)
from wsi_magnet.doctor.lines import Line

GIB = 1 << 30

ASKED = Asked(Execution(workers=2))
SOFTWARE = Software(
    "3.12.1",
    ">=3.11",
    True,
    "1.0",
    "1.0",
    (Package("torch", "2.7", ">=2.6,<3", "fits"), Package("dask", "2025.2", ">=2025.1,<2027", "fits")),
    {"staple": (Package("SimpleITK", "2.5", ">=2.4,<3", "fits"),)},
)
MEMORY = Memory(16 * GIB, 12 * GIB, None)
COST = Cost(1 * GIB, GIB // 2, None)
FOLDER = Folder("/data/out", "/data/out", None, 10**12, "ext4", None, None, 0.002)
OPENSLIDE = OpenSlideFacts("4.0.1", "1.4.2", ("jpeg", "j2k"))
CODECS = Codecs("2025.8.2", {"JPEG": None, "JPEG 2000": None})
BUNDLE = BundleFacts("/b.safetensors", None, "grade", "small", 3, (2.0, 1.0), "ab" * 32)
SLIDE = SlideFacts("/s.svs", None, "openslide", "aperio", "100 x 100", 2, 0.25, "id")
COMPUTING = Computing("2.7+cpu", None, None, (), 0, None, None, "auto", "cpu", "fp32")
GPU = Gpu("A10", 24 * GIB, 23 * GIB, "8.6", None)
TRIAL = Trial("here", None, "1024 x 1024", 3.0, {0: 5, 1: 10, 2: 4}, (0, 1, 2, 255))


def only(lines: Iterable[Line], state: str) -> Line:
    """The one line that there is, which has that state, and a cure unless all is well."""
    (line,) = lines
    assert line.state == state, line
    assert bool(line.cure) == (state != "ok"), line
    return line


def worst(lines: Iterable[Line], state: str) -> Line:
    """The one line that is not ok, which has that state and a cure."""
    return only((line for line in lines if line.state != "ok"), state)
