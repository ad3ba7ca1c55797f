"""The losses, each against a slow and obvious twin; what is not labelled teaches nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsi_magnet.methods.losses import allowed_classes, class_weights, focal_loss, guided_loss, hard_loss, set_loss

CLASSES = 3
FULL = (1 << CLASSES) - 1


def made(seed: int, height: int = 3, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (2, C, H, W), sets (2, H, W) of all kinds, and probabilities of a guide."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(0, 3, (2, CLASSES, height, width)), dtype=torch.float32, requires_grad=True)
    sets = torch.tensor(rng.integers(1, FULL + 1, (2, height, width)), dtype=torch.int32)
    guide = torch.tensor(rng.normal(0, 2, (2, CLASSES, height, width)), dtype=torch.float32).softmax(dim=1)
    return logits, sets, guide


def pixels(logits: Tensor, sets: Tensor) -> list[tuple[np.ndarray, list[int], tuple[int, int, int]]]:
    """Probabilities, allowed classes and place of each labelled pixel."""
    p = logits.detach().double().softmax(dim=1).numpy()
    found = []
    for n, y, x in np.ndindex(*sets.shape):
        allowed = [i for i in range(CLASSES) if int(sets[n, y, x]) >> i & 1]
        if len(allowed) < CLASSES:
            found.append((p[n, :, y, x], allowed, (n, y, x)))
    return found


def weight_of(allowed: list[int], weights: Tensor | None) -> float:
    return 1.0 if weights is None else float(np.mean([weights[i].item() for i in allowed]))


def slow_set_loss(logits: Tensor, sets: Tensor, weights: Tensor | None) -> float:
    counted = [(-np.log(p[allowed].sum()), weight_of(allowed, weights)) for p, allowed, _ in pixels(logits, sets)]
    return float(sum(loss * w for loss, w in counted) / sum(w for _, w in counted))


def slow_guided_loss(logits: Tensor, sets: Tensor, guide: Tensor, weights: Tensor | None) -> float:
    total = weight = 0.0
    for p, allowed, (n, y, x) in pixels(logits, sets):
        wanted = guide[n, allowed, y, x].double().numpy() + 1e-3
        wanted = wanted / wanted.sum()
        own = weight_of(allowed, weights)
        total += own * -sum(t * np.log(p[i]) for t, i in zip(wanted, allowed, strict=True))
        weight += own
    return total / weight


def slow_hard_loss(logits: Tensor, sets: Tensor, below: float, kept: int) -> float:
    losses = sorted((-np.log(p[allowed].sum()) for p, allowed, _ in pixels(logits, sets)), reverse=True)
    hard = [one for i, one in enumerate(losses) if i < kept or one > -np.log(below)]
    return float(np.mean(hard))


some_weights = st.sampled_from([None, torch.tensor([1.0, 0.5, 3.0])])


@given(st.integers(0, 10**6), some_weights)
def test_the_set_loss_is_what_its_twin_says(seed: int, weights: Tensor | None) -> None:
    logits, sets, _ = made(seed)
    assert set_loss(logits, sets, weights).item() == pytest.approx(slow_set_loss(logits, sets, weights), rel=1e-4)


@given(st.integers(0, 10**6), some_weights)
def test_the_guided_loss_is_what_its_twin_says(seed: int, weights: Tensor | None) -> None:
    logits, sets, guide = made(seed)
    expected = slow_guided_loss(logits, sets, guide, weights)
    assert guided_loss(logits, sets, guide, weights).item() == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 10**6), st.floats(0.05, 0.95), st.integers(1, 40))
def test_the_hard_loss_is_what_its_twin_says(seed: int, below: float, kept: int) -> None:
    logits, sets, _ = made(seed)
    expected = slow_hard_loss(logits, sets, below, kept)
    assert hard_loss(logits, sets, below=below, kept=kept).item() == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 3.0]), some_weights)
def test_the_focal_loss_is_what_its_twin_says(seed: int, gamma: float, weights: Tensor | None) -> None:
    logits, sets, _ = made(seed)
    found = [(p[allowed].sum(), weight_of(allowed, weights)) for p, allowed, _ in pixels(logits, sets)]
    expected = sum(w * -np.log(p) * (1 - p) ** gamma for p, w in found) / sum(w for _, w in found)
    assert focal_loss(logits, sets, gamma, weights).item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_one_allowed_class_is_cross_entropy() -> None:
    logits, _, _ = made(0)
    truth = torch.randint(CLASSES, (2, 3, 4))
    expected = torch.nn.functional.cross_entropy(logits, truth)
    torch.testing.assert_close(set_loss(logits, (1 << truth).int()), expected)


def test_a_guided_loss_of_one_allowed_class_is_the_set_loss() -> None:
    logits, _, guide = made(1)
    sets = (1 << torch.randint(CLASSES, (2, 3, 4))).int()
    torch.testing.assert_close(guided_loss(logits, sets, guide), set_loss(logits, sets))


def losses_of(logits: Tensor, sets: Tensor, guide: Tensor) -> dict[str, Tensor]:
    return {
        "set": set_loss(logits, sets),
        "weighed": set_loss(logits, sets, torch.tensor([1.0, 2.0, 3.0])),
        "guided": guided_loss(logits, sets, guide),
        "hard": hard_loss(logits, sets, below=0.7, kept=5),
        "focal": focal_loss(logits, sets, 3),
    }


@pytest.mark.parametrize("name", ["set", "weighed", "guided", "hard", "focal"])
def test_what_is_not_labelled_gives_no_gradient(name: str) -> None:
    logits, sets, guide = made(2)
    sets[:, :, 1] = FULL
    losses_of(logits, sets, guide)[name].backward()
    assert logits.grad is not None
    assert (logits.grad[..., 1] == 0).all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["set", "weighed", "guided", "hard", "focal"])
def test_nothing_labelled_is_no_loss_and_a_finite_gradient(name: str) -> None:
    logits, sets, guide = made(3)
    loss = losses_of(logits, torch.full_like(sets, FULL), guide)[name]
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", ["set", "weighed", "guided", "hard", "focal"])
def test_logits_that_are_very_sure_and_wrong_give_a_finite_loss(name: str) -> None:
    logits = torch.tensor([200.0, -200.0, -200.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2).clone().requires_grad_()
    sets, guide = torch.full((1, 2, 2), 0b110, dtype=torch.int32), torch.full((1, 3, 2, 2), 1 / 3)
    loss = losses_of(logits, sets, guide)[name]
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_the_set_loss_does_not_care_which_allowed_class_it_is() -> None:
    one = torch.tensor([2.0, -1.0, 0.0]).view(1, 3, 1, 1)
    other = torch.tensor([-1.0, 2.0, 0.0]).view(1, 3, 1, 1)
    sets = torch.full((1, 1, 1), 0b011, dtype=torch.int32)
    torch.testing.assert_close(set_loss(one, sets), set_loss(other, sets))


def test_bits_are_classes() -> None:
    sets = torch.tensor([[[0b001, 0b110]]], dtype=torch.int32)
    assert allowed_classes(sets, 3)[0, :, 0].T.tolist() == [[True, False, False], [False, True, True]]


def test_the_highest_bit_of_31_classes_is_a_class() -> None:
    assert allowed_classes(
        torch.tensor([[[1 << 30]]], dtype=torch.int32), 31
    ).flatten().nonzero().flatten().tolist() == [30]


@given(
    st.lists(st.integers(0, 10**7), min_size=2, max_size=8).filter(any),
    st.floats(0.01, 2),
)
def test_class_weights_are_1_on_average_over_the_pixels(counts: list[int], power: float) -> None:
    found = class_weights(np.array(counts, np.float64), power)
    assert found is not None
    assert (found * counts).sum() / sum(counts) == pytest.approx(1, rel=1e-4)


def test_weights_fall_with_the_pixels_and_are_0_without_any() -> None:
    found = class_weights(np.array([100.0, 25.0, 0.0]), 0.5)
    assert found is not None
    assert found[1] == pytest.approx(2 * found[0])
    assert found[2] == 0


def test_no_power_is_no_weights() -> None:
    assert class_weights(np.array([3.0, 4.0]), 0) is None
