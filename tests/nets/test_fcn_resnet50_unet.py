"""TIAToolbox's U-Net on ResNet-50: the published names and shapes load, and give what its documentation describes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.import_weights import WeightsDescription, import_weights
from wsi_magnet.nets.registry import build_network

Shape = tuple[int, ...]

BCSS = ("tumour", "stroma", "inflammatory", "necrosis", "others")


def published_shapes(n_classes: int, convolutions: int) -> dict[str, Shape]:
    """Names and shapes of the published state dicts: `fcn_resnet50_unet-bcss` has 5 classes and 2 convolutions in each
    block of the decoder, `fcn-tissue_mask` 2 classes and 1.
    """

    def conv(name: str, outputs: int, inputs: int, side: int) -> Iterator[tuple[str, Shape]]:
        yield f"{name}.weight", (outputs, inputs, side, side)

    def norm(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{part}", (channels,)
        yield f"{name}.num_batches_tracked", ()

    def parts() -> Iterator[tuple[str, Shape]]:
        yield from conv("backbone.conv1", 64, 3, 7)
        yield from norm("backbone.bn1", 64)
        inputs = 64
        for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
            for block in range(blocks):
                name = f"backbone.layer{stage}.{block}"
                for i, (a, b, side) in enumerate(((inputs, width, 1), (width, width, 3), (width, 4 * width, 1)), 1):
                    yield from conv(f"{name}.conv{i}", b, a, side)
                    yield from norm(f"{name}.bn{i}", b)
                if block == 0:
                    yield from conv(f"{name}.downsample.0", 4 * width, inputs, 1)
                    yield from norm(f"{name}.downsample.1", 4 * width)
                inputs = 4 * width
        yield "backbone.fc.weight", (1000, 2048)
        yield "backbone.fc.bias", (1000,)
        yield from conv("conv1x1", 1024, 2048, 1)
        for step, (a, b) in enumerate(((1024, 512), (512, 256), (256, 64), (64, 64))):
            for i in range(convolutions):
                yield from norm(f"uplist.{step}.{3 * i}", b if i else a)
                yield from conv(f"uplist.{step}.{3 * i + 2}", b, b if i else a, 3)
        yield "clf.weight", (n_classes, 64, 1, 1)
        yield "clf.bias", (n_classes,)
        yield "upsample2x.unpool_mat", (2, 2)

    return dict(parts())


def weights(n_classes: int = 5, convolutions: int = 2) -> dict[str, Tensor]:
    """Values that keep the size of features from block to block, so that no part is lost in rounding."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, shape in published_shapes(n_classes, convolutions).items():
        if not shape:
            state[name] = torch.tensor(1)
        elif len(shape) == 4:
            state[name] = torch.randn(shape, generator=generator) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        else:
            state[name] = torch.rand(shape, generator=generator) + (0.5 if name.endswith(("weight", "var")) else -0.5)
        if name.endswith("bn3.weight"):
            state[name] *= 0.3  # sums of many blocks would grow
    state["upsample2x.unpool_mat"] = torch.ones(2, 2)
    return state


def described(n_classes: int = 5, convolutions: int = 2) -> WeightsDescription:
    return WeightsDescription(
        network="fcn_resnet50_unet",
        network_args={"decoder_convolutions": convolutions},
        classes=BCSS[:n_classes],
        mpps=(0.25,),
        input_px=256,
    )


def twin(state: dict[str, Tensor], x: Tensor, convolutions: int) -> Tensor:
    """Probabilities (1, C, H, W) of RGB / 255, float64 (1, 3, H, W), layer by layer as they are described."""
    of = {name: tensor.double() for name, tensor in state.items()}

    def norm(name: str, x: Tensor) -> Tensor:
        scale, shift, mean, variance = (
            of[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        side = of[f"{name}.weight"].shape[-1]
        return F.conv2d(x, of[f"{name}.weight"], stride=stride, padding=side // 2)

    def bottleneck(name: str, x: Tensor, stride: int) -> Tensor:
        found = norm(f"{name}.bn1", conv(f"{name}.conv1", x)).clamp(min=0)
        found = norm(f"{name}.bn2", conv(f"{name}.conv2", found, stride)).clamp(min=0)
        found = norm(f"{name}.bn3", conv(f"{name}.conv3", found))
        if f"{name}.downsample.0.weight" in of:
            x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
        return (found + x).clamp(min=0)

    skips = [norm("backbone.bn1", conv("backbone.conv1", x, 2)).clamp(min=0)]
    x = F.max_pool2d(skips[0], 3, stride=2, padding=1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            x = bottleneck(f"backbone.layer{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1)
        skips.append(x)
    x = conv("conv1x1", skips.pop())
    for step in range(4):
        x = torch.kron(x, torch.ones(2, 2, dtype=x.dtype)) + skips.pop()
        for i in range(convolutions):
            name = f"uplist.{step}.{3 * i}"
            x = conv(f"uplist.{step}.{3 * i + 2}", norm(name, x).clamp(min=0))
    logits = F.conv2d(x, of["clf.weight"]) + of["clf.bias"].view(1, -1, 1, 1)
    p = (logits - logits.amax(dim=1, keepdim=True)).exp()
    return doubled(doubled(p / p.sum(dim=1, keepdim=True), 2), 3)


def doubled(x: Tensor, axis: int) -> Tensor:
    """Bilinear along an axis: a new pixel has three quarters of its own pixel, and a quarter of the next one."""
    length = x.shape[axis]
    before = x.index_select(axis, torch.arange(-1, length - 1).clamp(min=0))
    after = x.index_select(axis, torch.arange(1, length + 1).clamp(max=length - 1))
    both = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], dim=axis + 1)
    return both.flatten(axis, axis + 1)


@pytest.mark.parametrize(("n_classes", "convolutions"), [(5, 2), (2, 1)])
def test_a_published_state_dict_gives_what_is_described(tmp_path: Path, n_classes: int, convolutions: int) -> None:
    state = weights(n_classes, convolutions)
    torch.save(state, tmp_path / "weights.pth")
    spec = import_weights(tmp_path / "weights.pth", tmp_path / "b.safetensors", described(n_classes, convolutions))
    assert (spec.patch_px, spec.cell_px, spec.mean, spec.std) == (256, 128, (0.0,) * 3, (1.0,) * 3)
    network = load_bundle(tmp_path / "b.safetensors").backbone
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = twin(state, x.double(), convolutions)
    with torch.inference_mode():
        found = network(x)
    assert expected.std(dim=(0, 2, 3)).min() > 0.05, "every class varies"
    assert torch.allclose(found.softmax(dim=1).double(), expected, atol=1e-3)
    assert (found.argmax(1) == expected.argmax(1)).double().mean() > 0.999


def test_its_parameters_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = build_network("fcn_resnet50_unet", 5)
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    unused = {"backbone.fc.weight", "backbone.fc.bias", "upsample2x.unpool_mat"}
    published = published_shapes(5, 2)
    assert own == {name: shape for name, shape in published.items() if name not in unused}
    assert sum(p.numel() for p in network.parameters()) == 34_716_421


def test_another_number_of_convolutions_is_refused(tmp_path: Path) -> None:
    torch.save(weights(5, 1), tmp_path / "weights.pth")
    with pytest.raises(
        BundleError, match=r"weights.pth as fcn_resnet50_unet does not fit: .* missing, the first 'upli"
    ):
        import_weights(tmp_path / "weights.pth", tmp_path / "b.safetensors", described())
    assert not (tmp_path / "b.safetensors").exists()


def test_it_is_trained_like_any_other() -> None:
    network = build_network("fcn_resnet50_unet", 3, decoder_convolutions=1).train()
    loss = nn.functional.cross_entropy(network(torch.rand(2, 3, 64, 64)), torch.zeros(2, 64, 64, dtype=torch.long))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
