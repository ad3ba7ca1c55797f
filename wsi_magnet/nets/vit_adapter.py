"""A frozen vision transformer as a segmentation network: a convolutional branch beside it, and a light decoder.

N: batch, C: classes, H, W: size of the input, D: width of a token, K: blocks whose tokens are used; strides are in
pixels of the input. The transformer has one token for 16 x 16 pixels, which holds little of where in them an edge lies.
So a small convolutional encoder, which is trained, has features at strides 4, 8 and 16, and the tokens join it at 16.

A token is always 16 pixels of the patch, so that tokens, cells and features of other methods lie on one grid: for a
transformer whose patches are 14 pixels the image is reduced to 14 / 16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.nets.small import ResidualBlock, conv_bn, upsample
from wsi_magnet.nets.vit import VisionTransformer, VitShape

STRIDE = 16
"""Side of a token in the input, in pixels; height and width of the input must be multiples of it."""


class VitNet(nn.Module):
    """Tokens and a convolutional branch, joined at stride 16; a decoder to stride 4, bilinear to the input's size."""

    def __init__(self, n_classes: int, shape: VitShape, width: int, positions_px: int) -> None:
        """width: channels of branch and decoder. positions_px: side of the images for which the transformer has
        positions, a multiple of its patches' side.
        """
        super().__init__()
        self.encoder = VisionTransformer(shape, positions_px // shape.patch_px).requires_grad_(False)
        self.stem = nn.Sequential(conv_bn(3, width // 2, stride=2), conv_bn(width // 2, width, stride=2))
        self.down8 = nn.Sequential(conv_bn(width, width, stride=2), ResidualBlock(width))
        self.down16 = nn.Sequential(conv_bn(width, width, stride=2), ResidualBlock(width))
        self.project = nn.Sequential(
            nn.Conv2d(len(shape.taps) * shape.width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.merge16 = conv_bn(2 * width, width)
        self.merge8 = conv_bn(width, width)
        self.merge4 = conv_bn(width, width)
        self.classify = nn.Conv2d(width, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised RGB, float (N, 3, H, W), to logits (N, C, H, W)."""
        if x.shape[-2] % STRIDE or x.shape[-1] % STRIDE:
            raise ValueError(f"VitNet needs sides that are multiples of {STRIDE}; got {x.shape[-2]} x {x.shape[-1]}")
        four = self.stem(x)
        eight = self.down8(four)
        sixteen = torch.cat([self.down16(eight), self.project(self.tokens(x))], dim=1)
        merged = self.merge16(sixteen)
        merged = self.merge8(upsample(merged, eight.shape[-2:]) + eight)
        merged = self.merge4(upsample(merged, four.shape[-2:]) + four)
        return upsample(self.classify(merged), x.shape[-2:])

    @torch.no_grad()
    def tokens(self, x: Tensor) -> Tensor:
        """Features of the frozen transformer, (N, K * D, H / 16, W / 16); computed once for a patch."""
        side = self.encoder.shape.patch_px
        if side != STRIDE:
            size_hw = [length // STRIDE * side for length in x.shape[-2:]]
            x = F.interpolate(x, size=size_hw, mode="bilinear", align_corners=False, antialias=True)
        return torch.cat(self.encoder(x), dim=1)
