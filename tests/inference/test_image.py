"""The published loop in memory; its published defects (MagNet-Fast's choice, lost rows, drift) are not there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.inference.image import _ImageReader, segment_image
from wsi_magnet.nets.bundle import Bundle, load_bundle
from wsi_magnet.nets.identity import IdentityNet, IdentityRefiner
from wsi_magnet.nets.registry import build_network, build_refiner
from wsi_magnet.nets.spec import BundleSpec, ClassInfo
from wsi_magnet.scales import scale_at
from wsi_magnet.slides.read import read_scale

Pixels = npt.NDArray[np.uint8]
RNG = np.random.default_rng(0)


class KeepCoarse(nn.Module):
    """Adds nothing: its softmax is Y."""

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """log(coarse)."""
        return coarse.log()


class Always(nn.Module):
    """Always says the same class, and how often it or a copy of it was asked."""

    calls = 0

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """20 for the class, 0 for the others."""
        Always.calls += 1
        logits = torch.zeros_like(fine)
        logits[:, self.index] = 20
        return logits


class Shown(nn.Module):
    """Says what the pixels say: the strongest colour."""

    uses_rgb = True

    def forward(self, *, fine: Tensor, coarse: Tensor, rgb: Tensor) -> Tensor:
        """The colours times 3."""
        assert rgb.shape == fine.shape
        return 3 * rgb


def bundle_of(
    refiners: Sequence[nn.Module], *, backbone: nn.Module | None = None, steps: int | None = None, **changes: Any
) -> Bundle:
    """The identity network with those refiners: one for all steps, or one a step."""
    steps = steps or max(len(refiners), 1)
    values: dict[str, Any] = {
        "name": "identity",
        "network": "identity",
        "classes": tuple(ClassInfo(name, i + 1, (0, 0, i)) for i, name in enumerate(("red", "green", "blue"))),
        "mpps": tuple(2.0 ** (steps - i) for i in range(steps + 1)),
        "refiner_of": tuple(min(i, len(refiners) - 1) for i in range(steps)),
        "select_above": (0.0,) * steps,
        "refine_above": (0.0,) * steps,
        "temperature": (1.0,) * (steps + 1),
    }
    spec = BundleSpec(**{**values, **changes})
    return Bundle(spec, Path("memory"), "", backbone or IdentityNet(gain=2.0), tuple(refiners))


def noise(height: int, width: int) -> Pixels:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def pyramid(height: int, width: int, scales: int) -> list[Pixels]:
    return [noise(height << i, width << i) for i in range(scales)]


def softmax_of(image: Pixels, spec: BundleSpec, gain: float = 2.0) -> npt.NDArray[np.float32]:
    """What the identity network says of an image."""
    logits = gain * ((image / 255 - spec.mean) / spec.std).transpose(2, 0, 1)
    e = np.exp(logits - logits.max(axis=0))
    return np.asarray(e / e.sum(axis=0), np.float32)


def test_one_image_is_the_backbones_softmax() -> None:
    image, bundle = noise(5, 7), bundle_of([IdentityRefiner()])
    (result,) = segment_image([image], bundle, mpp=2.0)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, softmax_of(image, bundle.spec), atol=1e-6)


def test_the_temperature_of_the_scale_is_used() -> None:
    images, bundle = pyramid(8, 8, 2), bundle_of([IdentityRefiner()], temperature=(2.0, 4.0))
    coarse, fine = segment_image(images, bundle, points=1.0)
    np.testing.assert_allclose(coarse, softmax_of(images[0], bundle.spec, gain=1.0), atol=1e-6)
    np.testing.assert_allclose(fine, softmax_of(images[1], bundle.spec, gain=0.5), atol=1e-6)


@pytest.mark.parametrize("points", [0.5, 1.0, 7])
def test_a_refiner_that_adds_nothing_leaves_y_unchanged(points: float) -> None:
    results = segment_image(pyramid(8, 12, 3), bundle_of([KeepCoarse()], steps=2), points=points, median_px=3)
    for before, after in pairwise(results):
        expected = F.interpolate(torch.from_numpy(before)[None], scale_factor=2, mode="bilinear", align_corners=False)
        np.testing.assert_allclose(after, expected[0].numpy(), atol=1e-5)


def test_all_points_make_y_the_refined_map_at_every_scale() -> None:
    images, bundle = pyramid(8, 12, 4), bundle_of([IdentityRefiner()], steps=3)
    for image, result in zip(images, segment_image(images, bundle, points=1.0), strict=True):
        np.testing.assert_allclose(result, softmax_of(image, bundle.spec), atol=1e-5)


def test_no_points_leave_the_coarse_map() -> None:
    refiner = Always(1)
    coarse, fine = segment_image(pyramid(8, 8, 2), bundle_of([refiner]), points=0)
    expected = F.interpolate(torch.from_numpy(coarse)[None], scale_factor=2, mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(fine, expected[0].numpy())


@pytest.mark.parametrize(("points", "count"), [(10, 10), (0.25, 64), (10_000, 256)])
def test_k_pixels_of_the_whole_scale_are_overwritten(points: float, count: int) -> None:
    _, fine = segment_image(pyramid(8, 8, 2), bundle_of([Always(1)]), points=points, median_px=1)
    assert (fine[1] > 0.9999).sum() == count


def test_sizes_that_patches_do_not_divide_are_covered_to_the_last_row() -> None:
    images = [noise(30, 20), noise(100, 47)]
    bundle = bundle_of([IdentityRefiner()])
    np.testing.assert_allclose(
        segment_image(images, bundle, points=1.0)[1], softmax_of(images[1], bundle.spec), atol=1e-5
    )


def test_probabilities_stay_probabilities_where_patches_overlap() -> None:
    bundle = bundle_of([IdentityRefiner()])
    _, fine = segment_image([noise(16, 16), noise(37, 41)], bundle, points=0.5)
    np.testing.assert_allclose(fine.sum(axis=0), 1, atol=1e-5)


def test_nothing_drifts_over_five_scales() -> None:
    # The published crop of Y is half a pixel off at every scale: 4 pixels after five. Here the centre stays the centre.
    images = pyramid(9, 9, 5)
    images[0][:] = 0
    images[0][4, 4, 0] = 255
    results = segment_image(images, bundle_of([KeepCoarse()], steps=4), points=1.0, median_px=1)
    for scale, result in enumerate(results):
        weight = result[0] - result[0].min()
        middles = (np.arange(weight.shape[0]) + 0.5) / 2**scale
        for axis in (0, 1):
            np.testing.assert_allclose((weight.sum(axis=axis) * middles).sum() / weight.sum(), 4.5, atol=0.01)


@pytest.mark.parametrize("width", [24, 21])
def test_a_module_that_uses_the_pixels_sees_its_patches(width: int) -> None:
    images = [noise(8, 8), noise(24, width)]
    found = segment_image(images, bundle_of([Shown()]), points=1.0)[-1]
    odds = np.exp(images[1].transpose(2, 0, 1) * (3 / 255))
    assert np.abs(found - odds / odds.sum(axis=0)).max() < 1e-5


def test_refiners_serve_their_scales() -> None:
    refiners = [Always(0), Always(1), Always(2)]
    results = segment_image(pyramid(4, 4, 3), bundle_of(refiners), mpp=(8, 4, 2), points=1.0)
    assert [int(r.argmax(axis=0).max()) for r in results[1:]] == [0, 1]
    results = segment_image(pyramid(4, 4, 4), bundle_of(refiners), points=1.0)
    assert [int(r.argmax(axis=0).max()) for r in results[1:]] == [0, 1, 2]


def quarters() -> list[Pixels]:
    """Upper right grey, so that no class is likelier; the other quarters clearly of one."""
    coarse = np.zeros((16, 16, 3), np.uint8)
    coarse[..., 0] = 255
    coarse[:8, 8:] = (124, 116, 104)
    return [coarse, coarse.repeat(2, axis=0).repeat(2, axis=1)]


def test_fast_refines_the_most_uncertain_patches() -> None:
    before = Always.calls
    _, fine = segment_image(quarters(), bundle_of([Always(2)]), points=1.0, median_px=1, patches=1)
    blue = fine.argmax(axis=0) == 2
    assert Always.calls == before + 1
    assert blue[:16, 16:].all()
    assert blue.sum() == 16 * 16


def test_fast_counts_k_in_its_patches_and_chooses_points_inside_them() -> None:
    _, fine = segment_image(quarters(), bundle_of([Always(2)]), points=0.5, median_px=1, patches=1)
    changed = fine[2] > 0.9999
    assert changed.sum() == 16 * 16 // 2
    assert changed[:16, 16:].sum() == changed.sum()


def test_fast_with_all_patches_is_magnet() -> None:
    images, bundle = pyramid(8, 8, 3), bundle_of([IdentityRefiner()], steps=2)
    for one, other in zip(segment_image(images, bundle), segment_image(images, bundle, patches=16), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_network_that_wants_multiples_of_32_takes_any_image() -> None:
    torch.manual_seed(0)
    backbone, refiner = build_network("small", 3, width=2).eval(), build_refiner("magnet", 3).eval()
    bundle = bundle_of([refiner], backbone=backbone, network="small")
    results = segment_image([noise(33, 50), noise(66, 100)], bundle)
    assert [r.shape for r in results] == [(3, 33, 50), (3, 66, 100)]


@pytest.mark.parametrize(
    ("images", "arguments", "said"),
    [
        ([], {}, "no images"),
        ([noise(8, 8).astype(np.float32)], {}, "image 0 is float32"),
        ([noise(8, 8)[..., 0]], {}, r"image 0 is uint8 \(8, 8\)"),
        ([noise(8, 8), noise(16, 7)], {}, r"image 1, \(16, 7\), is smaller"),
        ([noise(8, 8), noise(16, 16)], {"median_px": 16}, "give an odd number"),
        ([noise(8, 8), noise(16, 16)], {"points": -1}, "points -1"),
        ([noise(8, 8), noise(16, 16)], {"points": "x"}, "points is 'x', not a number"),
        ([noise(8, 8), noise(16, 16)], {"points": float("nan")}, "points is nan, not a number"),
        ([noise(8, 8), noise(16, 16)], {"median_px": "x"}, "median_px is 'x', not a whole number"),
        ([noise(8, 8), noise(16, 16)], {"median_px": -1}, "median_px is -1, not a whole number of at least 1"),
        ([noise(8, 8), noise(16, 16)], {"patches": "x"}, "patches is 'x', not a whole number"),
        ([noise(8, 8), noise(16, 16)], {"patches": 0}, "patches 0"),
        ([noise(8, 8), noise(16, 16)], {"precision": "int8"}, "precision is 'int8'"),
        ([noise(8, 8)], {}, "1 image for the bundle's scales, 2, 1 µm/px: give mpp"),
        (pyramid(8, 8, 3), {}, "3 images for the bundle's scales, 2, 1 µm/px: give mpp"),
        (pyramid(8, 8, 2), {"mpp": (2,)}, "mpp has 1 values for 2 images"),
        (pyramid(8, 8, 2), {"mpp": (4, 2)}, "mpp is 4, 2, not the first of the bundle's scales, 2, 1 µm/px"),
        (pyramid(8, 8, 2), {"mpp": (1, 2)}, "mpp is 1, 2, not the first"),
        (pyramid(8, 8, 3), {"mpp": (2, 1, 0.5)}, "mpp is 2, 1, 0.5, not the first"),
        (pyramid(8, 8, 2), {"mpp": "21"}, "mpp is '21', not a tuple"),
        ([noise(8, 8), noise(19, 16)], {"mpp": (2, 1)}, r"image 1, \(19, 16\) at 1 µm/px, shows another area"),
        (noise(8, 8), {}, "mpp is missing"),
        (noise(8, 8), {"mpp": (2, 1)}, r"mpp is \(2, 1\), not a number"),
        (noise(8, 8), {"mpp": 5}, "the slide's pixels are 5 µm"),
        (noise(8, 8).astype(float), {"mpp": 2}, "the image is float64"),
        (3, {"mpp": 2}, "images is 3"),
        (["a.png"], {"mpp": 2}, "image 0 is 'a.png'"),
    ],
)
def test_what_cannot_be_done_is_said(images: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        segment_image(images, bundle_of([IdentityRefiner()]), **arguments)


@pytest.mark.parametrize(("height", "width"), [("a", 1), (1.5, 2), (-1, 5), (5, 0), (True, 2)])
def test_a_mask_of_an_impossible_size_is_refused(height: Any, width: Any) -> None:
    found = segment_image([noise(8, 8), noise(16, 16)], bundle_of([IdentityRefiner()]))
    assert found.labels_at(4, 5).shape == (4, 5)
    with pytest.raises(ConfigError, match=r"(height|width) is .*, not a whole number of at least 1"):
        found.labels_at(height, width)


def test_a_bundle_of_one_scale_takes_one_image() -> None:
    bundle = bundle_of([], mpps=(1.0,), refiner_of=(), select_above=(), refine_above=(), temperature=(1.0,))
    assert len(segment_image([noise(8, 8)], bundle)) == 1
    with pytest.raises(ConfigError, match="no refiner"):
        segment_image(pyramid(8, 8, 2), bundle)


def test_weights_that_change_after_the_first_call_are_used() -> None:
    bundle = load_bundle()
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    (before,) = segment_image([image], bundle, mpp=bundle.spec.mpps[:1])
    with torch.no_grad():
        for weight in bundle.backbone.parameters():
            weight.mul_(0.5)
    (after,) = segment_image([image], bundle, mpp=bundle.spec.mpps[:1])
    assert not np.array_equal(before, after)


def test_one_image_with_its_mpp_is_resampled_to_the_scales_of_the_bundle() -> None:
    bundle = bundle_of([IdentityRefiner()], steps=2)
    image = noise(64, 96)
    found = segment_image(image, bundle, mpp=1.0, points=1.0)
    assert found.mpps == (4.0, 2.0, 1.0)
    assert [one.shape for one in found] == [(3, 16, 24), (3, 32, 48), (3, 64, 96)]
    np.testing.assert_allclose(found[-1], softmax_of(image, bundle.spec), atol=1e-5)
    coarse = read_scale(_ImageReader(image, 1.0), scale_at(4.0, (1.0, 1.0), Size(96, 64)), Box(0, 0, 24, 16))
    np.testing.assert_allclose(found[0], softmax_of(coarse, bundle.spec), atol=1e-5)
    assert segment_image(image, bundle, mpp=1.9).mpps == (4.0, 2.0), "finer scales than the image's are left out"


def test_the_mask_has_the_values_of_the_classes() -> None:
    classes = tuple(ClassInfo(name, value, (0, 0, 0)) for name, value in (("red", 7), ("green", 0), ("blue", 200)))
    image = np.zeros((4, 6, 3), np.uint8)
    image[:2, :, 0], image[2:, :3, 1], image[2:, 3:, 2] = 255, 255, 255
    found = segment_image(image, bundle_of([IdentityRefiner()], classes=classes), mpp=1.0, points=1.0)
    assert found.labels.dtype == np.uint8
    assert found.labels.tolist() == [[7] * 6, [7] * 6, [0] * 3 + [200] * 3, [0] * 3 + [200] * 3]
    assert found.labels_at(2, 3).tolist() == [[7, 7, 7], [0, 200, 200]]
    assert (found.labels_at(8, 12) == found.labels.repeat(2, 0).repeat(2, 1)).all()
    assert repr(found) == "<ImageSegmentation: 6 x 4 pixels, scales of 2, 1 µm/px, red, green, blue>"
    assert len(found) == 2
    assert found[-1] is found.probabilities[-1]


def test_images_at_the_scales_of_the_bundle_may_be_a_little_off() -> None:
    bundle = bundle_of([IdentityRefiner()], steps=2)
    assert segment_image(pyramid(8, 8, 2), bundle, mpp=(4.05, 2.02)).mpps == (4.0, 2.0)
