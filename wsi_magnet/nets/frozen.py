"""Weights that a network has frozen: shared by its copies, since they never change."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def copy_sharing_frozen(module: Module) -> Module:
    """A copy that has its own parameters and buffers, but shares the memory of the parameters that are frozen.

    Moving or converting either leaves the other as it is; only a change in place would be seen by both.
    """
    frozen = [one for one in module.parameters() if not one.requires_grad]
    shared = {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in frozen}
    return copy.deepcopy(module, shared)


def learned_keys(module: nn.Module) -> set[str]:
    """Keys of the state dict that training can change: all but those of frozen parameters."""
    frozen = {key for key, one in module.named_parameters(remove_duplicate=False) if not one.requires_grad}
    return module.state_dict().keys() - frozen
