r"""The second-order architecture gradient of DARTS: through one virtual step of the weights.

First order takes the gradient of the validation loss at the weights :math:`w` as they are. Second order takes it at
:math:`w' = w - \mathrm{step}(\nabla_w L_{train}(w, \alpha))` and follows how :math:`w'` depends on :math:`\alpha`:

.. math:: \nabla_\alpha L_{val}(w', \alpha) - \nabla^2_{\alpha, w} L_{train}(w, \alpha) \, u, \qquad
    u = \frac{\partial\,\mathrm{step}}{\partial \nabla_w} \nabla_{w'} L_{val}(w', \alpha)

The product is a difference of two gradients, at :math:`w \pm \epsilon u` with :math:`\epsilon = r / |u|`. Its error
falls with the square of ``r`` until rounding takes over. Relative error of the whole gradient against exact double
backward, on a three-node cell of 8 units (``tests/test_second_order.py``):

========== ======= ======= ======= ======= =======
r           0.1     0.03    0.01    0.003   0.001
========== ======= ======= ======= ======= =======
node, fp64  3.2e-4  2.9e-5  3.2e-6  2.9e-7  3.2e-8
node, fp32  3.2e-4  2.9e-5  4.7e-6  7.7e-6  1.1e-5
edge, fp64  1.9e-2  1.7e-3  1.9e-4  1.7e-5  1.9e-6
edge, fp32  1.9e-2  1.7e-3  1.9e-4  2.8e-5  1.3e-4
========== ======= ======= ======= ======= =======

With ``relu`` among the operations there is a second error, which falls as ``r`` rises, in fp64 as in fp32: between the
two points some units cross the kink of ``relu``, each crossing makes the gradient jump, and a jump is divided by ``r``.
So the best ``r`` grows with the network. On a search network of a language model (eight nodes of 64 units, 10,000
words, 671,944 weights, after two epochs on Penn Treebank; clipped, fp32; mean of four batches):

================== ====== ====== ====== ====== ====== ====== ===========
r                  1      0.3    0.1    0.03   0.01   0.003  first order
================== ====== ====== ====== ====== ====== ====== ===========
node               0.04   0.06   0.12   0.23   0.33   0.42   0.54
edge               0.06   0.07   0.08   0.17   0.39   0.81   0.66
node, without relu 1.8e-2 1.8e-3 2.0e-4 3.0e-5 9.9e-5 2.7e-4 0.49
edge, without relu 1.9e-2 2.1e-3 2.3e-4 3.0e-5 4.9e-5 2.3e-4 0.55
node, untrained    1.30   0.76   0.19   0.22   0.27   0.48   1.09
================== ====== ====== ====== ====== ====== ====== ===========

Hence the default: ``r`` in proportion to the square root of the number of weights, 0.003 for the first table and 0.1
for the second.

References
----------
Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, section 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn, optim

from .phases import frozen

RADIUS = 1.2e-4
"""How far each weight is moved for the difference, root mean square; r is this times the root of their number.

DARTS's code takes an r of 0.01 for networks of all sizes; the tables above are why this grows with them."""


def unrolled_gradients(
    train_loss: Callable[[], Tensor],
    validation_loss: Callable[[], Tensor],
    weights: Sequence[nn.Parameter],
    architecture: Sequence[nn.Parameter],
    optimizer: optim.Optimizer,
    *,
    clip: float | None = None,
    radius: float | None = None,
    mean: Callable[[Sequence[Tensor | None]], Sequence[Tensor | None]] = list,
) -> list[Tensor]:
    """Return the second-order gradient of each architecture parameter; the weights are put back bit for bit.

    Parameters
    ----------
    train_loss
        Loss on the training batch at the weights as they are. It is called three times and has to draw the same
        dropout masks and start from the same carried states each time, or the difference drowns in their noise.
    validation_loss
        Loss on the validation batch; called once, at the virtual weights.
    weights, architecture
        The two groups of parameters.
    optimizer
        That of the weights; the virtual step is the one that it would take (learning rate, momentum, weight decay). Its
        learning rates are read after the first training loss, which may set them.
    clip
        Largest norm of the weights' gradient, as in the real step. As in DARTS's code the factor counts as a constant:
        its own dependence on the architecture is left out.
    radius
        r of the finite difference, in the norm of all weights together; None for what :data:`RADIUS` makes of their
        number.
    mean
        Applied to all gradients of a pass: their mean over the processes that train together.

    Raises
    ------
    TypeError
        If the optimiser is not plain SGD, whose step is linear in the gradient.
    """
    weights, architecture = list(weights), list(architecture)
    with frozen(architecture):
        gradients = mean(torch.autograd.grad(train_loss(), weights, allow_unused=True))
    steps = list(_sgd_steps(optimizer, dict(zip(weights, gradients, strict=True)), _clip_factor(gradients, clip)))
    moved = [weight for weight, _, _ in steps]
    if radius is None:
        radius = RADIUS * math.sqrt(sum(weight.numel() for weight in moved))
    saved = [weight.detach().clone() for weight in moved]
    try:
        _put(moved, [old - displacement for old, (_, displacement, _) in zip(saved, steps, strict=True)])
        found = mean(torch.autograd.grad(validation_loss(), [*architecture, *moved], allow_unused=True))
        direct = [_or_zero(*pair) for pair in zip(found[: len(architecture)], architecture, strict=True)]
        direction = [
            factor * _or_zero(gradient, weight)
            for gradient, (weight, _, factor) in zip(found[len(architecture) :], steps, strict=True)
        ]
        length = _norm(direction)
        if not 0.0 < length < float("inf"):
            return direct
        sides = []
        for side in (radius / length, -radius / length):
            _put(moved, [old + side * along for old, along in zip(saved, direction, strict=True)])
            with frozen(weights):
                parts = mean(torch.autograd.grad(train_loss(), architecture, allow_unused=True))
            sides.append([_or_zero(*pair) for pair in zip(parts, architecture, strict=True)])
    finally:
        _put(moved, saved)
    scale = length / (2.0 * radius)
    return [value - scale * (plus - minus) for value, plus, minus in zip(direct, *sides, strict=True)]


def _sgd_steps(
    optimizer: optim.Optimizer, gradients: dict[nn.Parameter, Tensor | None], scale: float
) -> Iterator[tuple[nn.Parameter, Tensor, float]]:
    """Yield each weight with what SGD would take off it, and the derivative of that by the weight's gradient."""
    # type, not isinstance: a subclass may step in another way.
    if type(optimizer) is not optim.SGD or any(group["maximize"] for group in optimizer.param_groups):
        raise TypeError(
            f"second_order: the weights' optimiser is {type(optimizer).__name__}, and the virtual step is known for "
            f"torch.optim.SGD (minimising) alone. Use SGD, or second_order: false."
        )
    for group in optimizer.param_groups:
        for weight in group["params"]:
            gradient = gradients.get(weight)
            if gradient is None:
                continue
            step, factor = scale * gradient + group["weight_decay"] * weight.detach(), scale
            if group["momentum"]:
                step, factor = _with_momentum(step, factor, group, optimizer.state[weight].get("momentum_buffer"))
            yield weight, group["lr"] * step, group["lr"] * factor


def _with_momentum(step: Tensor, factor: float, group: dict, buffer: Tensor | None) -> tuple[Tensor, float]:
    share = 1.0 if buffer is None else 1.0 - group["dampening"]
    average = step if buffer is None else group["momentum"] * buffer + share * step
    if group["nesterov"]:
        return step + group["momentum"] * average, factor * (1.0 + group["momentum"] * share)
    return average, factor * share


def _clip_factor(gradients: Sequence[Tensor | None], clip: float | None) -> float:
    if clip is None:
        return 1.0
    # As torch.nn.utils.clip_grad_norm_, which the real step uses.
    return min(1.0, clip / (_norm([gradient for gradient in gradients if gradient is not None]) + 1e-6))


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors]).norm()) if tensors else 0.0


def _or_zero(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient


@torch.no_grad()
def _put(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
