"""Networks `vit:VARIANT`: pathology's foundation encoders by their published configurations, and two small ones.

Nothing is downloaded: `encoder` of a configuration names the file that the user got from the publisher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.network import NetworkInfo, Trunk
from wsi_magnet.nets.spec import IMAGENET_MEAN, IMAGENET_STD
from wsi_magnet.nets.vit import VitShape
from wsi_magnet.nets.vit_adapter import STRIDE, VitNet
from wsi_magnet.nets.vit_weights import published_weights
from wsi_magnet.schema import Bounds
from wsi_magnet.text import near_names

LAYERS = ("cls_token", "reg_token", "pos_embed", "patch_embed", "blocks", "norm")

NON_COMMERCIAL = "CC-BY-NC-ND-4.0"


@dataclass(frozen=True, slots=True)
class Variant:
    """One encoder."""

    shape: VitShape
    licence: str | None = None
    """Licence of the published weights and where they are from; None for a shape without any."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    activation_bytes_per_px: int = 200
    """As in `NetworkInfo`; by `python -m benchmarks.encoders`."""


VARIANTS: Mapping[str, Variant] = {
    "tiny": Variant(VitShape(14, 48, 2, 3, registers=2)),
    "small": Variant(VitShape(14, 192, 6, 3, registers=4), activation_bytes_per_px=250),
    "hibou-b": Variant(
        VitShape(14, 768, 12, 12, registers=4),
        "Apache-2.0 (Hibou-B, HistAI, huggingface.co/histai/hibou-b)",
        (0.7068, 0.5755, 0.722),
        (0.195, 0.2316, 0.1816),
        activation_bytes_per_px=400,
    ),
    "uni": Variant(
        VitShape(16, 1024, 24, 16),
        f"{NON_COMMERCIAL} (UNI, Mahmood Lab, huggingface.co/MahmoodLab/UNI)",
        activation_bytes_per_px=500,
    ),
    "uni2-h": Variant(
        VitShape(14, 1536, 24, 24, registers=8, hidden=8192, gated=True),
        f"{NON_COMMERCIAL} (UNI2-h, Mahmood Lab, huggingface.co/MahmoodLab/UNI2-h)",
        activation_bytes_per_px=750,
    ),
    "virchow2": Variant(
        VitShape(14, 1280, 32, 16, registers=4, hidden=6832, gated=True),
        f"{NON_COMMERCIAL} (Virchow2, Paige, huggingface.co/paige-ai/Virchow2)",
        activation_bytes_per_px=650,
    ),
    "h-optimus-0": Variant(
        VitShape(14, 1536, 40, 24, registers=4, hidden=8192, gated=True),
        "Apache-2.0 (H-optimus-0, Bioptimus, huggingface.co/bioptimus/H-optimus-0)",
        (0.707223, 0.578729, 0.703617),
        (0.211883, 0.230117, 0.177517),
        activation_bytes_per_px=750,
    ),
}
"""By name. Those without a licence are for trying out, with random weights."""


def variant_info(name: str) -> NetworkInfo:
    """Description of `vit:NAME`. Raises BundleError for an unknown name."""
    if name not in VARIANTS:
        raise BundleError(
            f"network 'vit:{name}' is no encoder that is known here; {near_names(name, VARIANTS, len(VARIANTS))}"
        )
    one = VARIANTS[name]
    return NetworkInfo(
        f"vit:{name}",
        _builder(one.shape),
        input_multiple=STRIDE,
        mean=one.mean,
        std=one.std,
        head="classify",
        trunk=Trunk("encoder.", LAYERS, translate=_translate, licence=one.licence, required=one.licence is not None),
        activation_bytes_per_px=one.activation_bytes_per_px,
        builds_on_meta=True,
    )


def _translate(given: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    assert isinstance(network, VitNet)
    return published_weights(given, network.encoder)


def _builder(shape: VitShape) -> Callable[..., nn.Module]:
    def build(
        n_classes: int,
        width: Annotated[int, Bounds(8, 512)] = 64,
        positions_px: Annotated[int, Bounds(14, 2048)] = 224,
    ) -> nn.Module:
        if positions_px % shape.patch_px:
            raise BundleError(f"network_args.positions_px {positions_px} is no multiple of {shape.patch_px}")
        return VitNet(n_classes, shape, width, positions_px)

    return build


INFO = variant_info
