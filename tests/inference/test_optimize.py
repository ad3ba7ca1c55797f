"""The form for use: the same function as the network that was trained, which stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.few import slow_except
from wsi_magnet.inference.optimize import CudaConv2d, PointwiseConv2d, inference_form
from wsi_magnet.nets.layers import Fused, conv_relu, conv_sum_relu
from wsi_magnet.nets.registry import build_network, build_refiner

CPU = torch.device("cpu")
N_CLASSES = 5

Call = Callable[[nn.Module], Tensor]

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(
    scope="module", params=slow_except(["small", "fpn", "refiner"], ["small", "fpn", "psp", "hrnet18+ocr", "refiner"])
)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """Each that a bundle may hold, with statistics that folding cannot leave out unseen."""
    torch.manual_seed(0)
    name = request.param
    made = build_refiner("magnet", N_CLASSES) if name == "refiner" else build_network(name, N_CLASSES)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.6, 1)
            nn.init.normal_(layer.bias, 0, 0.05)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, 0, 0.05)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def call(network: nn.Module) -> Call:
    """Gives a network the same input each time, and returns its logits."""
    torch.manual_seed(1)
    if hasattr(network, "receptive_radius_px"):
        fine, coarse = torch.randn(2, 2, N_CLASSES, 70, 30).mul(2).softmax(dim=2)
        return lambda one: one(fine=fine.to(_place(one)), coarse=coarse.to(_place(one)))
    image = torch.randn(2, 3, 64, 96)
    return lambda one: one(image.to(_place(one)))


def _place(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def logits(network: nn.Module, call: Call) -> Tensor:
    with torch.inference_mode():
        return call(network).float().cpu()


def beside(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest logit."""
    assert found.shape == expected.shape
    assert expected.std() > 0
    return float((found - expected).abs().max() / expected.abs().max())


def test_logits_are_those_of_the_plain_network(network: nn.Module, call: Call) -> None:
    assert beside(logits(inference_form(network, CPU, torch.float32), call), logits(network, call)) < 1e-4


def test_bfloat16_comes_near(network: nn.Module, call: Call) -> None:
    form = inference_form(network, CPU, torch.bfloat16)
    assert {m.weight.dtype for m in form.modules() if isinstance(m, nn.Conv2d)} == {torch.bfloat16}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = logits(form, call)
    assert beside(found, logits(network, call)) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_network_itself_stays_as_it_is(network: nn.Module, call: Call, dtype: torch.dtype, frozen: bool) -> None:
    """Whatever becomes of the form; it shares the memory of frozen weights, in which nothing is changed in place."""
    own = copy.deepcopy(network).requires_grad_(not frozen)
    state = {key: tensor.clone() for key, tensor in own.state_dict().items()}
    kinds, expected = [type(m) for m in own.modules()], logits(network, call)
    form = inference_form(own, CPU, dtype)
    if not frozen:
        with torch.inference_mode():
            for parameter in form.parameters():
                parameter.zero_()
    form.to("meta")
    assert [type(m) for m in own.modules()] == kinds
    after = own.state_dict()
    assert after.keys() == state.keys()
    for key, tensor in state.items():
        assert after[key].dtype == tensor.dtype
        assert after[key].stride() == tensor.stride()
        assert torch.equal(after[key], tensor)
    assert torch.equal(logits(own, call), expected)


def test_what_takes_time_is_exchanged(network: nn.Module) -> None:
    form = inference_form(network, CPU, torch.float32)
    convolutions = [m for m in form.modules() if isinstance(m, nn.Conv2d)]
    pointwise = [m for m in convolutions if m.kernel_size == m.stride == (1, 1)]
    assert pointwise
    assert all(isinstance(m, PointwiseConv2d) for m in pointwise)
    assert all(type(m) is nn.Conv2d for m in convolutions if m not in pointwise)
    assert not [m for m in form.modules() if isinstance(m, nn.BatchNorm2d) and m is not getattr(form, "bn0", None)]
    assert not [m for m in form.modules() if m.training and not isinstance(m, nn.Identity)]


# ---- single convolutions -----------------------------------------------------------------------------------------


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 1},
    "without bias": {"kernel_size": 1, "bias": False},
    "with a stride": {"kernel_size": 1, "stride": 2},
    "in groups": {"kernel_size": 1, "groups": 2},
    "padded": {"kernel_size": 1, "padding": 1},
    "same": {"kernel_size": 1, "padding": "same"},
    "3 x 3": {"kernel_size": 3, "padding": 1},
    "3 x 3, dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "3 x 3, mirrored": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "3 x 3, same": {"kernel_size": 3, "padding": "same"},
    "3 x 1": {"kernel_size": (3, 1), "stride": (2, 1), "padding": (1, 0)},
}


def one_convolution(kind: str, outputs: int = 6) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(4, outputs, **KINDS[kind])).eval().requires_grad_(False)


@pytest.mark.parametrize("side", [1, 2])
def test_a_1_x_1_convolution_of_few_pixels(side: int) -> None:
    network, x = one_convolution("plain"), torch.randn(2, 4, side, 1)
    with torch.inference_mode():
        torch.testing.assert_close(inference_form(network, CPU, torch.float32)(x), network(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [3, 17])
def test_any_convolution_stays_the_same_function(kind: str, side: int) -> None:
    network, x = one_convolution(kind), torch.randn(2, 4, side, side + 1)
    form = inference_form(network, CPU, torch.float32)
    for given in (x, x.contiguous(memory_format=torch.channels_last), x[..., 1:]):
        with torch.inference_mode():
            torch.testing.assert_close(form(given), network(given))


class Recorded(nn.Conv2d):
    """A convolution that can do more, and says that it was asked to."""

    asked = ""

    def with_relu(self, x: Tensor) -> Tensor:
        """See `Fused`."""
        self.asked += "relu "
        return self(x).relu()  # type: ignore[no-any-return]

    def with_sum(self, x: Tensor, kept: Tensor) -> Tensor:
        """See `Fused`."""
        self.asked += "sum "
        return (self(x) + kept).relu()  # type: ignore[no-any-return]


def test_what_can_do_more_is_asked_to() -> None:
    convolution, x, kept = Recorded(3, 4, 1), torch.randn(1, 3, 5, 5), torch.randn(1, 4, 5, 5)
    assert isinstance(convolution, Fused)
    never = nn.BatchNorm2d(99)  # would fail on four channels
    assert torch.equal(conv_relu(convolution, never, x), convolution(x).relu())
    assert convolution.asked.split() == ["relu"]
    assert torch.equal(conv_sum_relu(convolution, never, x, kept), (convolution(x) + kept).relu())
    assert convolution.asked.split() == ["relu", "sum"]


def test_what_cannot_is_done_step_by_step() -> None:
    convolution, normalisation = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).eval()
    nn.init.normal_(normalisation.bias)
    x, kept = torch.randn(1, 3, 5, 5), torch.randn(1, 4, 5, 5)
    assert not isinstance(convolution, Fused)
    assert not isinstance(PointwiseConv2d(3, 4, 1), Fused)
    before = x.clone(), kept.clone()
    normalised = normalisation(convolution(x))
    assert torch.equal(conv_relu(convolution, normalisation, x), normalised.relu())
    assert torch.equal(conv_sum_relu(convolution, normalisation, x, kept), (normalised + kept).relu())
    assert torch.equal(x, before[0])
    assert torch.equal(kept, before[1])


# ---- on a GPU ----------------------------------------------------------------------------------------------------


@pytest.fixture
def exact() -> Iterator[None]:
    """Float32 is not shortened within a test."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


SHAPES: dict[str, dict[str, Any]] = {
    "1 x 1": {"kernel_size": 1},
    "1 x 1, without bias": {"kernel_size": 1, "bias": False},
    "3 x 3": {"kernel_size": 3, "padding": 1},
    "3 x 3, stride 2": {"kernel_size": 3, "padding": 1, "stride": 2},
    "3 x 3, dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "7 x 7": {"kernel_size": 7, "padding": 3, "stride": 2},
}


@needs_cuda
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [(8, 16), (18, 36), (3, 64), (10, 5), (64, 3)])
def test_a_gpus_convolution_is_the_plain_one(channels: tuple[int, int], shape: str, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    plain = nn.Conv2d(*channels, **SHAPES[shape]).requires_grad_(False)
    form = inference_form(nn.Sequential(plain), torch.device("cuda"), dtype)[0]  # type: ignore[index]
    assert isinstance(form, CudaConv2d)
    assert isinstance(form, Fused)
    x = torch.randn(2, channels[0], 20, 22)
    expected = F.conv2d(x, plain.weight, plain.bias, plain.stride, plain.padding, plain.dilation)
    kept = torch.randn_like(expected)
    most = 1e-5 if dtype is torch.float32 else 5e-3
    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.float16, enabled=dtype is torch.float16):
        assert beside(form(x.cuda()).float().cpu(), expected) < most
        assert beside(form.with_relu(x.cuda()).float().cpu(), expected.relu()) < most
        assert beside(form.with_sum(x.cuda(), kept.cuda()).float().cpu(), (expected + kept).relu()) < most


@needs_cuda
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("kind", KINDS)
def test_any_convolution_stays_the_same_function_on_a_gpu(kind: str) -> None:
    network, x = one_convolution(kind), torch.randn(2, 4, 18, 17)
    form = inference_form(network, torch.device("cuda"), torch.float32)
    with torch.inference_mode():
        assert beside(form(x.cuda()).cpu(), network(x)) < 1e-5


@needs_cuda
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-3), (torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_networks_compute_the_same_on_a_gpu(network: nn.Module, call: Call, dtype: torch.dtype, most: float) -> None:
    form = inference_form(network, torch.device("cuda"), dtype)
    with torch.autocast("cuda", dtype=dtype, enabled=dtype is not torch.float32, cache_enabled=False):
        found = logits(form, call)
    assert beside(found, logits(network, call)) < most
