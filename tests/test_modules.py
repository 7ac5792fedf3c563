"""The cell as NNI sees it: labels, samples, freezing."""

import nni
import pytest
import torch
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import model_context

from idarts_nni import Architecture, CellSpace, FixedRecurrentCell, RecurrentCell
from idarts_nni.cell import unroll_fixed
from idarts_nni.modules import architecture_to_sample, sample_to_architecture

SPACE = CellSpace(num_nodes=3, operations=("zeroize", "tanh", "relu"), edges_per_node=2)


class Space(ModelSpace):
    def __init__(self, space=SPACE):
        super().__init__()
        self.cell = RecurrentCell(space, 4, 5, label="cell")

    def forward(self, inputs):
        return self.cell(inputs)


def test_a_node_chooses_n_of_its_active_edges_without_repetition():
    choices = Space().simplify()
    assert list(choices) == ["cell/node_1", "cell/node_2", "cell/node_3"]
    assert choices["cell/node_2"].values == ["tanh 0", "relu 0", "tanh 1", "relu 1"]
    assert [choice.n_chosen for choice in choices.values()] == [2, 2, 2]
    for _ in range(20):
        sample = {}
        Space().random(sample)
        assert all(len(set(edges)) == 2 for edges in sample.values())


@pytest.mark.parametrize("seed", range(5))
def test_architectures_and_samples_are_each_others_inverse(seed):
    architecture = Architecture.random(SPACE, seed)
    sample = architecture_to_sample(architecture, "cell")
    assert sample_to_architecture(sample, "cell", 3) == architecture


def test_a_sample_without_a_node_is_refused_by_the_name_of_its_label():
    with pytest.raises(ValueError, match="cell/node_2"):
        sample_to_architecture({"cell/node_1": ["tanh 0"]}, "cell", 2)
    with pytest.raises(ValueError, match="is not an edge"):
        sample_to_architecture({"cell/node_1": ["tanh"]}, "cell", 1)


def test_freezing_keeps_the_weights_and_computes_the_sampled_cell():
    torch.manual_seed(0)
    model, sample = Space(), architecture_to_sample(Architecture.random(SPACE, 3), "cell")
    frozen = model.freeze(sample)
    assert type(frozen.cell) is FixedRecurrentCell
    inputs = torch.randn(6, 2, 4)
    outputs, last = frozen(inputs)
    expected = unroll_fixed(
        inputs,
        torch.zeros(2, 5),
        model.cell.input_weight,
        model.cell.node_weights,
        Architecture.random(SPACE, 3),
        SPACE,
    )
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(last, expected[-1])


def test_a_model_context_builds_the_frozen_cell_at_once():
    sample = architecture_to_sample(Architecture.random(SPACE, 4), "cell")
    with model_context(sample):
        model = Space()
    assert type(model.cell) is FixedRecurrentCell
    assert architecture_to_sample(model.cell.architecture, "cell") == sample


def test_cells_of_one_label_make_one_choice():
    class Two(ModelSpace):
        def __init__(self):
            super().__init__()
            self.forwards = RecurrentCell(SPACE, 4, 5, label="cell")
            self.backwards = RecurrentCell(SPACE, 4, 5, label="cell")

    model = Two()
    assert len(model.simplify()) == 3
    frozen = model.random()
    assert frozen.forwards.architecture == frozen.backwards.architecture
    assert not torch.equal(frozen.forwards.input_weight, frozen.backwards.input_weight)


def test_a_cell_that_does_not_fit_its_space_is_refused():
    with pytest.raises(ValueError, match="keeps 1 edge"):
        FixedRecurrentCell(Architecture.random(CellSpace(3, ("tanh",)), 1), SPACE, 4, 5)


def test_dropout_masks_are_drawn_in_training_only_and_once_for_a_sequence():
    torch.manual_seed(0)
    cell = FixedRecurrentCell(Architecture.random(SPACE, 1), SPACE, 4, 5, input_dropout=0.5, hidden_dropout=0.5)
    inputs = torch.randn(3, 2, 4)
    first, second = cell(inputs)[0], cell(inputs)[0]
    assert not torch.equal(first, second)
    mask = cell._dropout_mask(inputs, 4, 0.5)
    assert mask.shape == (2, 4) and set(mask.unique().tolist()) <= {0.0, 2.0}
    cell.eval()
    torch.testing.assert_close(cell(inputs)[0], cell(inputs)[0], rtol=0, atol=0)


def test_a_space_that_is_not_searched_runs_its_default_cell():
    outputs, last = Space()(torch.randn(3, 2, 4))
    assert outputs.shape == (3, 2, 5) and last.shape == (2, 5)


def test_nni_sees_no_other_choices_than_the_cell_s():
    assert all(isinstance(choice, nni.mutable.CategoricalMultiple) for choice in Space().simplify().values())
