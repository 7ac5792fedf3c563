"""The mixed cell: what the hook makes of a recurrent cell, and what it exports."""

import pytest
import torch
from nni.mutable import frozen_context
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.strategy import DARTS, GumbelDARTS

from idarts_nni import IDARTS, Architecture, CellSpace, MixedRecurrentCell, RecurrentCell, derive_architecture
from idarts_nni.cell import unroll_mixed
from idarts_nni.modules import architecture_to_sample
from tests.generators import spaces_of_all_kinds

SPACE = CellSpace(num_nodes=3, operations=("zeroize", "tanh", "relu", "identity"), edges_per_node=2)


class Space(ModelSpace):
    def __init__(self, space=SPACE, cells=1):
        super().__init__()
        self.cells = torch.nn.ModuleList([RecurrentCell(space, 4, 5, label="cell") for _ in range(cells)])

    def extra_oneshot_hooks(self, strategy):
        return [MixedRecurrentCell.mutate]


def mutated(strategy=None, **kwargs):
    model = (strategy or IDARTS()).mutate_model(Space(**kwargs))
    assert all(type(cell) is MixedRecurrentCell for cell in model.cells)
    return model


def test_the_mixed_cell_takes_over_the_weights():
    model = Space()
    weight = model.cells[0].node_weights
    IDARTS().mutate_model(model)
    assert model.cells[0].node_weights is weight


def test_cells_of_one_label_share_their_logits():
    model = mutated(cells=2)
    assert model.cells[0].logits is model.cells[1].logits


def test_the_weights_of_a_node_sum_to_one_under_the_node_level_softmax():
    cell = mutated().cells[0]
    torch.nn.init.normal_(cell.logits)
    probabilities = cell.probabilities()
    for node in range(1, 4):
        first = SPACE.first_pair(node)
        torch.testing.assert_close(probabilities[first : first + node].sum(), torch.tensor(1.0))


def test_nni_s_darts_and_gumbel_darts_run_on_the_cell_with_their_own_softmax():
    edge_local = mutated(DARTS()).cells[0]
    torch.testing.assert_close(edge_local.probabilities().sum(-1), torch.ones(6))
    gumbel = mutated(GumbelDARTS()).cells[0]
    assert not torch.equal(gumbel.probabilities(), gumbel.probabilities())
    torch.testing.assert_close(gumbel.probabilities().sum(-1), torch.ones(6))


@pytest.mark.parametrize("relaxation", ["node", "edge"])
@pytest.mark.parametrize("space", spaces_of_all_kinds(), ids=str)
def test_export_is_the_derived_cell_and_freezes(relaxation, space):
    torch.manual_seed(1)
    model = mutated(IDARTS(relaxation=relaxation), space=space)
    cell = model.cells[0]
    torch.nn.init.normal_(cell.logits)
    architecture = derive_architecture(cell.logits, space, relaxation)
    sample = cell.export({})
    assert sample == architecture_to_sample(architecture, "cell")
    assert cell.export(sample) == {}
    frozen = model.freeze(sample).cells[0]
    assert str(frozen.architecture) == str(architecture)
    for kept, derived in zip(frozen.architecture.nodes, architecture.nodes, strict=True):
        assert [edge.weight for edge in kept] == pytest.approx([edge.weight for edge in derived], abs=2e-6)
    frozen(torch.randn(2, 3, 4))


def test_export_probs_lists_every_edge_of_a_node_zeroize_included():
    cell = mutated().cells[0]
    probs = cell.export_probs({})
    assert list(probs) == ["cell/node_1", "cell/node_2", "cell/node_3"]
    assert list(probs["cell/node_1"]) == ["zeroize 0", "tanh 0", "relu 0", "identity 0"]
    assert all(sum(node.values()) == pytest.approx(1.0) for node in probs.values())


def test_the_forward_pass_is_the_reference_s():
    torch.manual_seed(0)
    cell = mutated().cells[0]
    cell.backend = "auto"
    inputs, hidden = torch.randn(4, 6, 4), torch.randn(6, 5)
    norm = torch.nn.BatchNorm1d(5, affine=False, track_running_stats=False)
    expected = unroll_mixed(
        inputs, hidden, cell.input_weight, cell.node_weights, cell.probabilities(), SPACE, norm=norm
    )
    outputs, _ = cell(inputs, hidden)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


def test_the_search_network_stays_bounded_in_evaluation():
    """Running statistics shared by all nodes and steps would let its states grow without bound."""
    torch.manual_seed(0)
    cell = mutated().cells[0]
    torch.nn.init.normal_(cell.input_weight, std=2.0)
    torch.nn.init.normal_(cell.node_weights, std=2.0)
    cell.eval()
    with torch.no_grad():
        outputs, _ = cell(torch.randn(200, 8, 4))
    assert outputs.abs().max() < 10.0


def test_the_hook_leaves_other_modules_and_mixed_cells_alone():
    with frozen_context():
        assert MixedRecurrentCell.mutate(torch.nn.Linear(1, 1), "x", {}, {}) is None
    assert MixedRecurrentCell.mutate(mutated().cells[0], "x", {}, {}) is None


def test_logits_are_in_the_state_dict_and_the_only_architecture_parameter():
    cell = mutated().cells[0]
    assert "logits" in cell.state_dict()
    assert [parameter is cell.logits for parameter in cell.arch_parameters()] == [True]
    assert isinstance(cell.derive(), Architecture)
