from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from idarts_nni import head, native
from idarts_nni.head import linear_cross_entropy, linear_nll_sum

TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 1e-6}}


def layer(dtype: torch.dtype, rows: int = 13, classes: int = 29) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(rows)
    shapes = [(rows, 7), (classes, 7), (classes,)]
    tensors = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    return tensors, torch.randint(classes, (rows,), generator=generator)


@pytest.fixture(params=["compiled", "plain torch"])
def softmax(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain torch":
        monkeypatch.setattr(head.native, "obstacle", lambda tensor: "switched off by the test")
    elif reason := native.obstacle(torch.zeros(1)):
        pytest.skip(reason)


@pytest.mark.usefixtures("softmax")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [1, 13])
@pytest.mark.parametrize("chunk", [1, 5, 512])
def test_loss_and_gradients_equal_those_of_linear_then_cross_entropy(dtype: torch.dtype, rows: int, chunk: int) -> None:
    (hidden, weight, bias), targets = layer(dtype, rows)
    expected = cross_entropy(hidden @ weight.T + bias, targets)
    expected_grads = torch.autograd.grad(3.0 * expected, (hidden, weight, bias))
    actual = linear_cross_entropy(hidden, weight, bias, targets, chunk=chunk)
    torch.testing.assert_close(actual, expected, **TOLERANCE[dtype])
    actual_grads = torch.autograd.grad(3.0 * actual, (hidden, weight, bias))
    torch.testing.assert_close(actual_grads, expected_grads, **TOLERANCE[dtype])


@pytest.mark.usefixtures("softmax")
def test_frozen_weights_get_no_gradient_and_hidden_gets_the_same() -> None:
    (hidden, weight, bias), targets = layer(torch.float64)
    (expected,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, bias, targets), hidden)
    linear_cross_entropy(hidden, weight.detach(), bias.detach(), targets).backward()
    assert weight.grad is None and bias.grad is None
    torch.testing.assert_close(hidden.grad, expected)


@pytest.mark.usefixtures("softmax")
def test_evaluation_returns_the_sum_of_losses_and_needs_no_graph() -> None:
    (hidden, weight, bias), targets = layer(torch.float64)
    total = linear_nll_sum(hidden, weight, bias, targets, chunk=4)
    assert not total.requires_grad
    torch.testing.assert_close(total, cross_entropy(hidden @ weight.T + bias, targets, reduction="sum").detach())
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, bias, targets), total / len(targets))


@pytest.mark.usefixtures("softmax")
def test_a_layer_without_bias_equals_one_with_a_bias_of_zero() -> None:
    (hidden, weight, bias), targets = layer(torch.float64)
    loss = linear_cross_entropy(hidden, weight, None, targets)
    torch.testing.assert_close(loss, linear_cross_entropy(hidden, weight, torch.zeros_like(bias), targets))


@pytest.mark.usefixtures("softmax")
def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    (hidden, weight, bias), targets = layer(torch.float32)
    loss = linear_cross_entropy(1e3 * hidden, weight, bias, targets)
    torch.testing.assert_close(loss, cross_entropy(1e3 * hidden @ weight.T + bias, targets))


@pytest.mark.usefixtures("softmax")
def test_not_a_number_in_the_hidden_states_reaches_the_loss() -> None:
    (hidden, weight, bias), targets = layer(torch.float32)
    with torch.no_grad():
        hidden[3, 2] = torch.nan
    assert linear_cross_entropy(hidden, weight, bias, targets).isnan()


@pytest.mark.usefixtures("softmax")
def test_bfloat16_products_stay_close_to_full_precision() -> None:
    (hidden, weight, bias), targets = layer(torch.float32, rows=64)
    expected = linear_cross_entropy(hidden, weight, bias, targets)
    expected_grads = torch.autograd.grad(expected, (hidden, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        actual = linear_cross_entropy(hidden, weight, bias, targets)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=2e-2, atol=0)
    for grad, reference in zip(torch.autograd.grad(actual, (hidden, weight, bias)), expected_grads, strict=True):
        assert grad.dtype == torch.float32
        assert (grad - reference).norm() < 2e-2 * reference.norm()


def test_a_second_backward_pass_is_refused() -> None:
    (hidden, weight, bias), targets = layer(torch.float32)
    loss = linear_cross_entropy(hidden, weight, bias, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        loss.backward()


@pytest.mark.parametrize("bad", [-1, 29])
def test_a_class_that_does_not_exist_is_refused(bad: int) -> None:
    (hidden, weight, bias), targets = layer(torch.float32)
    targets[2] = bad
    with pytest.raises(ValueError, match="allowed: 0 to 28"):
        linear_cross_entropy(hidden, weight, bias, targets)


@pytest.mark.usefixtures("softmax")
def test_targets_that_are_a_strided_view_are_read_as_such() -> None:
    (hidden, weight, bias), targets = layer(torch.float64)
    strided = torch.stack([targets, torch.zeros_like(targets)], dim=1)[:, 0]
    loss = linear_cross_entropy(hidden, weight, bias, strided)
    torch.testing.assert_close(loss, linear_cross_entropy(hidden, weight, bias, targets))


def test_classes_of_another_type_are_refused() -> None:
    (hidden, weight, bias), targets = layer(torch.float64)
    with pytest.raises(ValueError, match="int64"):
        linear_cross_entropy(hidden, weight, bias, targets.int())


def test_wrong_shapes_are_refused() -> None:
    (hidden, weight, bias), targets = layer(torch.float32)
    with pytest.raises(ValueError, match="expected"):
        linear_cross_entropy(hidden[None], weight, bias, targets)
