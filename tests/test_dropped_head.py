from __future__ import annotations

import pytest
import torch
from torch import Tensor

from idarts_nni import dropped_head, native
from idarts_nni.dropped_head import dropped_linear_cross_entropy
from idarts_nni.head import linear_cross_entropy

TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 1e-6}}
STEPS, BATCH, WIDTH, CLASSES = 5, 4, 12, 29


@pytest.fixture(params=["compiled", "plain torch"])
def column_by_column(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip zeros at any size, by both ways of taking a softmax."""
    monkeypatch.setattr(dropped_head, "LEAST_WORK", 0)
    if request.param == "plain torch":
        monkeypatch.setattr(native, "obstacle", lambda tensor: "switched off by the test")
    elif reason := native.obstacle(torch.zeros(1)):
        pytest.skip(reason)


def layer(dtype: torch.dtype, rate: float = 0.75) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(STEPS, BATCH, WIDTH), (CLASSES, WIDTH), (CLASSES,)]
    tensors = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    mask = torch.empty(BATCH, WIDTH, dtype=dtype).bernoulli_(1 - rate, generator=generator) / (1 - rate)
    return tensors, mask, torch.randint(CLASSES, (STEPS, BATCH), generator=generator)


def whole(states: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return linear_cross_entropy((states * mask).flatten(0, 1), weight, bias, targets.flatten())


@pytest.mark.usefixtures("column_by_column")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_loss_and_gradients_equal_those_of_the_whole_product(dtype: torch.dtype) -> None:
    tensors, mask, targets = layer(dtype)
    assert dropped_head.pays(tensors[0], mask, tensors[1])
    expected = whole(tensors[0], mask, *tensors[1:], targets)
    actual = dropped_linear_cross_entropy(tensors[0], mask, *tensors[1:], targets)
    torch.testing.assert_close(actual, expected, **TOLERANCE[dtype])
    grads = [torch.autograd.grad(2.0 * loss, tensors) for loss in (actual, expected)]
    torch.testing.assert_close(*grads, **TOLERANCE[dtype])
    assert grads[0][1].is_contiguous()


@pytest.mark.usefixtures("column_by_column")
def test_a_column_that_keeps_nothing_is_left_to_the_bias() -> None:
    (states, weight, bias), mask, targets = layer(torch.float64)
    mask[1] = 0.0
    loss = dropped_linear_cross_entropy(states, mask, weight, bias, targets)
    torch.testing.assert_close(loss, whole(states, mask, weight, bias, targets))
    (grad,) = torch.autograd.grad(loss, states)
    assert not grad[:, 1].any()


@pytest.mark.usefixtures("column_by_column")
def test_only_gradients_that_are_needed_are_made() -> None:
    (states, weight, bias), mask, targets = layer(torch.float64)
    dropped_linear_cross_entropy(states, mask, weight.detach(), bias.detach(), targets).backward()
    assert weight.grad is None and bias.grad is None
    (expected,) = torch.autograd.grad(whole(states, mask, weight, bias, targets), states)
    torch.testing.assert_close(states.grad, expected)
    (grad,) = torch.autograd.grad(dropped_linear_cross_entropy(states.detach(), mask, weight, None, targets), weight)
    (expected,) = torch.autograd.grad(whole(states.detach(), mask, weight, None, targets), weight)
    torch.testing.assert_close(grad, expected)


@pytest.mark.usefixtures("column_by_column")
def test_bfloat16_products_stay_close_to_full_precision() -> None:
    tensors, mask, targets = layer(torch.float32)
    expected = torch.autograd.grad(whole(tensors[0], mask, *tensors[1:], targets), tensors)
    with torch.autocast("cpu", torch.bfloat16):
        loss = dropped_linear_cross_entropy(tensors[0], mask, *tensors[1:], targets)
    for grad, reference in zip(torch.autograd.grad(loss, tensors), expected, strict=True):
        assert grad.dtype == torch.float32
        assert (grad - reference).norm() < 2e-2 * reference.norm()


@pytest.mark.usefixtures("column_by_column")
def test_without_gradients_and_with_few_zeros_the_whole_product_is_taken() -> None:
    (states, weight, bias), mask, targets = layer(torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            dropped_linear_cross_entropy(states, mask, weight, bias, targets),
            whole(states, mask, weight, bias, targets),
        )
    assert not dropped_head.pays(states, torch.ones_like(mask), weight)


def test_small_products_are_taken_whole() -> None:
    (states, weight, _), mask, _ = layer(torch.float32)
    assert not dropped_head.pays(states, mask, weight)


@pytest.mark.usefixtures("column_by_column")
def test_a_second_backward_pass_and_a_class_that_does_not_exist_are_refused() -> None:
    (states, weight, bias), mask, targets = layer(torch.float32)
    loss = dropped_linear_cross_entropy(states, mask, weight, bias, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        loss.backward()
    targets[2, 1] = CLASSES
    with pytest.raises(ValueError, match=f"allowed: 0 to {CLASSES - 1}"):
        dropped_linear_cross_entropy(states, mask, weight, bias, targets)
