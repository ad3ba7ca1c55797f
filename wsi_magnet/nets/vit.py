"""Vision transformer in the style of DINOv2 (Oquab et al. 2023), with register tokens (Darcet et al. 2023).

N: batch, D: width of a token, h, w: patches of the image along its sides, L: tokens of an image, h * w and those before
them. Layer names are those of timm's published files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6
"""Added to variances by the layer normalisation of all published files."""


@dataclass(frozen=True, slots=True)
class VitShape:
    """Sizes of a transformer."""

    patch_px: int
    """Side of a patch, in pixels."""
    width: int
    depth: int
    """Number of blocks."""
    heads: int
    registers: int = 0
    """Register tokens, besides the class token."""
    hidden: int = 0
    """Width of a block's hidden layer; 0: four times the width. With `gated` it holds both halves of the gate."""
    gated: bool = False
    """True for SwiGLU, False for GELU."""

    @property
    def taps(self) -> tuple[int, ...]:
        """Four blocks, evenly spaced and the last included, whose tokens are used; all in smaller transformers."""
        return tuple(sorted({max(1, self.depth * part // 4) - 1 for part in (1, 2, 3, 4)}))


class VisionTransformer(nn.Module):
    """Tokens of an image's patches after several blocks."""

    def __init__(self, shape: VitShape, grid: int) -> None:
        """grid: patches along a side of the images for which there are positions."""
        super().__init__()
        self.shape, self.grid = shape, grid
        width = shape.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if shape.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, shape.registers, width))
        self.pos_embed = nn.Parameter(torch.empty(1, grid**2, width).normal_(std=0.02))
        self.patch_embed = _PatchEmbedding(shape)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised tokens of the patches after each block of `VitShape.taps`, (N, D, h, w).

        x: float (N, 3, H, W), normalised; its sides are multiples of a patch's.
        """
        x = self.patch_embed(x)
        size_hw = x.shape[-2:]
        before = [self.cls_token, self.reg_token] if self.shape.registers else [self.cls_token]
        tokens = x.flatten(2).transpose(1, 2) + self._positions(size_hw)
        tokens = torch.cat([*(one.expand(len(x), -1, -1) for one in before), tokens], dim=1)
        found = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in self.shape.taps:
                found.append(self._map(tokens, size_hw))
        return found

    def _positions(self, size_hw: Sequence[int]) -> Tensor:
        """Positions of a grid of patches, (1, h * w, D), interpolated from those that were learned."""
        if tuple(size_hw) == (self.grid, self.grid):
            return self.pos_embed
        learned = self.pos_embed.float().transpose(1, 2).unflatten(2, (self.grid, self.grid))
        found = F.interpolate(learned, size=tuple(size_hw), mode="bicubic", align_corners=False, antialias=True)
        positions: Tensor = found.flatten(2).transpose(1, 2)
        return positions

    def _map(self, tokens: Tensor, size_hw: Sequence[int]) -> Tensor:
        patches = self.norm(tokens[:, -size_hw[0] * size_hw[1] :])
        found: Tensor = patches.transpose(1, 2).unflatten(2, tuple(size_hw))
        return found


class _PatchEmbedding(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, shape.patch_px, stride=shape.patch_px)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, D, h, w)."""
        found: Tensor = self.proj(x)
        return found


class _Block(nn.Module):
    """Attention and a hidden layer, each normalised before, scaled, and added to its input."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=EPSILON)
        self.attn = _Attention(shape.width, shape.heads)
        self.ls1 = _Scale(shape.width)
        self.norm2 = nn.LayerNorm(shape.width, eps=EPSILON)
        self.mlp = _Hidden(shape)
        self.ls2 = _Scale(shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, D) to the same."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        found: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return found


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, D) to the same."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found: Tensor = self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return found


class _Hidden(nn.Module):
    """A hidden layer with GELU, or with SwiGLU: the product of one half of it and the SiLU of the other."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        hidden = shape.hidden or 4 * shape.width
        self.gated = shape.gated
        self.fc1 = nn.Linear(shape.width, hidden)
        self.fc2 = nn.Linear(hidden // 2 if shape.gated else hidden, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, D) to the same."""
        x = self.fc1(x)
        if self.gated:
            gate, value = x.chunk(2, dim=-1)
            x = F.silu(gate) * value
        else:
            x = F.gelu(x)
        found: Tensor = self.fc2(x)
        return found


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, D), each channel multiplied by its own factor."""
        return x * self.gamma
