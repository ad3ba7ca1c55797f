"""Checks of OpenSlide, image codecs, the bundle's header and the slide; run in an isolated process, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from wsi_magnet.config import RunConfig
from wsi_magnet.doctor.check import CheckResult, Needs, Request, ok, one_line, problem, problem_from, warning
from wsi_magnet.doctor.software import installed_version
from wsi_magnet.errors import BundleError, WsiMagnetError
from wsi_magnet.geometry import Box
from wsi_magnet.nets.spec import bundle_path, read_spec
from wsi_magnet.planning.estimate import estimate
from wsi_magnet.planning.prepare import prepare
from wsi_magnet.slides.openslide import openslide_decoders, openslide_versions
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.text import counted

TRY_DECODERS = {"OPENSLIDE_DEBUG": "synthetic"}
"""Environment with which OpenSlide decodes its built-in images; read when the library is loaded."""

OLDEST_OPENSLIDE = (4, 0)

CODECS = {"JPEG": "JPEG", "JPEG2K": "JPEG 2000"}
"""Codecs of imagecodecs that plain TIFFs need, and their names for people."""

_LOOK_PX = 512


def check_reading(request: Request) -> Iterator[CheckResult | Needs]:
    """Check everything that reads; at last the needs of a run on the slide, where they can be estimated."""
    yield check_openslide()
    yield check_codecs()
    yield check_bundle(request.bundle)
    if request.slide is not None:
        path = Path(request.slide).expanduser()
        yield check_slide(path, request.mpp)
        try:
            yield estimate_needs(path, request.bundle, request.mpp)
        except (WsiMagnetError, OSError):
            return  # slide or bundle cannot be used, as reported above


def check_openslide() -> CheckResult:
    """Check that OpenSlide can be loaded, is new enough, and decodes its built-in images."""
    remedy = "pip install --force-reinstall openslide-bin openslide-python (conda: conda install openslide)"
    try:
        library, python = openslide_versions()
    except WsiMagnetError as error:
        return problem("OpenSlide", one_line(error), remedy)
    if tuple(int(part) for part in library.split("-")[0].split(".") if part.isdigit()) < OLDEST_OPENSLIDE:
        return problem("OpenSlide", f"{library} is older than {'.'.join(map(str, OLDEST_OPENSLIDE))}", remedy)
    try:
        decoders = openslide_decoders()
    except WsiMagnetError as error:
        return problem("OpenSlide", f"{library} cannot decode its own test images: {one_line(error)}", remedy)
    tried = f"; all {len(decoders)} decoders work" if decoders else ""
    return ok("OpenSlide", f"{library}, openslide-python {python}{tried}")


def check_codecs() -> CheckResult:
    """Check that imagecodecs has the codecs of plain TIFFs."""
    remedy = "pip install --force-reinstall imagecodecs"
    try:
        import imagecodecs  # only here, where it may fail

        missing = [name for codec, name in CODECS.items() if not getattr(imagecodecs, codec).available]
    except Exception as error:  # whatever a binary for another system raises
        return problem("imagecodecs", f"cannot be imported: {one_line(error)}", remedy)
    found = installed_version("imagecodecs") or "of unknown version"
    if missing:
        return problem("imagecodecs", f"{found} has no {' and no '.join(missing)}", remedy)
    return ok("imagecodecs", f"{found} has {' and '.join(CODECS.values())}")


def check_bundle(bundle: str | None) -> CheckResult:
    """Check that a bundle's header can be read."""
    try:
        spec, sha256 = read_spec(bundle)
    except BundleError as error:
        return problem_from("bundle", error, "pass the path of a bundle, or none to use the one that ships")
    mpps = ", ".join(f"{mpp:g}" for mpp in spec.mpps)
    text = f"{len(spec.classes)} classes at {mpps} µm/px, sha256 {sha256[:12]}"
    return ok("bundle", f"{bundle_path(bundle).name}: {spec.name} ({spec.network}), {text}")


def check_slide(path: Path, mpp: float | None = None) -> CheckResult:
    """Check that a slide opens, and that the middle of each of its levels can be decoded."""
    try:
        with closing(open_slide(path, mpp=mpp)) as reader:
            info = reader.info
            for index, level in enumerate(info.levels):
                x, y = (max(0, (side - _LOOK_PX) // 2) for side in level.size.wh)
                reader.read_level(index, Box(x, y, x + _LOOK_PX, y + _LOOK_PX).intersect(Box.of(level.size)))
    except (WsiMagnetError, OSError, MemoryError) as error:
        remedy = "check that the file is complete and of a known format, or export it again from the scanner"
        return problem_from("slide", error, remedy)
    text = f"{path.name}: {info.vendor}, {info.size} px, {counted(len(info.levels), 'level')}"
    if not info.mpp_xy:
        return warning("slide", f"{text}; no resolution in its metadata", "pass --mpp, here and to the run")
    return ok("slide", f"{text}, {max(info.mpp_xy):g} µm/px; every level can be decoded")


def estimate_needs(path: Path, bundle: str | None, mpp: float | None = None) -> Needs:
    """Memory and disk of a run if all of the slide is tissue. Raises WsiMagnetError if slide or bundle is unusable."""
    spec, _ = read_spec(bundle)
    with closing(open_slide(path, mpp=mpp)) as reader:
        prepared = prepare(reader, spec, RunConfig(tissue=False, mpp=mpp))
    one, two = (
        estimate(
            prepared.plan,
            prepared.info,
            spec.network,
            classes=len(spec.classes),
            refine="all",
            threads=threads,
            batch=1,
            weight_bytes=bundle_path(bundle).stat().st_size,
        )
        for threads in (1, 2)
    )
    each = two.memory_bytes - one.memory_bytes
    return Needs(one.memory_bytes - each, each, one.disk_bytes)
