"""State dicts that must fit a network exactly: what does not fit is named in one line."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wsi_magnet.errors import BundleError


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Put `state` into a network, floats as float32; the tensors become the network's own.

    what: how errors call the state, e.g. "b.pth as fpn". Raises BundleError, naming the first tensor that is missing,
    unexpected, of another shape or not finite, and how many there are.
    """
    wanted = network.state_dict()
    misfits = {
        f"of {len(wanted)} tensors missing": sorted(wanted.keys() - state.keys()),
        "tensors unexpected": sorted(state.keys() - wanted.keys()),
    }
    if any(misfits.values()):
        said = [f"{len(keys)} {problem}, the first {keys[0]!r}" for problem, keys in misfits.items() if keys]
        raise BundleError(f"{what} does not fit: {'; '.join(said)}")
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
