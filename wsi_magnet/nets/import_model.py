"""Import of a model that was exported to a file, as a bundle; it is tried on patches before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from torch import Tensor

from wsi_magnet.config import CELL_SIDES_PX, DEFAULT_CELL_PX
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.geometry import round_up
from wsi_magnet.nets.bundle import save_bundle
from wsi_magnet.nets.exported import Activation, Colours, ExportedNet, Layout
from wsi_magnet.nets.gate import PoolModule
from wsi_magnet.nets.model_file import Form, form_of, whole_model
from wsi_magnet.nets.network import Normalisation
from wsi_magnet.nets.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LEAST_FIXED_HALO_PX,
    MOST_PATCH_PX,
    BundleSpec,
    check_output,
)
from wsi_magnet.nets.trust import EXPORTED, RUNNING_FORMS, trust, trusted_hashes
from wsi_magnet.nets.untrained import cell_for, untrained_card, untrained_spec
from wsi_magnet.scales import check_mpps
from wsi_magnet.schema import Bounds
from wsi_magnet.values import check_fields, documented

Value = TypeVar("Value")

TRIED_PX = 192
"""Least side of the patches on which a model that takes any is tried."""

PROBABILITY_ERROR = 1e-3
"""Most by which probabilities may lie outside of 0 to 1, or their sum from 1."""


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """Facts that a model's file does not state. Raises ConfigError for values that are not allowed."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of its channels; two for a model with one channel, which is the second's."""
    mpps: tuple[float, ...]
    """Microns per pixel for which it was trained: one, or several, coarse to fine, each half of the one before."""
    input_px: Annotated[int, Bounds(1, MOST_PATCH_PX)] | None = None
    """Side of the only patch that it takes; None: any multiple of `input_multiple`."""
    input_multiple: Annotated[int, Bounds(1, 512)] = 1
    """Divisor of the sides of its patches."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean that is subtracted from RGB / 255, in that order also where the model takes BGR."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation by which the difference is then divided."""
    activation: Activation = "logits"
    """Of what it returns: "logits", "softmax" (probabilities that add up to 1) or "sigmoid" (each class by itself)."""
    colours: Colours = "rgb"
    """Order of the channels of its input."""
    layout: Layout = "nchw"
    """Order of the axes of its input and output."""
    output_stride: Annotated[int, Bounds(1, 64)] = 1
    """Pixels of the input per pixel of the output, along a side."""
    classifies: bool = False
    """True for a classifier: it returns one value a class for each patch of `input_px`, (1, C), and no map."""
    resized_px: Annotated[int, Bounds(1, MOST_PATCH_PX)] | None = None
    """Side to which a classifier's patches are resized before it gets them; None: not at all."""
    cell_px: int | None = None
    """Side of the cells; None: the largest that leaves enough context."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_mpps(self.mpps)
        if min(self.std) <= 0:
            raise ConfigError(f"std {list(self.std)} is not positive", arguments=("std",))
        if self.cell_px is not None and self.cell_px not in CELL_SIDES_PX:
            raise ConfigError(f"cell_px {self.cell_px} is not 128, 256 or 512", arguments=("cell_px",))
        if self.input_px and self.input_px % self.output_stride:
            raise ConfigError(f"input_px {self.input_px} is no multiple of the output stride, {self.output_stride}")
        if self.classifies and (self.input_px is None or len(self.mpps) > 1):
            raise ConfigError("a classifier needs input_px, and one scale")
        if self.resized_px and not self.classifies:
            raise ConfigError("resized_px is for classifiers", arguments=("resized_px",))

    @property
    def block_px(self) -> int:
        """Side of the blocks that get one class each from a classifier: the largest power of two that is not larger
        than its patches, and at most that of the largest cell. 0 for other models.
        """
        if not self.classifies or self.input_px is None:
            return 0
        return min(max(CELL_SIDES_PX), 1 << (self.input_px.bit_length() - 1))


def scaled_to(low: float, high: float) -> Normalisation:
    """The normalisation that takes 0 to `low` and 255 to `high`. Raises ConfigError unless low is less than high."""
    if not low < high:
        raise ConfigError(f"scale_to {low:g},{high:g} is no range, low first", arguments=("scale_to",))
    mean, std = -low / (high - low), 1 / (high - low)
    return Normalisation((mean, mean, mean), (std, std, std))


def import_model(
    path: str | Path,
    output: str | Path,
    described: ModelDescription,
    *,
    trusted: bool = False,
    overwrite: bool = False,
) -> BundleSpec:
    """Make a bundle of a model's file: torch.export (.pt2), TorchScript or ONNX.

    trusted: the user trusts the file, and wants its code to run here and in later runs, for which its hash is kept in
    the user's list; without it, nothing but ONNX is opened. Nothing is written unless the model computes what the
    description states. Raises BundleError, with the numbers, for files that do not; ConfigError; StoreError where the
    output exists, unless overwrite is True.
    """
    check_output(output, overwrite=overwrite)
    path = Path(path).expanduser()
    content = _read(path)
    form = form_of(content, str(path))
    if form == "onnx":
        content = _named(path, lambda: whole_model(content, path.parent))
    sha256 = hashlib.sha256(content).hexdigest()
    if form in RUNNING_FORMS and not trusted and sha256 not in trusted_hashes():
        raise BundleError(
            f"{path} is {RUNNING_FORMS[form]}, whose code runs when it is opened; nothing was opened. If you know "
            f"where it comes from, add --trust (its SHA-256 is {sha256})"
        )
    spec = _spec(path, described, form, sha256, len(content))
    network = ExportedNet(len(spec.classes), **spec.network_args)  # type: ignore[arg-type]
    network.model = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    _named(path, lambda: _try(network.eval(), described))
    save_bundle(output, spec, network, [PoolModule()] if spec.n_refiners else [])
    if form in RUNNING_FORMS:
        trust(sha256, str(path))
    return spec


def _named(path: Path, do: Callable[[], Value]) -> Value:
    """Result of a function; its BundleErrors name the file."""
    try:
        return do()
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error.__cause__


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}; give the file of a model") from None
    if not content:
        raise BundleError(f"{path} is empty; get the file again")
    return content


def _spec(path: Path, described: ModelDescription, form: Form, sha256: str, size_bytes: int) -> BundleSpec:
    side, scales = described.input_px, len(described.mpps)
    cell_px = _classifier_cell_px(described) if described.classifies else described.cell_px or cell_for(side, scales)
    margin_px, patch_px = (side - cell_px) // 2 if side else 0, side
    if side and described.classifies:
        margin_px = max(LEAST_FIXED_HALO_PX, (side - described.block_px + 1) // 2)
        patch_px = cell_px + 2 * margin_px
    return untrained_spec(
        name=path.stem,
        network=EXPORTED,
        network_args={
            "form": form,
            "sha256": sha256,
            "size_bytes": size_bytes,
            "activation": described.activation,
            "colours": described.colours,
            "layout": described.layout,
            "input_px": side or 0,
            "margin_px": margin_px,
            "input_multiple": described.input_multiple,
            "output_stride": described.output_stride,
            **({"block_px": described.block_px} if described.classifies else {}),
            **({"resized_px": described.resized_px} if described.resized_px else {}),
        },
        classes=described.classes,
        mpps=described.mpps,
        mean=described.mean,
        std=described.std,
        cell_px=cell_px,
        patch_px=patch_px,
        card=untrained_card("import-model", path.name, sha256),
    )


def _classifier_cell_px(described: ModelDescription) -> int:
    """The usual cell, or the one that is stated. Raises ConfigError for one smaller than a block."""
    cell_px = described.cell_px or DEFAULT_CELL_PX
    if cell_px < described.block_px:
        raise ConfigError(
            f"cell_px {cell_px} is smaller than the blocks of {described.block_px} pixels that get one class each",
            arguments=("cell_px",),
        )
    return cell_px


def _try(network: ExportedNet, described: ModelDescription) -> None:
    """Compute patches of noise. Raises BundleError where the model does not do what its description states."""
    normalisation = Normalisation(described.mean, described.std)
    first, *others = _sides(network, described)
    with torch.inference_mode():
        found = network.raw(_noise(first, normalisation))
        _check_values(found, described)
        if not torch.equal(found, network.raw(_noise(first, normalisation))):
            raise BundleError(
                "the model returns something else for the same patch a second time; export it in evaluation mode "
                "(model.eval())"
            )
        for side in others:
            try:
                _check_values(network.raw(_noise(side, normalisation)), described)
            except BundleError as error:
                raise BundleError(
                    f"the model takes patches of {first} x {first} pixels and not of {side} x {side}, so not of any "
                    f"multiple of {network.multiple}: give its one size as input_px, or export it with dynamic axes "
                    f"({error})"
                ) from error.__cause__


def _sides(network: ExportedNet, described: ModelDescription) -> tuple[int, ...]:
    if described.input_px:
        return (described.input_px,)
    first = round_up(TRIED_PX, network.multiple)
    return first, first + network.multiple, round_up(2 * TRIED_PX, network.multiple)


def _noise(side_px: int, normalisation: Normalisation) -> Tensor:
    generator = torch.Generator().manual_seed(side_px)
    return normalisation.of(torch.rand(1, 3, side_px, side_px, generator=generator))


def _check_values(found: Tensor, described: ModelDescription) -> None:
    if not found.isfinite().all():
        count = int((~found.isfinite()).sum())
        raise BundleError(f"the model returned NaN or infinity in {count:,} of {found.numel():,} values")
    least, most, total = found.min().item(), found.max().item(), found.sum(dim=1)
    within = least >= -PROBABILITY_ERROR and most <= 1 + PROBABILITY_ERROR
    adds_up = within and found.shape[1] > 1 and bool(((total - 1).abs() < PROBABILITY_ERROR).all())
    if described.activation == "softmax" and not adds_up:
        raise BundleError(
            f"the model returned values from {least:.3g} to {most:.3g} that add up to between {total.min().item():.3g} "
            f"and {total.max().item():.3g}, no probabilities of {len(described.classes)} classes: the activation is "
            "not softmax"
        )
    if described.activation == "sigmoid" and not within:
        raise BundleError(
            f"the model returned values from {least:.3g} to {most:.3g}, no probabilities: the activation is not sigmoid"
        )
    if described.activation == "logits" and adds_up:
        raise BundleError(
            f"the model returned values from {least:.3g} to {most:.3g} that add up to 1 at every pixel: the activation "
            "is softmax, not logits"
        )
