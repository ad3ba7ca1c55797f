"""The protocol of a network: a description beside its class, from which everything else is known without building it.

N: batch, C: classes, H, W: size of the input.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.spec import IMAGENET_MEAN, IMAGENET_STD, Argument
from wsi_magnet.schema import Bounds
from wsi_magnet.values import check, check_fields, describe, documented


@documented
@dataclass(frozen=True, slots=True)
class Trunk:
    """Position of the layers in a network that take published weights, an ImageNet classifier's or an encoder's."""

    prefix: str
    """Prefix of the file's own keys."""
    layers: tuple[str, ...] = ()
    """Top-level names of the file's layers in the trunk; empty: all that is below the prefix."""
    heads: tuple[str, ...] = ()
    """Top-level names of the layers that the trunk lacks; dropped from the file."""
    translate: Callable[[Mapping[str, Tensor], nn.Module], dict[str, Tensor]] | None = None
    """Tensors of a file, by the names of the trunk's layers, for a network: for files of other names. None: the names
    are the same."""
    licence: str | None = None
    """Licence and origin of the published weights, which the bundle's card repeats; None: not known."""
    required: bool = False
    """True for a trunk that learns nothing, and is of no use without published weights."""


@documented
@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """Description of a network. Raises BundleError, naming the network, for values that are not allowed."""

    name: str
    """Name by which configurations and bundles choose it."""
    build: Callable[..., nn.Module]
    """Class or function: `build(n_classes, **arguments)` is a module with fresh weights, which takes float
    (N, 3, H, W), normalised RGB, and returns logits (N, C, H, W). Its parameters after the first are the arguments of
    a configuration's `network_args`: each has a type, bool, int, float, str or one of these with `Bounds`."""
    input_multiple: int = 1
    """Required divisor of H and W; other patches are padded on the right and at the bottom, and the logits cut."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean that is subtracted from RGB / 255."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation by which the difference is then divided."""
    head: str | None = None
    """Name of the convolution that turns features into logits. Its input, (N, channels, H / s, W / s), are the features
    that other methods and alarms use; the stride s must divide 32. None: the network has no features."""
    trunk: Trunk | None = None
    """Layers that take published weights (`encoder` of a configuration); None: none do."""
    encoder: tuple[str, ...] = ()
    """Names of the layers that turn pixels into features, none of which depends on the classes: a training can slow
    them down or freeze them (`encoder_learning_rate`). Empty: it cannot."""
    unused_keys: tuple[str, ...] = ()
    """Tensors of published state dicts that the network does without, such as a classifier's last layer."""
    folds_by_name: bool = False
    """True where each layer `convN` is followed by `bnN` of the same module. For inference such pairs are folded, as
    neighbours in an `nn.Sequential` always are."""
    trainable: bool = True
    """False: its backbone can only be taken from a bundle (`train --backbone`)."""
    recordable: bool = True
    """False where its computation cannot be recorded as a CUDA graph, as when it waits for the device."""
    activation_bytes_per_px: Annotated[int, Bounds(1)] = 5000
    """Peak memory of a forward pass in float32 per pixel of a patch, for `plan`; the default is a cautious guess."""
    builds_on_meta: bool = False
    """True where `build` works on the meta device and all buffers are in the state dict: loading is quicker then."""

    def __post_init__(self) -> None:
        where = f"network {self.name!r:.60}: "
        check_fields(self, BundleError, where=where)
        if not callable(self.build):
            raise BundleError(f"{where}build is {self.build!r:.60}, not a class or function")
        if self.input_multiple < 1:
            raise BundleError(f"{where}input_multiple is {self.input_multiple}, not at least 1")
        if min(self.std) <= 0:
            raise BundleError(f"{where}std {list(self.std)} is not positive")

    @property
    def arguments(self) -> Mapping[str, inspect.Parameter]:
        """Parameters of `build` after the number of classes, with types as annotations. Raises BundleError for one
        without a type, and for those that take any number.
        """
        build = self.build.__init__ if isinstance(self.build, type) else self.build  # type: ignore[misc]
        try:
            hints = get_type_hints(build, include_extras=True)
        except Exception as error:  # names of types that are imported for the type checker alone
            raise BundleError(f"network {self.name!r}: types of build cannot be read: {error}") from error
        parameters = list(inspect.signature(self.build).parameters.values())
        if not parameters:
            raise BundleError(f"network {self.name!r}: build takes no argument, and must take the number of classes")
        for one in parameters[1:]:
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) or one.name not in hints:
                raise BundleError(f"network {self.name!r}: argument {one} of build has no name or no type of its own")
        return {one.name: one.replace(annotation=hints[one.name]) for one in parameters[1:]}

    def checked(self, given: Mapping[str, Argument]) -> dict[str, Argument]:
        """Arguments as `build` takes them. Raises BundleError for one that is unknown, missing or of another type."""
        own = self.arguments
        if unknown := sorted(given.keys() - own.keys()):
            known = ", ".join(f"{name} ({describe(one.annotation)})" for name, one in own.items()) or "none"
            raise BundleError(f"network {self.name!r} takes no {unknown[0]!r}; its arguments are: {known}")
        if missing := [n for n, one in own.items() if one.default is one.empty and n not in given]:
            raise BundleError(f"network {self.name!r} needs network_args.{missing[0]}, and it is not there")
        return {
            name: check(own[name].annotation, value, f"network_args.{name}", BundleError)
            for name, value in given.items()
        }

    def made(self, n_classes: int, given: Mapping[str, Argument]) -> nn.Module:
        """The module with fresh weights. Raises BundleError, also for what another package's `build` raises."""
        arguments = self.checked(given)
        try:
            built = self.build(n_classes, **arguments)
        except BundleError:
            raise
        except Exception as error:  # another package's code may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise BundleError(
                f"network {self.name!r} cannot be built with {n_classes} classes and network_args {arguments}: {reason}"
            ) from error
        if not isinstance(built, nn.Module):
            raise BundleError(f"network {self.name!r}: build made {built!r:.60}, not a torch.nn.Module")
        return built

    def head_of(self, network: nn.Module) -> nn.Conv2d:
        """The layer `head` of a module. Raises BundleError where it has no such convolution."""
        assert self.head is not None, self.name
        try:
            head = network.get_submodule(self.head)
        except AttributeError:
            raise BundleError(f"network {self.name!r} has no layer {self.head!r}, its head") from None
        if not isinstance(head, nn.Conv2d):
            raise BundleError(f"network {self.name!r}: its head {self.head!r} is {type(head).__name__}, not Conv2d")
        return head

    def encoder_of(self, network: nn.Module) -> tuple[nn.Module, ...]:
        """The layers `encoder` of a module. Raises BundleError where it has none of that name, or nothing else."""
        try:
            found = tuple(network.get_submodule(name) for name in self.encoder)
        except AttributeError as error:
            raise BundleError(
                f"network {self.name!r}: its encoder {list(self.encoder)} is not there: {error}"
            ) from None
        own = {id(p) for one in found for p in one.parameters()}
        if all(id(p) in own for p in network.parameters() if p.requires_grad):
            raise BundleError(f"network {self.name!r}: its encoder {list(self.encoder)} is all that it learns")
        return found

    def logits(self, network: nn.Module, x: Tensor, n_classes: int | None = None) -> Tensor:
        """Logits of patches of any size, (N, C, H, W), by a module of this kind.

        x: float (N, 3, H, W), normalised; it is padded by its outermost pixels to `input_multiple`. n_classes: None
        where they are not known. Raises BundleError for logits of another shape.
        """
        height, width = x.shape[-2:]
        below, beside = (-side % self.input_multiple for side in (height, width))
        if below or beside:
            x = F.pad(x, (0, beside, 0, below), mode="replicate")
        found: Tensor = network(x)
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        classes = shape[1] if n_classes is None and len(shape) == 4 else n_classes
        if shape != (wanted := [len(x), classes, *x.shape[-2:]]):
            raise BundleError(f"network {self.name!r} returned {shape} for {list(x.shape)}, and must return {wanted}")
        return found[..., :height, :width] if below or beside else found


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and deviation of the pixels that a network takes."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def of(self, rgb: Tensor) -> Tensor:
        """Float (N, 3, H, W), 0 to 1, less the mean and over the deviation, in place."""
        mean, std = (torch.tensor(values, device=rgb.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return rgb.sub_(mean).div_(std)


def probe(info: NetworkInfo, network: nn.Module, n_classes: int, side_px: int) -> None:
    """Compute one patch of noise by another package's module, with whatever its code raises as a BundleError.

    side_px: of the patch, a multiple of the network's `input_multiple`.
    """
    x = torch.rand(1, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))
    network.eval()
    try:
        with torch.inference_mode():
            found = info.logits(network, x, n_classes)
    except BundleError:
        raise
    except Exception as error:  # another package's code may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise BundleError(f"network {info.name!r} fails on {list(x.shape)}: {reason}") from error
    if not found.isfinite().all():
        raise BundleError(f"network {info.name!r} returned NaN or infinity for {list(x.shape)}")
