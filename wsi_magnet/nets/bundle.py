"""A bundle: weights and everything needed to use them, in one .safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from uuid import uuid4

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.checkpoint import load_exactly
from wsi_magnet.nets.registry import build_refiner, info_of, unloaded
from wsi_magnet.nets.spec import FORMAT, HEAD_PREFIX, VERSION, BundleSpec, ChannelOrder, bundle_path, read_spec
from wsi_magnet.nets.trust import EXPORTED, require_runtime, require_trust
from wsi_magnet.storage.atomic import atomic_file
from wsi_magnet.values import documented

_STATISTICS = ("profile.mean", "profile.whitening")
"""Names of the tensors of `FeatureStatistics`."""


@documented
@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Statistics of the training data's features at each scale; see `TrainingProfile.distances`."""

    mean: Tensor
    """float32 (scales, features)."""
    whitening: Tensor
    """float32 (scales, features, features): its product with a difference from the mean has the distance as length."""


@documented
@dataclass(frozen=True, eq=False, repr=False)
class Bundle:
    """A description and its networks, in evaluation mode and frozen."""

    spec: BundleSpec
    """Description: classes, scales, thresholds, model card."""
    path: Path
    """File of the bundle."""
    sha256: str
    """Hash of the file."""
    backbone: nn.Module
    """Float (N, 3, H, W), normalised, to logits (N, C, H, W)."""
    refiners: tuple[nn.Module, ...]
    """Called as `refiner(fine=..., coarse=...)`; `spec.refiner_of` assigns them to scales."""
    statistics: FeatureStatistics | None = None
    """None in bundles made before there were any, and for networks without features."""
    heads: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Weights of the methods that learn, by the method's name and the head's own keys."""

    @property
    def device(self) -> torch.device:
        """Device of its tensors; the CPU if it has none."""
        modules = nn.ModuleList([self.backbone, *self.refiners])
        return next((p.device for p in modules.parameters()), torch.device("cpu"))

    def __repr__(self) -> str:
        classes, mpps = (
            ", ".join(map(str, of)) for of in ((c.name for c in self.spec.classes), _plain(self.spec.mpps))
        )
        return f"<Bundle {self.spec.name}: {classes}; {mpps} µm/px; {self.spec.network}, on {self.device}>"


def _plain(numbers: Sequence[float]) -> list[str]:
    return [f"{number:g}" for number in numbers]


def load_bundle(
    bundle: str | Path | None = None, device: str | torch.device = "cpu", *, trusted: str | None = None
) -> Bundle:
    """Read a bundle and put its networks on a device.

    bundle: its path; None or "default" is the shipped one. trusted: SHA-256 of a model whose code may run, besides
    those that `wsi-magnet bundle trust` has noted. Raises BundleError for any other file, where the tensors do not fit
    the description, and for a bundle with a model that runs code and is not trusted.
    """
    path = bundle_path(bundle)
    spec, sha256 = read_spec(path)
    require_trust(spec, path, trusted)
    try:
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"bundle {path} is damaged ({error}); get the file again") from None
    backbone, refiners = build(spec)
    parts = _part_names(backbone, refiners)
    for prefix, module in parts.items():
        load_exactly(module, _pop_prefix(tensors, prefix), f"{path}: {prefix.rstrip('.')}")
    if spec.network == EXPORTED:
        _check_model(spec, backbone, str(path))
    found = [tensors.pop(name) for name in _STATISTICS if name in tensors]
    statistics = FeatureStatistics(*found) if len(found) == len(_STATISTICS) else None
    _check_statistics(spec, statistics, str(path))
    heads = _pop_heads(tensors, spec, str(path))
    if tensors:
        raise BundleError(f"{path} does not fit: {len(tensors)} tensors unexpected, the first {min(tensors)!r}")
    for module in parts.values():
        module.eval().requires_grad_(False).to(device)
    return Bundle(spec, path, sha256, backbone, refiners, statistics, heads)


def save_bundle(
    path: str | Path,
    spec: BundleSpec,
    backbone: nn.Module,
    refiners: Sequence[nn.Module],
    statistics: FeatureStatistics | None = None,
    heads: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a bundle atomically; the same weights give the same bytes.

    statistics: needed where the profile in `spec` has distances. heads: weights of methods in `spec.methods`.
    Raises BundleError where the networks do not fit `spec` or the file cannot be written.
    """
    path = Path(path).expanduser()
    tensors = {
        prefix + key: tensor.detach().cpu().contiguous()
        for prefix, module in _part_names(backbone, refiners).items()
        for key, tensor in module.state_dict().items()
    }
    _check_fit(spec, tensors, str(path))
    _check_statistics(spec, statistics, str(path))
    if statistics is not None:
        values = (statistics.mean, statistics.whitening)
        tensors |= {name: one.cpu().contiguous() for name, one in zip(_STATISTICS, values, strict=True)}
    tensors |= {
        f"{HEAD_PREFIX}{name}.{key}": tensor.detach().cpu().contiguous()
        for name, head in (heads or {}).items()
        for key, tensor in head.items()
    }
    description = json.dumps(spec.to_json())
    parts = _serialise(tensors, {"format": FORMAT, "version": VERSION, "spec": description})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, unique=uuid4().hex) as file:
            for part in parts:
                file.write(part)
    except OSError as error:
        raise BundleError(f"cannot write bundle {path}: {error.strerror or error}") from None


def build(spec: BundleSpec) -> tuple[nn.Module, tuple[nn.Module, ...]]:
    """Backbone and refiners of a description, on the meta device where they can be: without storage for weights."""
    classes, order = len(spec.classes), cast(ChannelOrder, spec.channel_order)
    backbone = unloaded(info_of(spec), classes, spec.network_args)
    with torch.device("meta"):
        refiners = tuple(build_refiner(spec.refiner, classes, order) for _ in range(spec.n_refiners))
    return backbone, refiners


def _check_model(spec: BundleSpec, backbone: nn.Module, what: str) -> None:
    """Raise BundleError unless a bundle's model is the one that its description, and so the user's trust, names, and
    can be opened here.
    """
    require_runtime(spec)
    model = backbone.state_dict()["model"]
    found = hashlib.sha256(model.contiguous().numpy()).hexdigest()
    if found != spec.network_args["sha256"]:
        raise BundleError(
            f"{what}: its model has SHA-256 {found[:12]}..., not {str(spec.network_args['sha256'])[:12]}... as its "
            "description says; get the file again"
        )


def _part_names(backbone: nn.Module, refiners: Sequence[nn.Module]) -> dict[str, nn.Module]:
    return {"backbone.": backbone, **{f"refiner.{i}.": refiner for i, refiner in enumerate(refiners)}}


def _pop_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    keys = [key for key in tensors if key.startswith(prefix)]
    return {key.removeprefix(prefix): tensors.pop(key) for key in keys}


def _pop_heads(tensors: dict[str, Tensor], spec: BundleSpec, what: str) -> dict[str, dict[str, Tensor]]:
    """Heads by the name of their method, which may hold dots. Raises BundleError for a tensor that is not finite."""
    heads: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name in spec.methods:
        for key, tensor in _pop_prefix(tensors, f"{HEAD_PREFIX}{name}.").items():
            if not torch.isfinite(tensor).all():
                raise BundleError(f"{what}: {name} has a tensor {key!r} with NaN or infinity; get the file again")
            heads[name][key] = tensor
    return dict(heads)


def _check_fit(spec: BundleSpec, tensors: Mapping[str, Tensor], what: str) -> None:
    wanted = {
        prefix + key: tensor.shape
        for prefix, module in _part_names(*build(spec)).items()
        for key, tensor in module.state_dict().items()
    }
    found = {key: tensor.shape for key, tensor in tensors.items()}
    if wrong := sorted({*wanted.items()} ^ {*found.items()}):
        raise BundleError(f"{what}: the networks do not fit the description; the first difference is {wrong[0]}")


def _check_statistics(spec: BundleSpec, statistics: FeatureStatistics | None, what: str) -> None:
    """Raise BundleError unless a bundle has statistics for exactly the distances of its profile."""
    distances = spec.profile.distances if spec.profile else ()
    if not distances and statistics is None:
        return
    shapes = () if statistics is None else (tuple(statistics.mean.shape), tuple(statistics.whitening.shape))
    count, features = len(spec.mpps), shapes[0][-1] if shapes and shapes[0] else 0
    if len(distances) != count or shapes != ((count, features), (count, features, features)):
        raise BundleError(
            f"{what}: statistics of shapes {list(shapes)} and {len(distances)} distances do not fit {count} scales; "
            "make them with `wsi-magnet bundle profile`"
        )


def _serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes | memoryview, ...]:
    """Safetensors with a sorted header, in parts, since weights may be gigabytes; the library's own order of metadata
    changes from run to run.
    """
    content = safetensors.torch.save(dict(tensors), metadata=dict(metadata))
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    return len(header).to_bytes(8, "little"), header, memoryview(content)[8 + length :]
