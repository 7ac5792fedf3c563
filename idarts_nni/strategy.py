"""The search strategy, for ``NasExperiment`` and for trials alike."""

import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from nni.mutable import Categorical, CategoricalMultiple
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.nn.pytorch import ModelSpace, MutableModule
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import DARTS
from torch import nn

from .architecture import Architecture
from .derive import RELAXATIONS
from .mixed_cell import MixedCell, MixedNode
from .mutator import MixedRecurrentCell
from .ranking import Alternative, nni_decisions, ranked_combinations
from .sampling import EdgeWeights
from .search_module import IDARTSLightningModule

_logger = logging.getLogger(__name__)


class IDARTS(DARTS):
    r"""Differentiable search in which all edges that enter a node compete in one softmax.

    Where DARTS decides between the operations of each pair of nodes apart, I-DARTS lets every (source, operation) edge
    of a node compete with every other (Eq. 4) and keeps the top n of them. Each training step has two phases: an
    architecture step on validation data, with the weights held fixed, and a weight step on training data, with the
    architecture held fixed (first order, unless asked otherwise). Every epoch ends with a validation pass of the search
    network.

    The supported mutation primitives of IDARTS are:

    * :class:`idarts_nni.RecurrentCell`, :class:`idarts_nni.Node` and :class:`nni.nas.nn.pytorch.Cell`, under the
      node-level softmax.
    * ``LayerChoice``, ``InputChoice``, ``Repeat`` and value choices, as under :class:`nni.nas.strategy.DARTS`.

    Parameters
    ----------
    relaxation
        ``node`` for I-DARTS; ``edge`` runs DARTS's relaxation and derivation in the same code.
    arc_learning_rate
        Learning rate of Adam on the architecture parameters.
    arc_weight_decay
        Weight decay of that Adam.
    arc_betas
        Its averaging coefficients. NNI's DARTS fixes (0.5, 0.999); DARTS's recurrent search uses Adam's defaults.
    gradient_clip_val
        Largest norm of the gradient in a weight step; None to leave it alone. Set it here, not in the trainer.
    log_prob_every_n_step
        Log all edge probabilities every so many steps.
    warmup_epochs
        Epochs at the start in which only the weights are trained.
    penalty
        As in :class:`nni.nas.strategy.DARTS`.
    second_order
        Take the architecture gradient through one virtual weight step (:mod:`idarts_nni.second_order`). The evaluator's
        optimiser has to be ``torch.optim.SGD``.
    sampling, temperature_start, temperature_end, smoothing
        How the edges are weighed in training: see :class:`idarts_nni.sampling.EdgeWeights`.
    **kwargs
        Passed to :class:`nni.nas.strategy.DARTS`, for example ``mutation_hooks``.

    Notes
    -----
    The evaluator needs training and validation data. Validation data serve both the architecture steps and the
    validation pass; to use different batches for the two, give ``val_dataloaders`` as a dict with the keys ``search``
    and ``evaluate``.

    References
    ----------
    Jiang, Hu, Xiao, Zhang, Zhu, "Improved Differentiable Architecture Search for Language Modeling and Named Entity
    Recognition", EMNLP-IJCNLP 2019.

    Examples
    --------
    >>> experiment = NasExperiment(model_space, evaluator, IDARTS(gradient_clip_val=0.25))
    >>> experiment.run()
    >>> experiment.export_top_models(formatter="dict")
    """

    def __init__(
        self,
        *,
        relaxation: str = "node",
        arc_learning_rate: float = 3e-3,
        arc_weight_decay: float = 1e-3,
        arc_betas: tuple[float, float] = (0.9, 0.999),
        gradient_clip_val: float | None = None,
        log_prob_every_n_step: int = 10,
        warmup_epochs: int = 0,
        penalty: Any = None,
        second_order: bool = False,
        sampling: str = "softmax",
        temperature_start: float = 10.0,
        temperature_end: float = 0.1,
        smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if relaxation not in RELAXATIONS:
            raise ValueError(f"relaxation: found {relaxation!r}; allowed: {', '.join(RELAXATIONS)}.")
        super().__init__(
            arc_learning_rate=arc_learning_rate,
            gradient_clip_val=gradient_clip_val,
            log_prob_every_n_step=log_prob_every_n_step,
            warmup_epochs=warmup_epochs,
            penalty=penalty,
            **kwargs,
        )
        self.relaxation = relaxation
        self.arc_weight_decay = arc_weight_decay
        self.arc_betas = arc_betas
        self.second_order = second_order
        weighing = EdgeWeights(sampling, temperature_start, temperature_end, smoothing)
        # The ordinary softmax has faster forms; the cells look for its type.
        self._softmax = nn.Softmax(dim=-1) if sampling == "softmax" and not smoothing else weighing

    def configure_softmax(self) -> nn.Module:
        """Return what weighs the edges, the same for all modules."""
        return self._softmax

    def default_mutation_hooks(self) -> list[Callable[..., Any]]:
        """Put the hooks of this package before those of DARTS; called once, when the model space is mutated."""
        ours = [MixedRecurrentCell.mutate, MixedNode.mutate, MixedCell.mutate]
        return [*ours, *super().default_mutation_hooks()]

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Turn a model space into the search network, in place.

        Raises
        ------
        TypeError
            If the space holds a choice that no gradient can search; the message names its module and the reason.
        """
        _refuse_what_has_no_gradient(model)
        return super().mutate_model(model)

    def run_hook(
        self, hook: Callable[..., Any], name: str, module: nn.Module, memo: dict[str, Any]
    ) -> nn.Module | bool | tuple[nn.Module, bool]:
        """Run one hook on one module, telling it the relaxation."""

        def with_relaxation(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> Any:
            return hook(module, name, memo, {**mutate_kwargs, "relaxation": self.relaxation})

        try:
            return super().run_hook(with_relaxation, name, module, memo)
        except (TypeError, ValueError, KeyError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            reason = error.args[0] if error.args else error
            raise kind(f"{name} ({type(module).__name__}) cannot be searched: {reason}") from error

    def configure_oneshot_module(self, training_module: LightningModule) -> "IDARTSLightningModule":
        """Wrap the evaluator's module in the two-phase training."""
        return IDARTSLightningModule(
            training_module,
            arc_learning_rate=self.arc_learning_rate,
            arc_weight_decay=self.arc_weight_decay,
            arc_betas=self.arc_betas,
            gradient_clip_val=self.gradient_clip_val,
            log_prob_every_n_step=self.log_prob_every_n_step,
            warmup_epochs=self.warmup_epochs,
            penalty=self.penalty,
            second_order=self.second_order,
        )

    def train_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Pair each training batch with a validation batch for the architecture step."""
        return {"train": train_dataloader_fn(), "val": _part(val_dataloader_fn(), "search")}

    def val_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Keep the validation pass at the end of each epoch, which NNI's DARTS leaves out."""
        return _part(val_dataloader_fn(), "evaluate")

    def list_models(self, sort: bool = True, limit: int | None = 1) -> Iterator[RawFormatModelSpace]:
        """Yield the derived models, the best first.

        A model's score is the sum, over its choices, of the logarithm of their probabilities (over the kept edges,
        where a node keeps several). The first model is what the search derives; the next ones differ from it where
        the search was least sure. Where NNI's own relaxation of a ``Cell`` is in use (``relaxation: edge``), its cell
        stays the same in all of them.

        Parameters
        ----------
        sort
            Must be true, as in NNI's one-shot strategies.
        limit
            Number of models; None for all that there are, which may be a great many.
        """
        if not sort:
            _logger.warning("One-shot strategies list models best first; sort=False is not followed.")
        for alternative in islice(self.ranked_samples(), limit):
            yield self.model_space.freeze(dict(alternative.sample))

    def ranked_samples(self) -> Iterator[Alternative]:
        """Yield samples of the model space with their scores, best first and each once, as :meth:`list_models`."""
        self.oneshot_module.set_model(self.supernet)
        decisions: list[Iterator[Alternative]] = []
        known: dict[str, Any] = {}
        for module in self.oneshot_module.supernet_modules():
            new = module.export(known)
            if new:
                decisions += module.decisions() if hasattr(module, "decisions") else nni_decisions(module, new, known)
                known |= new
        return ranked_combinations(decisions)

    def derived_architectures(self) -> dict[str, Architecture]:
        """Return the cell that each label derives now, with its edges' learnt weights.

        Only after the strategy was run or its model space was mutated; recurrent cells only.
        """
        cells = (module for module in self.supernet.modules() if isinstance(module, MixedRecurrentCell))
        return {cell.label: cell.derive() for cell in cells}


def _refuse_what_has_no_gradient(model: ModelSpace) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, MutableModule):
            continue
        if module is model and module.mutables:
            labels = ", ".join(str(label) for mutable in module.mutables for label in mutable.simplify())
            raise TypeError(
                f"{type(model).__name__} cannot be searched: its choices {labels} are registered on the model space "
                f"itself, where nothing can weigh them. Put them into a layer: LayerChoice, InputChoice, Repeat, an "
                f"NNI layer such as MutableLinear, or a Node."
            )
        for mutable in module.mutables:
            for label, leaf in mutable.simplify().items():
                if not isinstance(leaf, (Categorical, CategoricalMultiple)):
                    raise TypeError(
                        f"{name} ({type(module).__name__}) cannot be searched: its choice {label!r} is "
                        f"{type(leaf).__name__}, and only a choice among listed values can be weighed. Use nni.choice."
                    )


def _part(loaders: Any, key: str) -> Any:
    if not isinstance(loaders, Mapping):
        return loaders
    if set(loaders) != {"search", "evaluate"}:
        raise ValueError(
            "Validation data given as a dict need the keys 'search' and 'evaluate'; "
            f"found {', '.join(map(str, loaders))}."
        )
    return loaders[key]
