"""Published weights of vision transformers under the names that `VisionTransformer` has, which are timm's.

D: width of a token, g: patches along a side of the images for which there are positions. Files come in three namings:
timm's; that of Hugging Face's DINOv2, with or without registers; and DINOv2's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.vit import VisionTransformer

UNUSED = ("head.", "fc_norm.", "mask_token", "head_drop.", "classifier.", "pooler.")
"""Starts of names of tensors that segmentation does not use."""

WRAPPERS = re.compile(r"^(model\.|module\.|backbone\.|teacher\.|dinov2\.|dinov2_with_registers\.|vit\.)+")
"""Prefixes of modules in which an encoder was saved."""

HUGGING_FACE = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.q_proj\.", ".attn.query."),  # names of transformers 5
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)

DINOV2 = (
    (r"^register_tokens$", "reg_token"),
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # blocks in groups, as they were saved by several processes
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)

PARTS = {
    ".attn.qkv.": (".attn.query.", ".attn.key.", ".attn.value."),
    ".mlp.fc1.": (".mlp.gate_proj.", ".mlp.up_proj."),
}
"""Layers that some files hold in parts, and the parts in their order."""


def published_weights(given: Mapping[str, Tensor], encoder: VisionTransformer) -> dict[str, Tensor]:
    """The tensors of a published file by the names of an encoder.

    The positions of class and register tokens, which some files have, are added to these tokens. Raises BundleError for
    a file whose positions cannot be those of the encoder.
    """
    state = {WRAPPERS.sub("", key): tensor for key, tensor in given.items()}
    rules = HUGGING_FACE if "embeddings.cls_token" in state else DINOV2
    state = {_renamed(key, rules): tensor for key, tensor in state.items()}
    state = {key: tensor for key, tensor in state.items() if not key.startswith(UNUSED)}
    return _positioned(_joined(state), encoder)


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, name in rules:
        key = re.sub(pattern, name, key)
    return key


def _joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layers that some files hold in parts, as one tensor."""
    found = dict(state)
    for whole, parts in PARTS.items():
        for key in [key for key in state if parts[0] in key]:
            names = [key.replace(parts[0], part) for part in parts]
            if all(name in found for name in names):
                found[key.replace(parts[0], whole)] = torch.cat([found.pop(name) for name in names])
    return found


def _positioned(state: dict[str, Tensor], encoder: VisionTransformer) -> dict[str, Tensor]:
    """Positions of patches alone, (1, g * g, D)."""
    positions, token = state.get("pos_embed"), state.get("cls_token")
    if positions is None or token is None or positions.ndim != 3 or token.shape != (1, 1, positions.shape[-1]):
        return state  # what is missing is named where the tensors are compared with the encoder's
    registers = state.get("reg_token")
    count = 0 if registers is None else registers.shape[1]
    before = next((n for n in (0, 1, 1 + count) if isqrt(positions.shape[1] - n) ** 2 == positions.shape[1] - n), None)
    if before is None:
        raise BundleError(f"its {positions.shape[1]} positions are no square of patches, with or without other tokens")
    grid = isqrt(positions.shape[1] - before)
    if grid != encoder.grid:
        side_px = encoder.shape.patch_px
        raise BundleError(
            f"it has positions of {grid} x {grid} patches, the network of {encoder.grid} x {encoder.grid}; set "
            f"network_args.positions_px to {grid * side_px}"
        )
    found = {**state, "pos_embed": positions[:, before:].contiguous()}
    if before:
        found["cls_token"] = token + positions[:, :1]
    if before > 1 and registers is not None:
        found["reg_token"] = registers + positions[:, 1:before]
    return found
