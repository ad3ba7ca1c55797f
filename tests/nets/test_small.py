"""SmallNet: its shapes, its size, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from wsi_magnet.nets.small import STRIDE, ResidualBlock, SmallNet


def build(n_classes: int = 4, width: int = 4) -> SmallNet:
    torch.manual_seed(0)
    return SmallNet(n_classes, width).eval()


@pytest.mark.parametrize("hw", [(32, 32), (64, 96)])
def test_logits_have_the_size_of_the_input(hw: tuple[int, int]) -> None:
    with torch.inference_mode():
        logits = build(n_classes=3)(torch.randn(2, 3, *hw))
    assert logits.shape == (2, 3, *hw)
    assert logits.dtype == torch.float32


def test_features_halve_from_stride_4_to_32() -> None:
    with torch.inference_mode():
        sides = [f.shape[-1] for f in build().encode(torch.randn(1, 3, 128, 128))]
    assert sides == [32, 16, 8, 4]


def test_a_side_that_is_no_multiple_of_the_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=f"multiples of {STRIDE}; got 64 x 72"):
        build()(torch.randn(1, 3, 64, 72))


def test_each_image_of_a_batch_is_segmented_alone() -> None:
    network, batch = build(), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        together, alone = network(batch), torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(together, alone)


def test_the_same_input_gives_the_same_bits() -> None:
    network, image = build(), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network(image), network(image))


def test_a_residual_block_whose_branch_is_nought_is_a_relu() -> None:
    block = ResidualBlock(4).eval()
    block.second[0].load_state_dict({"weight": torch.zeros(4, 4, 3, 3)})
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(block(x), F.relu(x))


def test_the_shipped_width_is_a_few_megabytes() -> None:
    parameters = sum(p.numel() for p in SmallNet(4).parameters())
    assert 1_000_000 < parameters < 1_500_000


def test_it_learns_which_half_is_bright() -> None:
    network = build(n_classes=2).train()
    image = torch.zeros(2, 3, 32, 32)
    image[..., 16:] = 1
    target = image[:, 0].long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(network(image), target).backward()
        optimizer.step()
    correct = (network(image).argmax(dim=1) == target).float().mean()
    assert correct > 0.95
