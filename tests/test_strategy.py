"""The strategy with NasExperiment, and what each of its two phases changes."""

import pytest
import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from idarts_nni import IDARTS, CellSpace, FixedRecurrentCell, MixedRecurrentCell, RecurrentCell
from idarts_nni.derive import derive_architecture
from idarts_nni.modules import architecture_to_sample

SPACE = CellSpace(num_nodes=2, operations=("zeroize", "tanh", "relu"))


class Space(ModelSpace):
    """Tell the sign of a sequence's first feature, by a recurrent cell and a choice of read-outs."""

    def __init__(self):
        super().__init__()
        self.cell = RecurrentCell(SPACE, 2, 4, label="cell")
        self.read_out = LayerChoice([nn.Linear(4, 2), nn.Sequential(nn.Tanh(), nn.Linear(4, 2))], label="read_out")

    def forward(self, sequences):
        outputs, _ = self.cell(sequences.transpose(0, 1))
        return self.read_out(outputs[-1])


class Recipe(LightningModule):
    def __init__(self, probe=None):
        super().__init__()
        self.probe = probe
        self.validated = 0

    def training_step(self, batch, batch_idx):
        sequences, signs = batch
        if self.probe is not None:
            self.probe(self, batch_idx)
        return nn.functional.cross_entropy(self.model(sequences), signs)

    def validation_step(self, batch, batch_idx):
        sequences, signs = batch
        self.validated += 1
        self.log("validation", nn.functional.cross_entropy(self.model(sequences), signs))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(seed, size=32):
    generator = torch.Generator().manual_seed(seed)
    sequences = torch.randn(size, 3, 2, generator=generator)
    return DataLoader(TensorDataset(sequences, (sequences[:, 0, 0] > 0).long()), batch_size=8)


def evaluator(module, epochs=2, **kwargs):
    trainer = Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0, **kwargs,
    )  # fmt: skip
    return Lightning(module, trainer, train_dataloaders=loader(1), val_dataloaders=loader(2))


def search(strategy, module=None, epochs=2):
    torch.manual_seed(0)
    model, module = Space(), module or Recipe()
    experiment = NasExperiment(model, evaluator(module, epochs), strategy)
    experiment.run()
    return experiment, module


def test_a_nas_experiment_exports_a_cell_that_freezes_and_retrains():
    strategy = IDARTS(arc_learning_rate=0.1, gradient_clip_val=1.0)
    experiment, module = search(strategy)
    assert module.validated == 2 * 4, "one validation pass an epoch"
    (sample,) = experiment.export_top_models(formatter="dict")
    assert set(sample) == {"cell/node_1", "cell/node_2", "read_out"}
    (derived,) = strategy.derived_architectures().values()
    assert architecture_to_sample(derived, "cell") == {key: sample[key] for key in sample if key != "read_out"}
    with torch.random.fork_rng():
        frozen = Space().freeze(sample)
    assert type(frozen.cell) is FixedRecurrentCell
    evaluator(Recipe(), epochs=1).evaluate(frozen)


def test_the_exported_cell_is_derived_from_the_trained_logits():
    strategy = IDARTS(arc_learning_rate=0.5)
    search(strategy)
    cell = next(module for module in strategy.supernet.modules() if isinstance(module, MixedRecurrentCell))
    assert cell.logits.abs().max() > 0.1, "the architecture steps moved the logits"
    assert strategy.derived_architectures() == {"cell": derive_architecture(cell.logits, SPACE)}


def test_each_phase_has_gradients_for_its_own_parameters_only():
    seen = []

    def probe(module, batch_idx):
        cell = module.model.cell
        seen.append((batch_idx % 2, cell.logits.requires_grad, cell.node_weights.requires_grad))

    search(IDARTS(), Recipe(probe), epochs=1)
    assert set(seen) == {(0, True, False), (1, False, True)}
    assert [phase for phase, *_ in seen] == [0, 1] * 4, "an architecture step before each weight step"


def test_the_first_phase_changes_logits_and_the_second_weights():
    snapshots = []

    def probe(module, batch_idx):
        snapshots.append((batch_idx % 2, module.model.cell.logits.clone(), module.model.cell.node_weights.clone()))

    search(IDARTS(), Recipe(probe), epochs=1)
    for (phase, logits, weights), (_, next_logits, next_weights) in zip(snapshots, snapshots[1:], strict=False):
        assert torch.equal(logits, next_logits) is (phase == 1)
        assert torch.equal(weights, next_weights) is (phase == 0)


@pytest.mark.parametrize(("warmup", "moved"), [(2, [False, False]), (1, [False, True])])
def test_warm_up_epochs_leave_the_logits_alone(warmup, moved):
    seen = []

    def probe(module, batch_idx):
        seen.append(module.model.cell.logits.detach().clone())

    strategy = IDARTS(warmup_epochs=warmup)
    search(strategy, Recipe(probe))
    seen.append(strategy.supernet.cell.logits.detach())
    assert len(seen) == 4 * (3 if warmup == 1 else 2) + 1, "no pass over validation data in a warm-up"
    ends = [seen[0], seen[4], seen[-1]]  # a warm-up epoch has four steps, one pass each
    assert [not torch.equal(*pair) for pair in zip(ends, ends[1:], strict=False)] == moved


def test_adam_of_the_architecture_follows_the_arguments_and_a_stable_order():
    strategy = IDARTS(arc_learning_rate=0.7, arc_weight_decay=0.02, arc_betas=(0.4, 0.8))
    search(strategy, epochs=1)
    optimiser = strategy.oneshot_module.configure_architecture_optimizers()
    (group,) = optimiser.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.7, 0.02, (0.4, 0.8))
    expected = [parameter for _, parameter in strategy.supernet.named_parameters() if parameter.numel() in (2, 9)]
    architecture = [parameter for parameter in expected if parameter.shape in ((3, 3), (2,))]
    assert [id(parameter) for parameter in group["params"]] == [
        id(parameter)
        for parameter in architecture
        if parameter is not strategy.supernet.read_out.get_parameter("0.bias")
        and parameter is not strategy.supernet.read_out.get_parameter("1.1.bias")
    ]


def test_gradients_of_a_weight_step_are_clipped():
    norms = []

    class Clipped(Recipe):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
            norms.append(torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm())
            optimizer.step()

    search(IDARTS(gradient_clip_val=0.01), Clipped(), epochs=1)
    assert norms and all(norm <= 0.01001 for norm in norms)


def test_searches_with_one_seed_are_equal_and_with_the_other_relaxation_not():
    results = []
    for relaxation in ("node", "node", "edge"):
        strategy = IDARTS(relaxation=relaxation, arc_learning_rate=0.1)
        search(strategy)
        results.append(next(m for m in strategy.supernet.modules() if isinstance(m, MixedRecurrentCell)).logits)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_separate_validation_batches_can_be_given_for_the_two_purposes():
    strategy = IDARTS()
    loaders = {"search": loader(3), "evaluate": loader(4, size=8)}
    assert strategy.train_dataloader(lambda: "train", lambda: loaders) == {"train": "train", "val": loaders["search"]}
    assert strategy.val_dataloader(lambda: "train", lambda: loaders) is loaders["evaluate"]
    with pytest.raises(ValueError, match="'search' and 'evaluate'"):
        strategy.val_dataloader(lambda: "train", lambda: {"other": 1})


def test_an_unknown_relaxation_and_a_positional_argument_are_refused():
    with pytest.raises(ValueError, match="node, edge"):
        IDARTS(relaxation="both")
    with pytest.raises(TypeError):
        IDARTS("node")


def test_a_space_without_choices_is_refused():
    class Plain(ModelSpace):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, sequences):
            return self.linear(sequences[:, 0])

    with pytest.raises(ValueError, match="nothing to search"):
        NasExperiment(Plain(), evaluator(Recipe()), IDARTS()).run()
