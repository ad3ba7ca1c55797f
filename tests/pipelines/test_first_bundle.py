"""What the first bundle is trained and judged by: sets of classes, glass, cells, counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from first_bundle import augment, fit, judge, losses, progressive, tiles
from first_bundle.config import read_config
from first_bundle.crops import batch_at, crop_at, normalise
from first_bundle.models import Backbone

CONFIG = read_config(Path(__file__).parents[2] / "pipelines" / "configs" / "first_bundle.yaml")


class Channels(nn.Module):
    """Logits that are the image's own channels, and a fourth of nought."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 4, H, W)."""
        return torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)


class Fine(nn.Module):
    """A refiner that returns what the scale itself sees."""

    def forward(self, *, fine: Tensor, coarse: Tensor) -> Tensor:
        """Shapes as given."""
        return fine.log()


def test_set_loss_is_minus_the_log_of_what_is_allowed() -> None:
    logits = torch.randn(1, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    sets = torch.tensor([[[1, 2, 12], [15, 8, 3]]], dtype=torch.uint8)
    p = logits.softmax(dim=1)[0]
    slow = [
        -torch.log(sum((p[c, y, x] for c in range(4) if sets[0, y, x] >> c & 1), torch.zeros(())))
        for y, x in np.ndindex(2, 3)
        if sets[0, y, x] != tiles.ANY
    ]
    torch.testing.assert_close(losses.set_loss(logits, sets), torch.stack(slow).mean())


def test_set_loss_without_labels_is_nought() -> None:
    assert losses.set_loss(torch.randn(1, 4, 2, 2), torch.full((1, 2, 2), tiles.ANY, dtype=torch.uint8)) == 0


def test_guided_loss_of_a_single_class_is_cross_entropy() -> None:
    logits, guide = torch.randn(1, 4, 2, 2), torch.rand(1, 4, 2, 2).softmax(dim=1)
    sets = torch.full((1, 2, 2), tiles.STROMA, dtype=torch.uint8)
    expected = F.cross_entropy(logits, torch.full((1, 2, 2), 1))
    torch.testing.assert_close(losses.guided_loss(logits, sets, guide), expected)


def test_guided_loss_wants_the_guide_s_choice_among_the_classes_allowed() -> None:
    sets = torch.full((1, 1, 1), tiles.GLAND, dtype=torch.uint8)
    guide = torch.tensor([0.0, 0.6, 0.4, 0.0]).view(1, 4, 1, 1)  # stroma is not allowed: benign it is
    benign, tumour = (torch.eye(4)[c].view(1, 4, 1, 1) * 9 for c in (2, 3))
    assert losses.guided_loss(benign, sets, guide) < 0.1 < losses.guided_loss(tumour, sets, guide)


def test_white_far_from_tissue_may_be_glass() -> None:
    image = np.full((200, 200, 3), 240, np.uint8)
    image[:, 0] = 0
    sets = np.full((200, 200), tiles.GLAND, np.uint8)
    doubted = augment.doubt_deep_white(image, sets)
    assert (doubted[:, :32] == tiles.GLAND).all()
    assert (doubted[:, 100:] == tiles.GLAND | tiles.BACKGROUND).all()


def test_what_is_not_gland_is_background_where_white_and_stroma_where_not() -> None:
    image = np.full((32, 48, 3), 240, np.uint8)
    image[:, 24:] = 120
    gland = np.zeros((32, 48), bool)
    gland[:8] = True
    sets = tiles.gland_sets(image, gland)
    assert (sets[:8] == tiles.GLAND).all()
    assert (sets[8:, :16] == tiles.BACKGROUND).all()
    assert (sets[8:, 32:] == tiles.STROMA).all()


def test_black_is_not_background_but_unlabelled() -> None:
    mask = np.zeros((40, 40, 3), np.uint8)
    mask[:10, :, 0] = 255
    mask[-10:, :, 1] = 255
    image = np.full((40, 40, 3), 240, np.uint8)
    image[::2] = 60  # no pale tissue
    sets = tiles.tumour_sets(image, mask)
    assert np.unique(sets[10:-10]).tolist() == [tiles.ANY]
    assert np.unique(sets[:10]).tolist() == [tiles.TUMOUR]
    assert np.unique(sets[-10:]).tolist() == [tiles.BENIGN]


def test_glass_leaves_the_gland_allowed_where_a_lumen_was_white_already() -> None:
    image = np.full((64, 64, 3), 240, np.uint8)
    image[:, 32:] = 90
    sets = np.full((64, 64), tiles.GLAND, np.uint8)
    mixed, pasted = augment.paste_glass(image, sets, np.random.default_rng(0), covered=0.7)
    assert set(np.unique(pasted[:, :24])) == {tiles.GLAND, tiles.GLAND | tiles.BACKGROUND}
    assert set(np.unique(pasted[:, 40:])) == {tiles.GLAND, tiles.BACKGROUND}
    assert mixed[:, 40:][pasted[:, 40:] == tiles.BACKGROUND].mean() > 200


def test_the_same_seed_augments_alike() -> None:
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    sets = np.full((32, 32), tiles.STROMA, np.uint8)
    glass = CONFIG.augment.coarse_glass
    once, again = (augment.augment(image, sets, np.random.default_rng(5), glass) for _ in range(2))
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])


def test_a_crop_wider_than_its_tile_is_mirrored() -> None:
    tile = plain_tile(64, 120)
    image, sets = crop_at(tile, mpp=2.0, size_px=48, rng=np.random.default_rng(0))
    assert image.shape == (48, 48, 3)
    np.testing.assert_array_equal(sets[:, 32:], sets[:, 31:15:-1])


def test_a_batch_depends_on_its_step_alone() -> None:
    known = [plain_tile(64, 90), plain_tile(64, 200, kind="tumour")]
    images, sets = batch_at(known, CONFIG, step=3)
    torch.testing.assert_close(batch_at(known, CONFIG, step=3)[0], images, rtol=0, atol=0)
    assert sets.shape == (CONFIG.backbone.batch, CONFIG.backbone.crop_px, CONFIG.backbone.crop_px)


@pytest.mark.parametrize("side", [40, 600])
def test_cells_put_together_are_the_whole(side: int) -> None:
    image = np.random.default_rng(2).integers(0, 256, (side, side, 3), dtype=np.uint8)
    logits = progressive.logits_of(image, Backbone(Channels(), (1.0,)))
    torch.testing.assert_close(logits, Channels()(normalise(image)[None]))


def test_merging_all_gives_refined_and_merging_none_coarse() -> None:
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cumulative = torch.rand(1, 4, 32, 32).softmax(dim=1)
    proposal = progressive.propose(image, cumulative, Backbone(Channels(), (1.0, 1.0)), Fine(), scale=1)
    torch.testing.assert_close(proposal.merge(above=0.0), proposal.fine)
    torch.testing.assert_close(proposal.merge(above=1.1), proposal.coarse)


def test_the_temperature_of_an_unsure_network_is_low() -> None:
    tile = plain_tile(640, 255)  # stroma, whose channel is green
    green = np.array(tile.image)
    green[..., 0] = green[..., 2] = 0
    sure = tiles.Tile(tile.name, tile.kind, tile.mpp, green, tile.sets)
    assert fit.fit_temperatures([sure], (4.0,), Channels()) == (0.5,)


def test_iou_and_recall_of_counts() -> None:
    judgement = judge.Judgement(np.array([[4, 0, 0], [1, 2, 1], [0, 0, 8]]), np.array([[3, 1], [0, 5]]))
    np.testing.assert_allclose(judgement.ious, [4 / 5, 2 / 4, 8 / 9])
    np.testing.assert_allclose(judgement.recalls, [0.75, 1.0])


def test_pixels_of_unsure_truth_are_not_counted() -> None:
    sets = np.array([[tiles.STROMA, tiles.STROMA | tiles.BACKGROUND, tiles.GLAND, tiles.ANY]], np.uint8)
    probabilities = torch.zeros(1, 4, 1, 4)
    probabilities[:, 3] = 1
    counts = judge.tissue_counts(probabilities, sets)
    assert counts.sum() == 2
    assert (counts[1, 2], counts[2, 2]) == (1, 1)


def plain_tile(side: int, grey: int, kind: str = "glands") -> tiles.Tile:
    """Of one grey, all stroma, 1 um a pixel."""
    image = np.full((side, side, 3), grey, np.uint8)
    return tiles.Tile("plain", kind, 1.0, image, np.full((side, side), tiles.STROMA, np.uint8))
