"""State dicts: read from published checkpoints without running their code, and loaded only where they fit exactly."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wsi_magnet.errors import BundleError

PREFIXES = ("module.", "model.")
"""Key prefixes of the parallel wrapper and of the trainer's wrapper, outermost first."""

TRAINER_ONLY = "loss."
"""Prefix of the trainer's loss, which is saved beside the network and not part of it."""


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .pth file by the network's own keys. Raises BundleError for any other file."""
    path = Path(path).expanduser()
    return strip_prefixes(_tensors(_load(path), path))


def strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove `module.`, then `model.`, from the start of keys, and drop the trainer's loss.

    Inside a key both stay: a layer may have that name.
    """
    for prefix in PREFIXES:
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
        state = {key: tensor for key, tensor in state.items() if not key.startswith(TRAINER_ONLY)}
    return state


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load `state` into a network, floats as float32; the tensors become the network's own.

    what: name of the state in errors, e.g. "b.pth as fpn". Raises BundleError, naming the first tensor that is
    missing, unexpected, of another shape or not finite, and their number.
    """
    wanted = network.state_dict()
    misfits = {
        f"of {len(wanted)} tensors missing": sorted(wanted.keys() - state.keys()),
        "tensors unexpected": sorted(state.keys() - wanted.keys()),
    }
    if any(misfits.values()):
        problems = [f"{len(keys)} {problem}, the first {keys[0]!r}" for problem, keys in misfits.items() if keys]
        raise BundleError(f"{what} does not fit: {'; '.join(problems)}")
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            shapes = f"{list(tensor.shape)}, not {list(wanted[key].shape)}"
            raise BundleError(f"{what} does not fit: tensor {key!r} is {shapes}")
        if tensor.is_floating_point() != wanted[key].is_floating_point():
            raise BundleError(f"{what} does not fit: tensor {key!r} is {tensor.dtype}, not {wanted[key].dtype}")
        if not torch.isfinite(tensor).all():
            raise BundleError(f"{what} cannot be used: tensor {key!r} holds NaN or infinity; get the file again")
    exact = {key: tensor.to(wanted[key].dtype) for key, tensor in state.items()}
    network.load_state_dict(exact, strict=True, assign=True)


def _load(path: Path) -> object:
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols, useless to the user
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BundleError(f"checkpoint {path}: {error.strerror or error}") from None
    except Exception as error:
        # Files of other kinds raise whatever their bytes lead to: KeyError, EOFError, RuntimeError and more.
        if "GLOBAL" in str(error):
            raise BundleError(f"checkpoint {path} contains code, not only tensors; it is not read") from None
        raise BundleError(f"{path} is not a PyTorch checkpoint, or is truncated; get the file again") from None


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]  # the trainer's own checkpoints keep epoch and optimiser beside it
    if not isinstance(content, dict) or not content:
        raise BundleError(f"checkpoint {path} has no named tensors but {type(content).__name__} {content!r:.40}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise BundleError(f"checkpoint {path}: {key!r} is {type(value).__name__}, not a tensor")
    return content
