"""The largest Hessian eigenvalue against the exact one."""

import math

import pytest
import torch

from idarts_nni.hessian import largest_eigenvalue
from tests.test_second_order import SPACE, Problem


@pytest.mark.parametrize("size", [4, 40])
def test_of_a_quadratic_form_it_is_its_matrix_s(size):
    torch.manual_seed(0)
    values = torch.linspace(-9.0, 3.0, size, dtype=torch.float64)  # the largest in size is negative
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]
    matrix = basis @ values.diag() @ basis.T
    parts = [torch.zeros(size - 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)]

    def gradient():
        product = matrix @ torch.cat([part.flatten() for part in parts])
        return [product[:-1], product[-1:].view(1, 1)]

    assert largest_eigenvalue(gradient, parts) == pytest.approx(3.0, rel=0.01)
    assert all(not part.any() for part in parts), "the parameters are put back"


@pytest.mark.parametrize("relaxation", ["node", "edge"])
def test_of_a_cell_s_loss_it_is_that_of_exact_double_backward(relaxation):
    problem = Problem(relaxation)

    def loss(logits):
        problem.logits.data, saved = logits.detach(), problem.logits.data
        try:
            return problem.loss(1)
        finally:
            problem.logits.data = saved

    def gradient():
        return torch.autograd.grad(problem.loss(1), [problem.logits])

    before = problem.logits.detach().clone()
    found = largest_eigenvalue(gradient, [problem.logits])
    assert torch.equal(problem.logits, before)
    flat = torch.autograd.grad(problem.loss(1), problem.logits, create_graph=True)[0].flatten()
    rows = [torch.autograd.grad(value, problem.logits, retain_graph=True)[0].flatten() for value in flat]
    assert len(rows) == SPACE.num_pairs * 4 > 12, "the iteration, not the whole matrix"
    assert found == pytest.approx(torch.linalg.eigvalsh(torch.stack(rows))[-1].item(), rel=0.01)


@pytest.mark.parametrize("size", [2, 180])
@pytest.mark.parametrize("good", [0, 7])
def test_a_gradient_that_is_not_finite_gives_nan(size, good):
    parameter, calls = torch.zeros(size), iter(range(10_000))

    def gradient():
        return [parameter.clone() if next(calls) < good and size > 2 else torch.full((size,), math.nan)]

    assert math.isnan(largest_eigenvalue(gradient, [parameter]))
    assert not parameter.any()


@pytest.mark.parametrize("size", [4, 180])
def test_where_nothing_bends_it_is_zero(size):
    parameter = torch.zeros(size)
    assert largest_eigenvalue(lambda: [torch.ones(size)], [parameter]) == 0.0
