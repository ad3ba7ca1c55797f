"""The transformer's arithmetic, and published files of all three namings: the real names and shapes, random values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.encoder import load_encoder
from wsi_magnet.nets.registry import build_network, network_info, unloaded
from wsi_magnet.nets.vit import VisionTransformer, VitShape
from wsi_magnet.nets.vit_adapter import VitNet
from wsi_magnet.nets.vit_variants import VARIANTS
from wsi_magnet.nets.vit_weights import published_weights

TINY = VARIANTS["tiny"].shape

PARAMETERS = {
    "hibou-b": 85_728_768 - 2 * 768,  # the mask token is not used either
    "uni": 303_350_784 - 1024,
    "uni2-h": 681_394_176,
    "virchow2": 631_239_424 - 5 * 1280,
    "h-optimus-0": 1_134_774_272,
}
"""Of the published encoders, less the positions of class and register tokens, which are added to the tokens."""


def encoder_of(name: str) -> VisionTransformer:
    network = unloaded(network_info(f"vit:{name}"), 3, {})
    assert isinstance(network, VitNet)
    return network.encoder


def tiny_encoder(shape: VitShape = TINY, grid: int = 4) -> VisionTransformer:
    torch.manual_seed(0)
    encoder = VisionTransformer(shape, grid).eval()
    for one in encoder.parameters():
        torch.nn.init.normal_(one, std=0.3)
    return encoder.requires_grad_(False)


def timm_file(shape: VitShape, positions: int) -> dict[str, Tensor]:
    """Names and shapes of a file that timm wrote, on the device where tensors are made."""
    width, hidden = shape.width, shape.hidden or 4 * shape.width
    found = {
        "cls_token": torch.empty(1, 1, width),
        "pos_embed": torch.empty(1, positions, width),
        "patch_embed.proj.weight": torch.empty(width, 3, shape.patch_px, shape.patch_px),
        "patch_embed.proj.bias": torch.empty(width),
        "norm.weight": torch.empty(width),
        "norm.bias": torch.empty(width),
    }
    if shape.registers:
        found["reg_token"] = torch.empty(1, shape.registers, width)
    for i in range(shape.depth):
        sizes = {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "ls1.gamma": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (hidden, width),
            "mlp.fc1.bias": (hidden,),
            "mlp.fc2.weight": (width, hidden // 2 if shape.gated else hidden),
            "mlp.fc2.bias": (width,),
            "ls2.gamma": (width,),
        }
        found |= {f"blocks.{i}.{key}": torch.empty(size) for key, size in sizes.items()}
    return found


def hugging_face_file(shape: VitShape, positions: int) -> dict[str, Tensor]:
    """Names and shapes of a file of `Dinov2WithRegistersModel`, on the device where tensors are made."""
    width, hidden = shape.width, shape.hidden or 4 * shape.width
    found = {
        "embeddings.cls_token": torch.empty(1, 1, width),
        "embeddings.mask_token": torch.empty(1, width),
        "embeddings.register_tokens": torch.empty(1, shape.registers, width),
        "embeddings.position_embeddings": torch.empty(1, positions, width),
        "embeddings.patch_embeddings.projection.weight": torch.empty(width, 3, shape.patch_px, shape.patch_px),
        "embeddings.patch_embeddings.projection.bias": torch.empty(width),
        "layernorm.weight": torch.empty(width),
        "layernorm.bias": torch.empty(width),
    }
    first, second = ("weights_in", "weights_out") if shape.gated else ("fc1", "fc2")
    for i in range(shape.depth):
        layers = {
            "attention.attention.query": (width, width),
            "attention.attention.key": (width, width),
            "attention.attention.value": (width, width),
            "attention.output.dense": (width, width),
            f"mlp.{first}": (hidden, width),
            f"mlp.{second}": (width, hidden // 2 if shape.gated else hidden),
        }
        for key, size in layers.items():
            found[f"encoder.layer.{i}.{key}.weight"] = torch.empty(size)
            found[f"encoder.layer.{i}.{key}.bias"] = torch.empty(size[0])
        for key in ("norm1.weight", "norm1.bias", "layer_scale1.lambda1"):
            found[f"encoder.layer.{i}.{key}"] = torch.empty(width)
            found[f"encoder.layer.{i}.{key.replace('1', '2', 1)}"] = torch.empty(width)
    return {key.replace("layer_scale2.lambda2", "layer_scale2.lambda1"): one for key, one in found.items()}


def newer_file(hugging: dict[str, Tensor]) -> dict[str, Tensor]:
    """A Hugging Face file by the names of transformers 5, which has the two halves of a gate apart."""
    names = {"attention.output.dense": "attention.o_proj", "weights_out": "down_proj"}
    names |= {f"attention.attention.{one}": f"attention.{one[0]}_proj" for one in ("query", "key", "value")}
    found: dict[str, Tensor] = {}
    for key, one in hugging.items():
        for older, newer in names.items():
            key = key.replace(older, newer)
        if "weights_in" in key:
            halves = zip(("gate_proj", "up_proj"), one.chunk(2), strict=True)
            found |= {key.replace("weights_in", name): half for name, half in halves}
        else:
            found[key] = one
    return found


def dinov2_file(timm: dict[str, Tensor]) -> dict[str, Tensor]:
    """A timm file by the names of DINOv2's own program, its blocks in groups of two."""
    names = {"mlp.fc1.": "mlp.w12.", "mlp.fc2.": "mlp.w3.", "reg_token": "register_tokens"}

    def renamed(key: str) -> str:
        for timms, dinos in names.items():
            key = key.replace(timms, dinos)
        layer, _, rest = key.removeprefix("blocks.").partition(".")
        return f"blocks.{int(layer) // 2}.{layer}.{rest}" if key.startswith("blocks.") else key

    return {renamed(key): one for key, one in timm.items()}


def filled(state: dict[str, Tensor], seed: int = 1) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {key: torch.randn(one.shape, generator=random) * 0.3 for key, one in state.items()}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_encoders_have_as_many_parameters_as_the_published_ones(name: str) -> None:
    assert sum(one.numel() for one in encoder_of(name).parameters()) == PARAMETERS[name]


PUBLISHED: dict[str, Callable[[VitShape], dict[str, Tensor]]] = {
    "hibou-b": lambda shape: hugging_face_file(shape, 1 + 16**2),
    "uni": lambda shape: timm_file(shape, 1 + 14**2),
    "uni2-h": lambda shape: timm_file(shape, 16**2),
    "virchow2": lambda shape: timm_file(shape, 5 + 16**2),
    "h-optimus-0": lambda shape: timm_file(shape, 16**2),
}
"""Names and shapes of the published files."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_has_the_names_and_shapes_of_its_encoder(name: str) -> None:
    encoder = encoder_of(name)
    with torch.device("meta"):
        found = published_weights(PUBLISHED[name](encoder.shape), encoder)
    wanted = {key: one.shape for key, one in encoder.state_dict().items()}
    assert {key: one.shape for key, one in found.items()} == wanted


def test_a_file_of_another_encoder_is_refused() -> None:
    encoder = encoder_of("h-optimus-0")
    with torch.device("meta"):
        found = published_weights(PUBLISHED["uni2-h"](VARIANTS["uni2-h"].shape), encoder)
    assert found["reg_token"].shape != encoder.state_dict()["reg_token"].shape


@pytest.mark.parametrize("before", [0, 1, 3])
def test_positions_of_other_tokens_are_added_to_them(before: int) -> None:
    encoder, state = tiny_encoder(), filled(timm_file(TINY, before + 16))
    found = published_weights(state, encoder)
    tokens = torch.cat([found["cls_token"], found["reg_token"], found["pos_embed"]], dim=1)
    wanted = torch.cat([state["cls_token"], state["reg_token"], torch.zeros(1, 16, 48)], dim=1)
    positions = state["pos_embed"]
    wanted[:, :before] += positions[:, :before]
    wanted[:, 3:] += positions[:, before:]
    assert torch.equal(tokens, wanted)


@pytest.mark.parametrize("gated", [False, True])
def test_all_namings_of_one_encoder_give_the_same_weights(gated: bool) -> None:
    shape = VitShape(14, 48, 3, 3, registers=2, hidden=128, gated=gated)
    encoder, hugging = tiny_encoder(shape), filled(hugging_face_file(shape, 17))
    found = published_weights(hugging, encoder)
    again = published_weights(found, encoder)
    assert all(torch.equal(one, again[key]) for key, one in found.items())
    prefixed = {f"backbone.{key}": one for key, one in dinov2_file(found).items()}
    thrice = published_weights({**prefixed, "head.weight": torch.zeros(1)}, encoder)
    assert found.keys() == thrice.keys() == encoder.state_dict().keys()
    assert all(torch.equal(one, thrice[key]) for key, one in found.items())
    newer = published_weights(newer_file(hugging), encoder)
    assert found.keys() == newer.keys()
    assert all(torch.equal(one, newer[key]) for key, one in found.items())
    query = hugging["encoder.layer.1.attention.attention.query.weight"]
    assert torch.equal(found["blocks.1.attn.qkv.weight"][:48], query)


def test_positions_of_larger_images_name_the_setting() -> None:
    with pytest.raises(BundleError, match=r"37 x 37 patches, .* 4 x 4; set network_args\.positions_px to 518"):
        published_weights(timm_file(TINY, 1 + 37**2), tiny_encoder())
    with pytest.raises(BundleError, match="its 30 positions are no square of patches"):
        published_weights(timm_file(TINY, 30), tiny_encoder())


def plain_attention(encoder: VisionTransformer, x: Tensor) -> Tensor:
    """The last block's tokens of one image, token by token and head by head: slow, and obvious."""
    w = encoder.state_dict()
    side, kernel = encoder.shape.patch_px, w["patch_embed.proj.weight"].flatten(1)
    tokens = [
        kernel @ x[:, r : r + side, c : c + side].flatten() + w["patch_embed.proj.bias"]
        for r in range(0, x.shape[1], side)
        for c in range(0, x.shape[2], side)
    ]
    patches = torch.stack(tokens) + w["pos_embed"][0]
    found = torch.cat([w["cls_token"][0], w["reg_token"][0], patches])
    for i in range(encoder.shape.depth):
        of = {key.removeprefix(f"blocks.{i}."): one for key, one in w.items() if key.startswith(f"blocks.{i}.")}
        normal = F.layer_norm(found, found.shape[-1:], of["norm1.weight"], of["norm1.bias"], 1e-6)
        query, key, value = (normal @ of["attn.qkv.weight"].T + of["attn.qkv.bias"]).chunk(3, dim=1)
        width = query.shape[1] // encoder.shape.heads
        heads = [
            (query[:, h : h + width] @ key[:, h : h + width].T / width**0.5).softmax(dim=1) @ value[:, h : h + width]
            for h in range(0, query.shape[1], width)
        ]
        attended = torch.cat(heads, dim=1) @ of["attn.proj.weight"].T + of["attn.proj.bias"]
        found = found + of["ls1.gamma"] * attended
        normal = F.layer_norm(found, found.shape[-1:], of["norm2.weight"], of["norm2.bias"], 1e-6)
        hidden = normal @ of["mlp.fc1.weight"].T + of["mlp.fc1.bias"]
        half = hidden.shape[1] // 2
        gate, rest = hidden[:, :half], hidden[:, half:]
        hidden = gate * gate.sigmoid() * rest if encoder.shape.gated else F.gelu(hidden)
        found = found + of["ls2.gamma"] * (hidden @ of["mlp.fc2.weight"].T + of["mlp.fc2.bias"])
    found = F.layer_norm(found, found.shape[-1:], w["norm.weight"], w["norm.bias"], 1e-6)
    return found[1 + encoder.shape.registers :]


@pytest.mark.parametrize("gated", [False, True])
def test_tokens_agree_with_a_plain_computation(gated: bool) -> None:
    encoder = tiny_encoder(VitShape(14, 48, 3, 3, registers=2, gated=gated))
    x = torch.randn(3, 56, 56, generator=torch.Generator().manual_seed(2))
    found = encoder(x[None])[-1][0].flatten(1).T
    torch.testing.assert_close(found, plain_attention(encoder, x), atol=1e-4, rtol=1e-4)


def test_positions_are_interpolated_for_other_sizes() -> None:
    encoder = tiny_encoder()
    encoder.pos_embed.data = torch.full_like(encoder.pos_embed, 2.5)
    constant = encoder._positions((9, 5))
    torch.testing.assert_close(constant, torch.full((1, 45, 48), 2.5))
    ramp = torch.arange(4.0).repeat(4)[None, :, None].expand(1, 16, 48)  # by column
    encoder.pos_embed.data = ramp.contiguous()
    columns = encoder._positions((8, 8)).unflatten(1, (8, 8))[0, :, :, 0]
    assert torch.equal(encoder._positions((4, 4)), ramp)
    assert (columns.diff(dim=1) > 0).all()
    torch.testing.assert_close(columns[0], columns[7])


def test_an_encoders_file_is_loaded_and_stays_frozen(tmp_path: Path) -> None:
    network = build_network("vit:tiny", 3)
    before = {key: one.clone() for key, one in network.state_dict().items()}
    state = filled(hugging_face_file(TINY, 1 + 16**2))
    path = tmp_path / "hibou.safetensors"
    safetensors.torch.save_file(state, path)
    load_encoder(network, "vit:tiny", path)
    after = network.state_dict()
    changed = {key for key, one in after.items() if not torch.equal(one, before[key])}
    assert changed == {key for key in after if key.startswith("encoder.")}
    assert torch.equal(after["encoder.norm.weight"], state["layernorm.weight"])
    assert {key for key, one in network.named_parameters() if not one.requires_grad} == changed


def test_a_file_with_other_positions_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    safetensors.torch.save_file(filled(timm_file(TINY, 37**2)), path)
    with pytest.raises(BundleError, match=r"large\.safetensors as the trunk of vit:tiny does not fit: .* to 518"):
        load_encoder(build_network("vit:tiny", 3), "vit:tiny", path)
    load_encoder(build_network("vit:tiny", 3, positions_px=518), "vit:tiny", path)
