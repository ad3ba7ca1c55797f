"""A bundle's description: everything but the tensors. Imports no torch, so that planning and showing stay quick."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Literal
from uuid import uuid4

from wsi_magnet.config import CELL_SIDES_PX, DEFAULT_CELL_PX
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.labels import LabelClass
from wsi_magnet.nets.profile import TrainingProfile
from wsi_magnet.scales import check_mpps
from wsi_magnet.schema import SchemaError, parse
from wsi_magnet.storage.atomic import atomic_file
from wsi_magnet.storage.output import refuse_existing
from wsi_magnet.values import check, check_fields, documented

FORMAT = "wsi-magnet-bundle"
VERSION = "1"

Argument = bool | int | float | str
"""An argument of a network."""

ChannelOrder = Literal["fine_first", "coarse_first"]
CHANNEL_ORDERS = ("fine_first", "coarse_first")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SHIPPED = Path(__file__).parent.parent / "bundles"
DEFAULT_BUNDLE = "prostate-glands"
"""Name of the bundle used by default."""

MOST_HALO_PX, MOST_MEDIAN_PX, MOST_PATCH_PX = 512, 51, 4096
"""Upper limits: larger patches would need more memory and time than any network is worth."""

_PACKAGE = re.compile(r"[A-Za-z0-9._-]+ [A-Za-z0-9.!+_-]+")

LEAST_FIXED_HALO_PX = 16
"""Least halo of a network that takes patches of one size only."""

_HEADER_LIMIT_BYTES = 100_000_000
"""Limit of the safetensors library: a file that declares a longer header is of another kind."""


@documented
@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class of the network's output. Raises BundleError, naming the class, for a value that is not allowed."""

    name: str
    """Name for people, not empty."""
    value: int
    """Label in the mask: 1 to 254, and 0 only for background (255 is "not analysed")."""
    color: tuple[int, int, int]
    """RGB, 0 to 255."""

    def __post_init__(self) -> None:
        check_fields(self, BundleError, where=f"class {self.name!r:.60}: ")
        if not self.name.strip():
            raise BundleError(f"class {self.name!r} has no name")
        if not 0 <= self.value <= 254:
            raise BundleError(f"class {self.name!r}: value {self.value} is not between 0 and 254")
        if not all(0 <= channel <= 255 for channel in self.color):
            raise BundleError(f"class {self.name!r}: colour {self.color} is not RGB between 0 and 255")

    @property
    def label(self) -> LabelClass:
        """The class as a label of a mask."""
        return LabelClass(self.value, self.name, self.color)


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSpec:
    """Everything needed to use a bundle's tensors; scales run from coarse (0) to fine.

    Raises BundleError, naming the field, for invalid or inconsistent values.
    """

    name: str
    """Name of the bundle, which results record."""
    network: str
    """"fpn", "psp", "hrnet18+ocr", "small", "fcn_resnet50_unet", "identity", "exported", "vit:VARIANT", "timm:NAME",
    "smp:ARCHITECTURE/ENCODER", or one of another package."""
    network_args: Mapping[str, Argument] = field(default_factory=dict)
    """Arguments of the network besides the number of classes."""
    network_package: str | None = None
    """Name and version of the package that the network comes from; None for one of this package."""
    refiner: str = "magnet"
    """"magnet", "light", "pool", "gate", "gate+rgb" or "identity"."""
    classes: tuple[ClassInfo, ...]
    """Classes, in the order of the network's channels."""
    mpps: tuple[float, ...]
    """Microns per pixel of each scale, each half of the one before."""
    refiner_of: tuple[int, ...]
    """Index of the refiner of scale 1, 2, ...; all 0 for a shared one."""
    channel_order: str = "fine_first"
    """Order of a refiner's two input maps, "fine_first" or "coarse_first"."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean that is subtracted from RGB / 255."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation by which the difference is then divided."""
    cell_px: int = DEFAULT_CELL_PX
    """Side of the cells, for which `refine_above` was fitted, in pixels: 128, 256 or 512. The smaller it is, the less
    context the networks have at the finer scales."""
    halo_px: int = 32
    """Minimum margin around a cell that the networks see, in pixels."""
    patch_px: int | None = None
    """Side of every patch, for networks that take one size only: the halo is what it leaves round a cell. None: a cell
    with its halo."""
    median_px: int = 5
    """Odd side of the query score's median filter, in pixels of the coarsest scale."""
    select_above: tuple[float, ...]
    """Least query score of pixels that are overwritten, for scale 1, 2, ..."""
    select_width: tuple[float, ...] = ()
    """Width of the score interval over which a pixel changes from Y to R, for scale 1, 2, ...; 0 or none is a hard
    overwrite, as published."""
    refine_above: tuple[float, ...]
    """Least mean uncertainty of cells that `--refine auto` refines, for scale 1, 2, ..."""
    temperature: tuple[float, ...]
    """Divisor of the backbone's logits before the softmax, for scale 0, 1, ...; 1 changes nothing."""
    methods: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Other methods that the bundle was trained or fitted for, by name, with the parameters that were fitted."""
    profile: TrainingProfile | None = None
    """Numbers of the training data with which slides are compared; None in bundles made before there were any."""
    card: Mapping[str, str] = field(default_factory=dict)
    """Model card for people: licence, data, intended use, not for, held-out figures, made by."""

    def __post_init__(self) -> None:
        check_fields(self, BundleError, where=f"bundle {self.name!r:.60}: ")
        for problem in _problems(self):
            raise BundleError(f"bundle {self.name!r}: {problem}")

    def width_of(self, step: int) -> float:
        """Width of the selection of scale `step + 1`."""
        return self.select_width[step] if self.select_width else 0.0

    @property
    def background_index(self) -> int | None:
        """Channel of the class whose label is 0; None without one."""
        return next((i for i, c in enumerate(self.classes) if c.value == 0), None)

    @property
    def n_refiners(self) -> int:
        """Number of refiners in the bundle."""
        return len(set(self.refiner_of))

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.profile is None:
            del values["profile"]
        if self.network_package is None:
            del values["network_package"]
        if self.patch_px is None:
            del values["patch_px"]
        if not self.methods:
            del values["methods"]
        return values

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> BundleSpec:
        """Inverse of `to_json`. Raises BundleError, naming a field that is unknown, missing or of the wrong type."""
        try:
            spec: BundleSpec = parse(BundleSpec, values, "bundle")
        except SchemaError as error:
            raise BundleError(str(error)) from None
        return spec


def single_scale(spec: BundleSpec, index: int) -> BundleSpec:
    """The description with one of its scales, no refiner, and no profile, which is of masks of all scales."""
    return replace(
        spec,
        mpps=(spec.mpps[index],),
        temperature=(spec.temperature[index],),
        refiner_of=(),
        select_above=(),
        select_width=(),
        refine_above=(),
        methods={},
        profile=None,
    )


def bundle_path(bundle: str | Path | None) -> Path:
    """Path of a bundle: the one given; for None or "default", the shipped one."""
    check(str | PathLike | None, bundle, "bundle", BundleError)
    if bundle is None or str(bundle) == "default":
        return SHIPPED / f"{DEFAULT_BUNDLE}.safetensors"
    return Path(bundle).expanduser()


def check_output(output: str | Path, *, overwrite: bool) -> None:
    """Raise BundleError where the place of a new bundle is a folder, StoreError where it lies below a file, or is taken
    and may not be replaced.
    """
    target = Path(output).expanduser()
    if target.is_dir():
        raise BundleError(f"-o {output} is a folder; give the bundle another name")
    refuse_existing(target, overwrite=overwrite)


def read_spec(bundle: str | Path | None) -> tuple[BundleSpec, str]:
    """Description in a bundle's header, and SHA-256 of the whole file; no tensor is loaded.

    bundle: its path; None or "default" is the shipped one. A file is hashed once in a process, and again after a change
    of its size, times or inode: a cohort asks for every slide, and the largest bundles have 290 MB. Raises BundleError
    for any other file.
    """
    path = bundle_path(bundle)
    try:
        found = path.stat()
        return _read_spec(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    except OSError as error:
        raise BundleError(f"bundle {path}: {error.strerror or error}; pass the path of a bundle") from None


@lru_cache(maxsize=64)
def _read_spec(path: Path, stamp: tuple[int, ...]) -> tuple[BundleSpec, str]:
    """stamp: tells apart the files that were at this path at different times."""
    with path.open("rb") as file:
        spec = _read_header(file, path)
        file.seek(0)
        return spec, hashlib.file_digest(file, "sha256").hexdigest()


def _read_header(file: BinaryIO, path: Path) -> BundleSpec:
    """Parse the start of a safetensors file: the header's length in 8 bytes, then the header as JSON."""
    refusal = BundleError(
        f"{path} is not a wsi-magnet bundle; make one from .pth checkpoints with `wsi-magnet bundle import-magnet`"
    )
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= _HEADER_LIMIT_BYTES:
        raise refusal
    try:
        header = json.loads(file.read(length))
        metadata = header["__metadata__"]
        description = json.loads(metadata["spec"])
        kind, version = metadata["format"], metadata["version"]
        data_bytes = max((one["data_offsets"][1] for key, one in header.items() if key != "__metadata__"), default=0)
        missing = 8 + length + data_bytes - os.fstat(file.fileno()).st_size
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise refusal from None
    if missing > 0:
        raise BundleError(f"{path} is cut off: its last {missing:,} bytes are missing; get the file again")
    if kind != FORMAT:
        raise refusal
    if version != VERSION:
        raise BundleError(f"{path} is a bundle of version {version}, this program reads {VERSION}; update wsi-magnet")
    try:
        return BundleSpec.from_json(description)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None


@dataclass(frozen=True, slots=True)
class BundleIdentity:
    """Name and SHA-256 of the file that a bundle's weights come from, whatever its classes are called now.

    Results are recognised by it: a bundle that was only edited makes the same masks.
    """

    name: str
    sha256: str


ORIGIN = "origin"
"""Entry of an edited bundle's header: the identity of the first bundle with its weights, as JSON."""


def bundle_identity(bundle: str | Path | None) -> BundleIdentity:
    """Identity of a bundle: its origin's if it was made by `edit_bundle`, else its own. Raises BundleError."""
    spec, sha256 = read_spec(bundle)
    path = bundle_path(bundle)
    try:
        origin = json.loads(read_header(path).get("__metadata__", {}).get(ORIGIN, "null"))
        return parse(BundleIdentity, origin, ORIGIN) if origin is not None else BundleIdentity(spec.name, sha256)
    except (SchemaError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} names no usable origin: {error}; get the file again") from None


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file that `read_spec` has accepted. Raises BundleError."""
    try:
        with path.open("rb") as file:
            header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (OSError, ValueError) as error:
        raise BundleError(f"bundle {path}: {error}") from None
    return header


HEAD_PREFIX = "method."
"""Prefix of the tensors of heads, before the name of the method."""

_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
"""Ends of the names of tensors that are no learned parameters."""


def head_parameters(bundle: str | Path | None) -> dict[str, int]:
    """Number of learned parameters of each method in a bundle, 0 for one without a head; no tensor is loaded.

    Raises BundleError.
    """
    spec, _ = read_spec(bundle)
    tensors = read_header(bundle_path(bundle))
    return {
        name: sum(
            prod(one["shape"])
            for key, one in tensors.items()
            if key.startswith(f"{HEAD_PREFIX}{name}.") and not key.endswith(_STATISTICS)
        )
        for name in spec.methods
    }


def edit_bundle(bundle: str | Path | None, target: Path, spec: BundleSpec) -> None:
    """Copy a bundle with another name, other names and colours of its classes, or another card; the weights are the
    same, and the new file is recognised as the old one by `bundle_identity`.

    Raises BundleError for any other change, and where the file cannot be read or written.
    """
    path, (before, _) = bundle_path(bundle), read_spec(bundle)
    if _computing(before) != _computing(spec):
        raise BundleError(f"{path}: only its name, its card, and the names and colours of its classes can be changed")
    origin = bundle_identity(bundle)
    header = read_header(path)
    header["__metadata__"] |= {
        "spec": json.dumps(spec.to_json()),
        ORIGIN: json.dumps({"name": origin.name, "sha256": origin.sha256}),
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, atomic_file(target, unique=uuid4().hex) as file:
            source.seek(8 + int.from_bytes(source.read(8), "little"))
            file.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(source, file)
    except OSError as error:
        raise BundleError(f"cannot write bundle {target}: {error.strerror or error}") from None


def _computing(spec: BundleSpec) -> dict[str, Any]:
    """Everything of a description that a mask depends on."""
    values = spec.to_json()
    del values["name"], values["card"]
    return {**values, "classes": [one.value for one in spec.classes]}


def patch_problem(patch_px: int, cell_px: int, scales: int, median_px: int) -> str | None:
    """Reason why patches of one fixed side do not fit cells of that side on a ladder of so many scales, or None."""
    halo, odd = divmod(patch_px - cell_px, 2)
    ratio = 1 << (scales - 1)
    if patch_px > MOST_PATCH_PX:
        return f"patches of {patch_px} pixels are larger than {MOST_PATCH_PX}"
    least = max(LEAST_FIXED_HALO_PX, median_px // 2 * ratio if scales > 1 else 0)
    multiple = max(2, ratio) if scales > 1 else 1
    around = f"patches of {patch_px} pixels leave {(patch_px - cell_px) / 2:g} round a cell of {cell_px}"
    if halo < least:
        return f"{around}, and at least {least} are needed"
    if odd or halo % multiple:
        return f"{around}, no {f'multiple of {multiple}' if multiple > 1 else 'whole number'}"
    return None


def _problems(spec: BundleSpec) -> list[str]:
    """Invalid and inconsistent values, the most telling first."""
    steps = len(spec.mpps) - 1
    values = [c.value for c in spec.classes]
    lengths = {"refiner_of": steps, "select_above": steps, "refine_above": steps, "temperature": steps + 1}
    if spec.select_width:
        lengths["select_width"] = steps
    found = [
        f"{name} has {len(getattr(spec, name))} values, but {len(spec.mpps)} scales need {wanted}"
        for name, wanted in lengths.items()
        if len(getattr(spec, name)) != wanted
    ]
    try:
        check_mpps(spec.mpps)
    except ConfigError as error:
        found.append(f"mpps: {error}")
    if spec.patch_px is not None and (
        problem := patch_problem(spec.patch_px, spec.cell_px, len(spec.mpps), spec.median_px)
    ):
        found.append(problem)
    checks = {
        f"network_package {spec.network_package!r:.60} is no name and version": (
            spec.network_package is None or bool(_PACKAGE.fullmatch(spec.network_package))
        ),
        f"{len(spec.classes)} classes; there must be at least 2": len(spec.classes) >= 2,
        f"classes share a value: {values}": len(set(values)) == len(values),
        f"refiner_of {list(spec.refiner_of)} skips a refiner": set(spec.refiner_of) == set(range(spec.n_refiners)),
        f"channel_order {spec.channel_order!r} is not fine_first or coarse_first": spec.channel_order in CHANNEL_ORDERS,
        f"std {list(spec.std)} is not positive": min(spec.std) > 0,
        f"temperature {list(spec.temperature)} is not positive": all(t > 0 for t in spec.temperature),
        f"select_width {list(spec.select_width)} is negative": all(w >= 0 for w in spec.select_width),
        f"cell_px is {spec.cell_px}, not 128, 256 or 512": spec.cell_px in CELL_SIDES_PX,
        f"cells of {spec.cell_px} pixels are smaller than a pixel of the coarsest of {steps + 1} scales": (
            spec.cell_px >= 2**steps
        ),
        f"class names repeat: {[c.name for c in spec.classes]}": len({c.name for c in spec.classes}) == len(values),
        f"halo_px {spec.halo_px} is not between 0 and {MOST_HALO_PX}": 0 <= spec.halo_px <= MOST_HALO_PX,
        f"median_px {spec.median_px} is not odd, from 1 to {MOST_MEDIAN_PX}": (
            1 <= spec.median_px <= MOST_MEDIAN_PX and spec.median_px % 2 == 1
        ),
    }
    return found + [problem for problem, fine in checks.items() if not fine]
