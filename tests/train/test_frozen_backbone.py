"""A frozen backbone says what its network says, with its temperatures, of a view's windows alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.train.made import glands, setting_of
from wsi_magnet.nets.registry import build_network
from wsi_magnet.train.frozen_backbone import FrozenBackbone, double
from wsi_magnet.train.views import View, Windows, to_tensor

WINDOWS = Windows(64, 8, (2.0, 1.0))


def view_of(seed: int) -> View:
    """Two patches of glands."""
    patches = tuple(glands(seed + scale, WINDOWS.patch_px(scale))[0] for scale in range(2))
    sets = tuple(np.ones((WINDOWS.window_px(scale),) * 2, np.uint32) for scale in range(2))
    return View(patches, sets)


def network() -> torch.nn.Module:
    """With running means that are not those of a fresh network."""
    torch.manual_seed(0)
    made = build_network("small", 3, width=2)
    made.train()
    with torch.no_grad():
        made(torch.randn(4, 3, 64, 64))
    return made.eval()


def test_it_says_what_the_network_says(tmp_path: Path) -> None:
    own, view = network(), view_of(0)
    frozen = FrozenBackbone.of(own, (1.0, 2.0), WINDOWS, setting_of(tmp_path))
    with torch.no_grad():
        expected = [own(to_tensor([patch], torch.device("cpu"))) for patch in view.patches]
    for scale, (found, whole) in enumerate(zip(frozen.probabilities(view), expected, strict=True)):
        halo = WINDOWS.halo_at(scale)
        cut = whole[..., halo:-halo, halo:-halo] / (1.0, 2.0)[scale]
        torch.testing.assert_close(found, cut.softmax(dim=1), atol=1e-5, rtol=1e-4)


def test_the_network_that_it_is_made_of_is_left_as_it_is(tmp_path: Path) -> None:
    own = network()
    before = list(own.state_dict())
    frozen = FrozenBackbone.of(own, (1.0, 1.0), WINDOWS, setting_of(tmp_path))
    assert list(own.state_dict()) == before
    assert all(p.requires_grad for p in own.parameters())
    assert not any(p.requires_grad for p in frozen.network.parameters())


def test_doubled_maps_lie_where_the_coarse_ones_do() -> None:
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
    inside = double(ramp)[0, 0, 5, 1:-1]
    torch.testing.assert_close(inside, torch.arange(1, 15) / 2 - 0.25)
