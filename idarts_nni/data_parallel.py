"""Data-parallel training as Lightning sees it: equal weights and alphas in all processes, after every step."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from lightning_fabric.plugins import ClusterEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed

from .shares import Share, agreed, are_several, averaged, gathered


class EqualGradients(DDPStrategy):
    """Averages the gradients of all processes after every backward pass, of a search's alphas as of its weights.

    In place of torch's ``DistributedDataParallel``, which a search does not fit: its two phases hold the other group of
    parameters fixed in turn, and the second-order gradient goes past ``backward``. There is nothing to be gained by
    sending gradients early either, since the cell's kernels compute those of the weights last, all together.

    Every process is a node of one device in Lightning's terms: ``Trainer(devices=1, num_nodes=N)``. The processes must
    have met (``torch.distributed.init_process_group``) before the trainer starts.

    Parameters
    ----------
    share
        Which of the processes this is.
    """

    def __init__(self, share: Share) -> None:
        super().__init__(cluster_environment=MetProcesses(share))

    def setup_distributed(self) -> None:
        """Take over the processes that have met; the random states stay as they are."""
        if not are_several():
            raise RuntimeError("The processes of this training have not met: torch.distributed is not initialised.")
        self.set_world_ranks()

    def configure_ddp(self) -> None:
        """Start from the first process's weights."""
        assert self.model is not None
        with torch.no_grad():
            for parameter in self.model.parameters():
                distributed.broadcast(parameter, 0)

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients of the parameters that were not held fixed."""
        assert self.model is not None
        # Those that are held fixed keep the gradients of their own phase.
        wanted = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter, mean in zip(wanted, averaged([parameter.grad for parameter in wanted]), strict=True):
            parameter.grad = mean

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """Return one process's plain data in all of them, without pickling it."""
        return agreed(obj, src)


class MetProcesses(ClusterEnvironment):
    """Tells Lightning which of the processes this is, and that there is nothing to start.

    Parameters
    ----------
    share
        Which of the processes this is.
    """

    def __init__(self, share: Share) -> None:
        self._share = share

    @property
    def creates_processes_externally(self) -> bool:
        """They run already."""
        return True

    @property
    def main_address(self) -> str:
        """Not needed: they have met."""
        raise RuntimeError("The processes have met; there is no address to meet at.")

    @property
    def main_port(self) -> int:
        """Not needed: they have met."""
        raise RuntimeError("The processes have met; there is no port to meet at.")

    @staticmethod
    def detect() -> bool:
        """Never chosen by Lightning itself."""
        return False

    def world_size(self) -> int:
        """Return the number of processes."""
        return self._share.count

    def set_world_size(self, size: int) -> None:
        """Do nothing: it is known."""

    def global_rank(self) -> int:
        """Return which process this is."""
        return self._share.rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: it is known."""

    def local_rank(self) -> int:
        """Every process sees one device, its own."""
        return 0

    def node_rank(self) -> int:
        """Return which process this is."""
        return self._share.rank


class SameEverywhere(Callback):
    """Looks once an epoch whether weights, alphas and random states are the same in all processes.

    Raises
    ------
    RuntimeError
        By the hook, if they are not: what the processes compute from then on would be no training of one model.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the bits."""
        if trainer.state.fn != "fit" or not are_several():
            return
        prints = gathered(_fingerprints(pl_module))
        different = [name for name in prints[0] if any(other.get(name) != prints[0][name] for other in prints)]
        if different:
            raise RuntimeError(
                f"The processes of this training have drifted apart in epoch {trainer.current_epoch + 1}: "
                f"{', '.join(different[:5])} differ. Every random number that depends on the batch has to be drawn by "
                f"idarts_nni.shares.own_columns."
            )


def _fingerprints(module: LightningModule) -> dict[str, str]:
    values = {name: parameter.detach() for name, parameter in module.named_parameters()}
    values["the random state"] = torch.get_rng_state()
    if module.on_gpu:
        values["the random state of the GPU"] = torch.cuda.get_rng_state(module.device)
    # As bytes: numbers that are not finite would differ from themselves.
    return {
        name: hashlib.sha256(value.cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()
        for name, value in values.items()
    }
