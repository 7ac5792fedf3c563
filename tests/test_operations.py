import pytest
import torch

from idarts_nni.operations import OPERATIONS, ZEROIZE, is_operation_name, operation_function


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_elementwise_and_differentiable(name):
    function = operation_function(name)
    x = torch.linspace(-3, 3, 24, dtype=torch.float64).reshape(2, 3, 4).requires_grad_()
    y = function(x)
    assert y.shape == x.shape
    one_by_one = torch.stack([function(value) for value in x.flatten()])
    torch.testing.assert_close(y.flatten(), one_by_one)
    y.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_operations_are_the_functions_they_are_named_for():
    x = torch.tensor([-1.0, 0.0, 2.0])
    expected = {
        "tanh": (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
        "relu": torch.tensor([0.0, 0.0, 2.0]),
        "sigmoid": 1 / (1 + (-x).exp()),
        "identity": x,
        "silu": x / (1 + (-x).exp()),
        "gelu": x * (1 + torch.erf(x / 2**0.5)) / 2,
    }
    assert set(expected) == set(OPERATIONS)
    for name, values in expected.items():
        torch.testing.assert_close(operation_function(name)(x), values)


def test_own_function_is_found_by_its_import_path():
    assert operation_function("torch.nn.functional.softplus") is torch.nn.functional.softplus


@pytest.mark.parametrize(
    "name", [ZEROIZE, "unknown", "no.such.module.swish", "torch.no_such", "os.sep", "a b.c", "", "torch."]
)
def test_name_behind_which_is_no_function_is_an_error_that_names_it(name):
    with pytest.raises(ValueError, match=f"{name!r}"):
        operation_function(name)


@pytest.mark.parametrize("name, expected", [
    ("zeroize", True), ("tanh", True), ("my.swish", True), ("swish", False), (3, False), (None, False),
    ("a.b()", False), ("__import__('os').x", False), (".tanh", False),
])  # fmt: skip
def test_operation_name_is_a_known_word_or_an_import_path(name, expected):
    assert is_operation_name(name) is expected
