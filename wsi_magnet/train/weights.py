"""Weights that a stage of a training learns, apart from those that the network has frozen.

Frozen weights may be gigabytes and never change, so they are in memory once, and in no checkpoint: a training that
resumes has them from the network, as when it began.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wsi_magnet.errors import TrainingError
from wsi_magnet.nets.frozen import learned_keys

State = dict[str, Tensor]


class LearnedWeights:
    """The part of a module's state dict that training changes; which part that is, is decided at the beginning."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._keys = module, learned_keys(module)
        self.buffers = {key for key, _ in module.named_buffers()}
        """Keys of buffers, those outside the state dict included."""
        self._digest: str | None = None

    def state(self) -> State:
        """The tensors themselves, by their keys."""
        return {key: one.detach() for key, one in self._module.state_dict().items() if key in self._keys}

    def copy(self) -> State:
        """Copies of them on the CPU."""
        return {key: one.cpu().clone() for key, one in self.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace their values. Raises TrainingError for a state of another network."""
        if wrong := self._keys ^ state.keys():
            raise TrainingError(f"weights do not fit the network: {min(wrong)!r} is in one of them only; use --restart")
        self._module.load_state_dict(state, strict=False)

    @contextmanager
    def replaced(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Context in which they have other values."""
        own = self.copy()
        self.load(state)
        try:
            yield
        finally:
            self.load(own)

    def frozen_digest(self) -> str:
        """SHA-256 of the frozen weights, "" where there are none."""
        if self._digest is None:
            digest, frozen = hashlib.sha256(), 0
            for key, one in sorted(self._module.state_dict().items()):
                if key not in self._keys:
                    digest.update(key.encode())
                    digest.update(one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
                    frozen += 1
            self._digest = digest.hexdigest() if frozen else ""
        return self._digest


class MovingAverage:
    """Moving average of the learned weights and of the statistics beside them."""

    def __init__(self, learned: LearnedWeights, decay: float) -> None:
        """decay: share of the average that remains at a step; 0: it is always the last weights."""
        self._learned, self._decay = learned, decay
        self._count = torch.zeros((), dtype=torch.long)
        self.weights: State = {key: one.clone() for key, one in learned.state().items()}
        """The average, on the device of the weights."""

    def statistics(self) -> list[Tensor]:
        """The averages of buffers, such as the running means of batch normalisation."""
        return [one for key, one in self.weights.items() if key in self._learned.buffers]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        now = self._learned.state()
        if self._count == 0:
            for key, one in self.weights.items():
                one.copy_(now[key])
        else:
            whole = [key for key, one in self.weights.items() if not one.is_floating_point()]
            for key in whole:
                self.weights[key].copy_(self.weights[key] * self._decay + now[key] * (1 - self._decay))
            floats = [key for key in self.weights if key not in set(whole)]
            torch._foreach_lerp_([self.weights[key] for key in floats], [now[key] for key in floats], 1 - self._decay)
        self._count += 1

    def copy(self) -> State:
        """A copy of the average on the CPU."""
        return {key: one.cpu().clone() for key, one in self.weights.items()}

    def state_dict(self) -> State:
        """For a checkpoint."""
        return {"n_averaged": self._count, **{f"module.{key}": one for key, one in self.weights.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """From a checkpoint."""
        self._count = state["n_averaged"].clone()
        for key, one in self.weights.items():
            one.copy_(state[f"module.{key}"])
