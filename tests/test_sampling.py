"""Sampled and smoothed edge weights."""

import pytest
import torch
from nni.nas.experiment import NasExperiment

from idarts_nni import IDARTS
from idarts_nni.derive import cell_probabilities
from idarts_nni.sampling import EdgeWeights, weight_step
from tests.test_strategy import Recipe, Space, evaluator

LOGITS = torch.tensor([[1.0, 0.0, -1.0, 2.0]])


@pytest.mark.parametrize("sampling", ["softmax", "gumbel", "gumbel-hard"])
def test_evaluation_takes_the_plain_softmax(sampling):
    weigh = EdgeWeights(sampling, smoothing=0.5).eval()
    assert torch.equal(weigh(LOGITS), LOGITS.softmax(-1))


def test_hard_samples_are_one_edge_drawn_by_its_probability():
    torch.manual_seed(0)
    weigh = EdgeWeights("gumbel-hard", 1.0, 1.0)
    draws = weigh(LOGITS.expand(20000, -1))
    assert set(draws.unique().tolist()) == {0.0, 1.0} and torch.equal(draws.sum(-1), torch.ones(20000))
    # Three standard errors of a share near one half of 20,000 draws.
    torch.testing.assert_close(draws.mean(0), LOGITS.softmax(-1)[0], atol=0.011, rtol=0.0)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_at_every_temperature_the_largest_entry_of_a_soft_sample_is_drawn_by_its_probability(temperature):
    torch.manual_seed(1)
    draws = EdgeWeights("gumbel", temperature, temperature)(LOGITS.expand(20000, -1))
    torch.testing.assert_close(draws.sum(-1), torch.ones(20000))
    shares = torch.bincount(draws.argmax(-1), minlength=4) / 20000
    torch.testing.assert_close(shares, LOGITS.softmax(-1)[0], atol=0.011, rtol=0.0)


def test_a_hard_sample_has_the_gradient_of_the_soft_one():
    logits = LOGITS.clone().requires_grad_()
    torch.manual_seed(3)
    (EdgeWeights("gumbel-hard", 1.0, 1.0)(logits) * torch.arange(4.0)).sum().backward()
    hard = logits.grad.clone()
    logits.grad = None
    torch.manual_seed(3)
    (EdgeWeights("gumbel", 1.0, 1.0)(logits) * torch.arange(4.0)).sum().backward()
    torch.testing.assert_close(hard, logits.grad)
    assert hard.abs().max() > 0.0


def test_the_temperature_falls_linearly_and_makes_samples_decided():
    weigh = EdgeWeights("gumbel", 10.0, 0.1)
    temperatures, largest = [], []
    for epoch in range(3):
        weigh.set_epoch(epoch, 3)
        temperatures.append(weigh.temperature)
        torch.manual_seed(0)
        largest.append(weigh(LOGITS.expand(500, -1)).max(-1).values.mean().item())
    assert temperatures == pytest.approx([10.0, 5.05, 0.1])
    assert largest[0] < 0.5 < 0.95 < largest[2]


def test_smoothing_perturbs_the_weight_step_alone_within_its_bounds():
    torch.manual_seed(0)
    weigh = EdgeWeights(smoothing=0.1)
    weigh.set_epoch(1, 2)
    probabilities = LOGITS.softmax(-1)
    with weight_step(weigh):
        perturbed = weigh(LOGITS.expand(1000, -1))
    assert torch.equal(weigh(LOGITS), probabilities), "the architecture step"
    torch.testing.assert_close(perturbed.sum(-1), torch.ones(1000))
    assert perturbed.min() >= 0.0 and perturbed.std(0).min() > 0.01
    # At most epsilon up, over a sum that is at least 1 - 4 epsilon.
    assert (perturbed - probabilities).max() < (0.1 + 0.4 * probabilities.max()) / 0.6
    weigh.set_epoch(0, 2)
    assert weigh.noise == pytest.approx(0.05), "it grows over the epochs"


def test_both_relaxations_pass_their_own_softmax_through_it():
    weigh = EdgeWeights("gumbel-hard", 1.0, 1.0)
    logits = torch.randn(6, 3)
    torch.manual_seed(0)
    node = cell_probabilities(logits, "node", weigh)
    assert node[0].sum() == node[1:3].sum() == node[3:].sum() == 1.0
    assert torch.equal(cell_probabilities(logits, "edge", weigh).sum(-1), torch.ones(6))


@pytest.mark.parametrize(
    "options", [{"sampling": "gumbel"}, {"sampling": "gumbel-hard", "smoothing": 0.1}, {"smoothing": 0.2}]
)
def test_a_search_runs_with_it_reaches_every_module_and_repeats_by_seed(options):
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        strategy = IDARTS(arc_learning_rate=0.1, **options)
        experiment = NasExperiment(Space(), evaluator(Recipe(), 2), strategy)
        experiment.run()
        results.append((strategy.supernet.cell.logits.detach(), experiment.export_top_models(formatter="dict")))
    assert torch.equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]
    torch.manual_seed(0)
    plain = IDARTS(arc_learning_rate=0.1)
    NasExperiment(Space(), evaluator(Recipe(), 2), plain).run()
    assert not torch.equal(plain.supernet.cell.logits, results[0][0])
    weighing = {module for module in strategy.supernet.modules() if isinstance(module, EdgeWeights)}
    assert len(weighing) == 1 and strategy.supernet.read_out._softmax in weighing
    assert weighing.pop().temperature == pytest.approx(0.1), "that of the last epoch"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "gumble"}, "softmax, gumbel, gumbel-hard"),
        ({"temperature_end": 0.0}, "temperature_end: found 0.0"),
        ({"smoothing": -0.1}, "smoothing: found -0.1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        IDARTS(**options)
