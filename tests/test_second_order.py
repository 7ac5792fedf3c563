"""The unrolled gradient against exact double backward, and what it leaves behind."""

from functools import partial

import pytest
import torch
from nni.nas.experiment import NasExperiment
from torch import nn

from idarts_nni import IDARTS
from idarts_nni.cell import unroll_mixed
from idarts_nni.derive import cell_probabilities
from idarts_nni.second_order import unrolled_gradients
from idarts_nni.space import CellSpace
from tests.test_strategy import Recipe, Space, evaluator

SPACE = CellSpace(3, ("zeroize", "tanh", "sigmoid", "identity"))
SIZE = 8


class Problem:
    """A cell of the search network on random sequences, fp64, in plain differentiable operators."""

    space, size, steps, batch, scale, norm = SPACE, SIZE, 4, 6, 0.4, None

    def __init__(self, relaxation="node", dtype=torch.float64, decay=0.0, rate=0.5, seed=0, **sgd):
        torch.manual_seed(seed)
        self.relaxation, space, size = relaxation, self.space, self.size
        self.logits = nn.Parameter(torch.randn(space.num_pairs, len(space.operations), dtype=dtype) * 0.3)
        shapes = ((2 * size, 2 * size), (space.num_nodes, size, 2 * size), (size, 1))
        self.weights = [nn.Parameter(torch.randn(shape, dtype=dtype) * self.scale) for shape in shapes]
        sequences = (self.steps, self.batch)
        self.data = [
            (torch.randn(*sequences, size, dtype=dtype), torch.randn(*sequences, 1, dtype=dtype)) for _ in range(2)
        ]
        self.optimizer = torch.optim.SGD(self.weights, lr=rate, weight_decay=decay, **sgd)

    def loss(self, part, weights=None):
        inputs, targets = self.data[part]
        first, nodes, out = self.weights if weights is None else weights
        edges = cell_probabilities(self.logits, self.relaxation)
        start = inputs.new_zeros(self.batch, self.size)
        states = unroll_mixed(inputs, start, first, nodes, edges, self.space, norm=self.norm)
        return nn.functional.mse_loss(states @ out, targets)

    def unrolled(self, **kwargs):
        losses = partial(self.loss, 0), partial(self.loss, 1)
        (found,) = unrolled_gradients(*losses, self.weights, [self.logits], self.optimizer, **kwargs)
        return found

    def exact(self, clip=None):
        """Differentiate through one written-out step of SGD."""
        (group,) = self.optimizer.param_groups
        gradients = torch.autograd.grad(self.loss(0), self.weights, create_graph=True)
        if clip is not None:
            norm = torch.stack([gradient.norm() for gradient in gradients]).norm().detach()
            gradients = [gradient * min(1.0, clip / (norm.item() + 1e-6)) for gradient in gradients]
        virtual = []
        for weight, gradient in zip(self.weights, gradients, strict=True):
            step = gradient + group["weight_decay"] * weight
            buffer = self.optimizer.state[weight].get("momentum_buffer")
            if group["momentum"]:
                average = step if buffer is None else group["momentum"] * buffer + (1 - group["dampening"]) * step
                step = step + group["momentum"] * average if group["nesterov"] else average
            virtual.append(weight - group["lr"] * step)
        return torch.autograd.grad(self.loss(1, virtual), self.logits)[0]

    def take_a_step(self):
        self.optimizer.zero_grad()
        self.loss(0).backward()
        self.optimizer.step()


class LargerProblem(Problem):
    """With relu, and normalised as the search network is: many units near the kink."""

    space = CellSpace(3, ("zeroize", "tanh", "relu", "sigmoid", "identity"))
    size, steps, batch, scale = 32, 8, 16, 0.15
    norm = nn.BatchNorm1d(32, affine=False, track_running_stats=False)


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("relaxation", ["node", "edge"])
@pytest.mark.parametrize(
    "sgd",
    [
        {},
        {"decay": 0.1},
        {"momentum": 0.9, "decay": 0.01},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True},
    ],
)
def test_the_gradient_is_that_of_exact_double_backward(relaxation, sgd):
    problem = Problem(relaxation, **sgd)
    for _ in range(3):  # with and without a momentum buffer
        assert relative_error(problem.unrolled(), problem.exact()) < 1e-4
        problem.take_a_step()


def test_the_second_order_term_is_no_trifle():
    problem = Problem()
    first_order = torch.autograd.grad(problem.loss(1), problem.logits)[0]
    assert relative_error(first_order, problem.exact()) > 0.05, "else the test above would show little"


def test_the_error_falls_with_the_square_of_the_radius():
    problem = Problem()
    errors = [relative_error(problem.unrolled(radius=radius), problem.exact()) for radius in (1e-1, 1e-2, 1e-3)]
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.1) and errors[2] == pytest.approx(errors[1] / 100, rel=0.1)
    assert errors[2] < 1e-7


@pytest.mark.parametrize("relaxation", ["node", "edge"])
def test_with_relu_a_wide_difference_is_nearer_than_a_narrow_one(relaxation):
    wide, narrow = [], []
    for seed in range(4):
        problem = LargerProblem(relaxation, seed=seed)
        exact = problem.exact()
        wide.append(relative_error(problem.unrolled(radius=1e-1), exact))
        narrow.append(relative_error(problem.unrolled(radius=3e-3), exact))
    assert sum(wide) / 4 < 0.25 and sum(wide) < 0.5 * sum(narrow), (wide, narrow)


def test_by_default_the_radius_grows_with_the_root_of_the_number_of_weights():
    for problem in (Problem(), LargerProblem()):
        radius = 1.2e-4 * sum(weight.numel() for weight in problem.weights) ** 0.5
        assert torch.equal(problem.unrolled(), problem.unrolled(radius=radius))


@pytest.mark.parametrize("relaxation", ["node", "edge"])
def test_single_precision_is_near_enough(relaxation):
    exact, single = Problem(relaxation), Problem(relaxation, dtype=torch.float32)
    for mine, other in zip([single.logits, *single.weights], [exact.logits, *exact.weights], strict=True):
        mine.data = other.data.float()
    single.data = [(inputs.float(), targets.float()) for inputs, targets in exact.data]
    assert relative_error(single.unrolled().double(), exact.exact()) < 1e-4


def test_clipping_enters_as_a_constant_factor():
    problem = Problem()
    found = problem.unrolled(clip=0.05)
    assert relative_error(found, problem.exact(clip=0.05)) < 1e-4
    assert relative_error(found, problem.exact()) > 1e-3


def test_weights_optimiser_and_gradients_are_as_before():
    problem = Problem(momentum=0.9)
    problem.take_a_step()
    before = [weight.detach().clone() for weight in problem.weights]
    buffers = [problem.optimizer.state[weight]["momentum_buffer"].clone() for weight in problem.weights]
    gradients = [weight.grad.clone() for weight in problem.weights]
    problem.unrolled()
    for index, weight in enumerate(problem.weights):
        assert torch.equal(weight, before[index]) and torch.equal(weight.grad, gradients[index])
        assert torch.equal(problem.optimizer.state[weight]["momentum_buffer"], buffers[index])
        assert weight.requires_grad
    assert problem.logits.requires_grad


def test_weights_are_put_back_when_a_loss_fails():
    problem = Problem()
    before = [weight.detach().clone() for weight in problem.weights]

    def failing():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        unrolled_gradients(
            partial(problem.loss, 0), failing, problem.weights, [problem.logits], problem.optimizer
        )  # fmt: skip
    assert all(torch.equal(*pair) for pair in zip(problem.weights, before, strict=True))


def test_another_optimiser_is_refused():
    problem = Problem()
    problem.optimizer = torch.optim.Adam(problem.weights)
    with pytest.raises(TypeError, match="optimiser is Adam.*torch.optim.SGD"):
        problem.unrolled()


class Counting(Recipe):
    """Notes what each pass of a step sees."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.carried = {"count": [0]}
        self.dropout = nn.Dropout(0.5)

    def training_step(self, batch, batch_idx):
        self.carried["count"][0] += 1
        loss = super().training_step(batch, batch_idx)
        mask = self.dropout(torch.ones(50))  # after the edges have drawn what they draw
        calls.append((batch_idx % 2, self.carried["count"][0], mask))
        return loss


calls = []


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.3}, {"sampling": "gumbel"}], ids=str)
def test_a_search_step_repeats_the_training_pass_with_one_mask_and_leaves_no_trace(options):
    calls.clear()
    torch.manual_seed(0)
    module = Counting()
    strategy = IDARTS(second_order=True, arc_learning_rate=0.1, gradient_clip_val=1.0, **options)
    NasExperiment(Space(), evaluator(module, 1), strategy).run()
    step = calls[:5]  # virtual step, validation, two sides, weight step
    assert [phase for phase, _, _ in step] == [1, 0, 1, 1, 1]
    assert [count for _, count, _ in step] == [1, 1, 2, 2, 2], "three passes over the training batch do not count"
    masks = [mask for _, _, mask in step]
    assert torch.equal(masks[0], masks[2]) and torch.equal(masks[0], masks[3])
    assert not torch.equal(masks[0], masks[4])
    assert len(calls) == 5 * 4
    cell = strategy.supernet.cell
    assert cell.logits.abs().max() > 0.05


def test_a_search_in_second_order_goes_another_way_than_in_first_order():
    logits = []
    for second_order in (False, True, True):
        torch.manual_seed(0)
        strategy = IDARTS(second_order=second_order, arc_learning_rate=0.1)
        NasExperiment(Space(), evaluator(Recipe(), 1), strategy).run()
        logits.append(strategy.supernet.cell.logits)
    assert not torch.equal(logits[0], logits[1])
    assert torch.equal(logits[1], logits[2])
