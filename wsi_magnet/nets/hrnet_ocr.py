"""HRNet with object-contextual representations (Yuan et al. 2020), the published backbone for Cityscapes.

N: batch, C: classes, H, W: input size. Layer names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_magnet.nets.hrnet import FEATURES, LAYERS, MOMENTUM, Hrnet
from wsi_magnet.nets.network import NetworkInfo, Trunk

MIDDLE = 512
KEY = 256
AUXILIARY_WEIGHT = 0.4
"""Weight of the auxiliary head's logits, in training and inference; the main head's is 1."""


class HrnetOcr(Hrnet):
    """HRNet whose auxiliary logits pool one context vector per class, to which each pixel then attends."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.conv3x3_ocr = nn.Sequential(
            nn.Conv2d(FEATURES, MIDDLE, 3, padding=1),
            nn.BatchNorm2d(MIDDLE, momentum=MOMENTUM),
            nn.ReLU(inplace=True),
        )
        self.aux_head = nn.Sequential(
            nn.Conv2d(FEATURES, FEATURES, 1),
            nn.BatchNorm2d(FEATURES, momentum=MOMENTUM),
            nn.ReLU(inplace=True),
            nn.Conv2d(FEATURES, n_classes, 1),
        )
        self.ocr_distri_head = ContextHead()
        self.cls_head = nn.Conv2d(MIDDLE, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Float (N, 3, H, W), normalised with ImageNet's statistics, to logits (N, C, H, W)."""
        main, auxiliary = self.heads(x)
        return (main + AUXILIARY_WEIGHT * auxiliary) / (1 + AUXILIARY_WEIGHT)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the main and the auxiliary head, (N, C, H, W) each; training weighs them separately."""
        features = self.features(x)
        auxiliary = self.aux_head(features)
        pixels = self.conv3x3_ocr(features)
        context = class_context(pixels, auxiliary)
        return self.cls_head(self.ocr_distri_head(pixels, context)), auxiliary


def class_context(pixels: Tensor, logits: Tensor) -> Tensor:
    """One vector per class: the mean of all pixels' features, weighted by the softmax of its logits over the pixels.

    pixels: (N, F, H, W), logits: (N, C, H, W). Returns (N, F, C, 1).
    """
    weights = logits.flatten(2).softmax(dim=2)  # (N, C, H·W)
    context = weights @ pixels.flatten(2).transpose(1, 2)  # (N, C, F)
    return context.transpose(1, 2).unsqueeze(3)


class ContextHead(nn.Module):
    """Each pixel's features concatenated with its attended context, then mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.object_context_block = Attention()
        self.conv_bn_dropout = nn.Sequential(*_mix(2 * MIDDLE, MIDDLE), nn.Dropout2d(0.05))

    def forward(self, pixels: Tensor, context: Tensor) -> Tensor:
        """pixels: (N, 512, H, W), context: (N, 512, C, 1). Returns (N, 512, H, W)."""
        taken_up = self.object_context_block(pixels, context)
        mixed: Tensor = self.conv_bn_dropout(torch.cat([taken_up, pixels], dim=1))
        return mixed


class Attention(nn.Module):
    """Scaled dot-product attention of pixels (queries) to classes (keys, values), of 256 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.f_pixel = nn.Sequential(*_mix(MIDDLE, KEY), *_mix(KEY, KEY))
        self.f_object = nn.Sequential(*_mix(MIDDLE, KEY), *_mix(KEY, KEY))
        self.f_down = nn.Sequential(*_mix(MIDDLE, KEY))
        self.f_up = nn.Sequential(*_mix(KEY, MIDDLE))

    def forward(self, pixels: Tensor, context: Tensor) -> Tensor:
        """pixels: (N, 512, H, W), context: (N, 512, C, 1). Returns (N, 512, H, W)."""
        query = self.f_pixel(pixels).flatten(2).transpose(1, 2)  # (N, H·W, 256)
        key = self.f_object(context).flatten(2)  # (N, 256, C)
        value = self.f_down(context).flatten(2).transpose(1, 2)  # (N, C, 256)
        attention = (query @ key * KEY**-0.5).softmax(dim=2)  # (N, H·W, C)
        answer = (attention @ value).transpose(1, 2)  # (N, 256, H·W)
        up: Tensor = self.f_up(answer.unflatten(2, pixels.shape[-2:]))
        return up


def _mix(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    """1 x 1 convolution; batch normalisation and ReLU, nested as in the published names."""
    normalised = nn.Sequential(nn.BatchNorm2d(outputs, momentum=MOMENTUM), nn.ReLU(inplace=True))
    return nn.Conv2d(inputs, outputs, 1, bias=False), normalised


INFO = NetworkInfo(
    "hrnet18+ocr",
    HrnetOcr,
    head="cls_head",
    trunk=Trunk("", LAYERS, ("incre_modules", "downsamp_modules", "final_layer", "classifier")),
    encoder=LAYERS,
    folds_by_name=True,
    builds_on_meta=True,
)
