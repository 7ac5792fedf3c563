from collections.abc import Iterator

import pytest
import torch

from idarts_nni import matmul


@pytest.fixture(autouse=True)
def setting() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def test_the_faster_route_is_taken_only_where_its_products_are_accurate() -> None:
    if matmul.allow_fast_matmul():
        assert torch.get_float32_matmul_precision() == "medium"
        assert matmul.products_take_onednn()
    else:
        assert torch.get_float32_matmul_precision() == "highest"
    assert matmul._product_error() < matmul.FP32_ERROR


def test_products_that_round_their_operands_take_the_setting_back(monkeypatch: pytest.MonkeyPatch) -> None:
    product = torch.Tensor.__matmul__

    def rounding(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium":
            left, right = left.bfloat16().float(), right.bfloat16().float()
        return product(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    assert not matmul.allow_fast_matmul()
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_setting_of_other_devices_is_left_alone() -> None:
    assert not matmul.allow_fast_matmul("cuda")
    assert torch.get_float32_matmul_precision() == "highest"
