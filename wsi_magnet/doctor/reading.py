"""Readers, codecs, bundle header and slide, looked at in a process that knows no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from wsi_magnet.config import RunConfig
from wsi_magnet.doctor.apart import one_line
from wsi_magnet.doctor.asked import Asked
from wsi_magnet.doctor.facts import BundleFacts, Codecs, Cost, OpenSlideFacts, SlideFacts
from wsi_magnet.doctor.made import Image, halved, picture, write_slide
from wsi_magnet.doctor.software import installed_version
from wsi_magnet.errors import BundleError, WsiMagnetError
from wsi_magnet.geometry import Box
from wsi_magnet.nets.spec import BundleSpec, bundle_path, read_spec
from wsi_magnet.planning.estimate import estimate
from wsi_magnet.planning.prepare import prepare
from wsi_magnet.slides.openslide import open_openslide, openslide_decoders, openslide_versions
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import SlideReader

Reading = OpenSlideFacts | Codecs | BundleFacts | SlideFacts | Cost

MOST_WRONG = 12.0
"""Mean difference to the picture, of 255, that JPEG may make; a swapped channel makes more."""

_LOOK_PX = 512


def read_all(asked: Asked) -> Iterator[Reading]:
    """Facts in the order in which they are wanted."""
    codecs = try_codecs()
    yield codecs
    bundle, spec = look_at_bundle(asked.bundle)
    yield bundle
    measured: Path | None = None
    if asked.slide is not None:
        slide = look_at_slide(Path(asked.slide).expanduser())
        yield slide
        measured = None if slide.error or slide.mpp is None else Path(asked.slide).expanduser()
    if codecs.errors["JPEG"] is not None:
        return  # no slide can be made
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.tif"
        yield try_openslide(made, write_slide(made, 1.0))
        yield cost_of(measured or made, spec, exact=measured is not None)


def try_openslide(made: Path, written: Image) -> OpenSlideFacts:
    """Its own pictures decoded, and a pyramid of JPEG tiles read at both levels."""
    try:
        library, python = openslide_versions()
    except WsiMagnetError as error:
        return OpenSlideFacts("", "", (), one_line(error))
    try:
        decoders = openslide_decoders()
        with closing(open_openslide(made)) as reader:
            wrong = max(_wrong(reader, 0, written), _wrong(reader, 1, halved(written)))
    except (WsiMagnetError, IndexError) as error:
        return OpenSlideFacts(library, python, (), one_line(error))
    told = f"a JPEG pyramid came back with colours {wrong:.0f} of 255 off" if wrong > MOST_WRONG else None
    return OpenSlideFacts(library, python, decoders, told)


def try_codecs() -> Codecs:
    """A picture there and back in the formats that plain TIFFs need."""
    tile = picture()[:256, :256]
    errors = {"JPEG": _there_and_back("jpeg", tile), "JPEG 2000": _there_and_back("jpeg2k", tile)}
    return Codecs(installed_version("imagecodecs") or "of unknown version", errors)


def look_at_bundle(bundle: str | None) -> tuple[BundleFacts, BundleSpec]:
    """Its header; where it has none, the header that goes on is that of the bundle that ships.

    Raises BundleError where that one is missing too.
    """
    path = str(bundle_path(bundle).absolute())
    try:
        spec, sha256 = read_spec(bundle)
    except BundleError as error:
        if bundle is None:
            raise
        return BundleFacts(path, one_line(error)), read_spec(None)[0]
    return BundleFacts(path, None, spec.name, spec.network, len(spec.classes), spec.mpps, sha256), spec


def look_at_slide(path: Path) -> SlideFacts:
    """What it says, and the middle of each of its levels decoded."""
    try:
        with closing(open_slide(path)) as reader:
            info = reader.info
            for index, level in enumerate(info.levels):
                x, y = (max(0, (side - _LOOK_PX) // 2) for side in level.size.wh)
                reader.read_level(index, Box(x, y, x + _LOOK_PX, y + _LOOK_PX).intersect(Box.of(level.size)))
    except (WsiMagnetError, OSError, MemoryError) as error:
        return SlideFacts(str(path), one_line(error))
    mpp = max(info.mpp_xy) if info.mpp_xy else None
    return SlideFacts(str(path), None, info.reader, info.vendor, str(info.size), len(info.levels), mpp, info.identity)


def cost_of(slide: Path, spec: BundleSpec, *, exact: bool) -> Cost:
    """What a run takes at most: where all of the slide is tissue. Without `exact` the slide stands for any."""
    with closing(open_slide(slide)) as reader:
        prepared = prepare(reader, spec, RunConfig(tissue=False))
    one, two = (
        estimate(
            prepared.plan,
            prepared.info.levels,
            spec.network,
            classes=len(spec.classes),
            refine="all",
            threads=threads,
            batch=1,
        )
        for threads in (1, 2)
    )
    each = two.memory_bytes - one.memory_bytes
    return Cost(one.memory_bytes - each, each, one.disk_bytes if exact else None)


def _wrong(reader: SlideReader, level: int, written: Image) -> float:
    """Mean difference between a level and the picture that was written."""
    pixels, _ = reader.read_level(level, Box.of(reader.info.levels[level].size))
    return float(np.abs(pixels.astype(np.int16) - written).mean()) if pixels.shape == written.shape else 255.0


def _there_and_back(codec: str, tile: Image) -> str | None:
    try:
        import imagecodecs  # only here, where it may fail

        encode, decode = (getattr(imagecodecs, f"{codec}_{way}") for way in ("encode", "decode"))
        wrong = float(np.abs(np.asarray(decode(encode(tile))).astype(np.int16) - tile).mean())
    except Exception as error:  # whatever a binary that does not fit raises
        return one_line(error)
    return f"a picture came back with colours {wrong:.0f} of 255 off" if wrong > MOST_WRONG else None
