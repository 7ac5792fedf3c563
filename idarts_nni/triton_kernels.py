"""Triton kernels of the elementwise passes, launched by :mod:`idarts_nni.triton_passes`.

Sums over rows, links and operations are taken in a fixed order, so a run repeats bit for bit. Pointers are to
contiguous tensors: states, totals and masks ``(B, H)``, products ``(B, width)`` with ``width = slots * G * H``,
coefficients ``(rows, K)``; ``elements`` is ``B * H``. Axis letters: ``B`` rows of the batch, ``H`` hidden width,
``K`` operations, ``G`` 2 with a gate, else 1.
"""

# No ``from __future__ import annotations``: Triton reads the annotations of kernels.

import triton
import triton.language as tl

TANH, RELU, SIGMOID = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
IDENTITY, GELU = tl.constexpr(3), tl.constexpr(4)
"""Numbers of the operations, in the order of ``elementwise.OPERATIONS``; the last one is ``silu``."""


@triton.jit
def _logistic(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _apply(operation: tl.constexpr, u):
    """Return the value and the derivative of an operation."""
    if operation == TANH:
        value = 2.0 * _logistic(2.0 * u) - 1.0
        derivative = 1.0 - value * value
    elif operation == RELU:
        value = tl.where(u <= 0, u * 0, u)  # a NaN stays one
        derivative = tl.where(u > 0, u * 0 + 1, u * 0)
    elif operation == SIGMOID:
        value = _logistic(u)
        derivative = value * (1.0 - value)
    elif operation == IDENTITY:
        value = u
        derivative = u * 0 + 1
    elif operation == GELU:
        normal = 0.5 * (1.0 + tl.erf(u * 0.7071067811865476))
        value = u * normal
        derivative = normal + u * tl.exp(-0.5 * u * u) * 0.3989422804014327
    else:  # silu
        gate = _logistic(u)
        value = u * gate
        derivative = gate + value * (1.0 - gate)
    return value, derivative


@triton.jit
def spread(
    state, product, coefficients, totals, targets, rows, used,
    elements, size, width,
    OPERATIONS: tl.constexpr, GATED: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (block, link): add what one link carries to its target. Targets of a stage differ, so no two collide."""
    PARTS: tl.constexpr = 2 if GATED else 1
    K: tl.constexpr = len(OPERATIONS)
    link = tl.program_id(1)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    place = (at // size) * width + at % size
    if not SHARED:
        place += link * PARTS * size
    s = tl.load(state + at, mask=inside, other=0.0)
    u = tl.load(product + place + (PARTS - 1) * size, mask=inside, other=0.0).to(s.dtype)
    bits = tl.load(used + link)
    first = tl.load(rows + link) * K
    mixture = u * 0
    share = tl.load(coefficients + first) * 0
    for k in tl.static_range(K):
        a = tl.load(coefficients + first + k)
        in_use = ((bits >> k) & 1) != 0
        value, _ = _apply(OPERATIONS[k], u)
        mixture += tl.where(in_use, a * value, 0.0)
        share += tl.where(in_use, a, 0.0)
    if GATED:
        c = _logistic(tl.load(product + place, mask=inside, other=0.0).to(s.dtype))
        carry = share * s
        mixture = carry + c * (mixture - carry)
    into = totals + tl.load(targets + link) * elements + at
    tl.store(into, tl.load(into, mask=inside, other=0.0) + mixture, mask=inside)


@triton.jit
def spread_backward(
    state, product, coefficients, grad_totals, grad_state, parts, targets, rows, used,
    elements, size, width, table,
    LINKS: tl.constexpr, OPERATIONS: tl.constexpr, GATED: tl.constexpr, SHARED: tl.constexpr, WANTED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (block): all links of its elements; sums for the coefficients go to the program's own part."""
    PARTS: tl.constexpr = 2 if GATED else 1
    K: tl.constexpr = len(OPERATIONS)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    start = (at // size) * width + at % size
    s = tl.load(state + at, mask=inside, other=0.0)
    grad_s = s * 0
    sum_gate = s * 0
    sum_update = s * 0
    for link in range(LINKS):
        place = start if SHARED else start + link * PARTS * size
        u = tl.load(product + place + (PARTS - 1) * size, mask=inside, other=0.0).to(s.dtype)
        g = tl.load(grad_totals + tl.load(targets + link) * elements + at, mask=inside, other=0.0)
        c = s * 0 + 1
        if GATED:
            c = _logistic(tl.load(product + place, mask=inside, other=0.0).to(s.dtype))
        bits = tl.load(used + link)
        first = tl.load(rows + link) * K
        mixture = s * 0
        slope = s * 0
        share = tl.load(coefficients + first) * 0
        for k in tl.static_range(K):
            a = tl.load(coefficients + first + k)
            in_use = ((bits >> k) & 1) != 0
            value, derivative = _apply(OPERATIONS[k], u)
            mixture += tl.where(in_use, a * value, 0.0)
            slope += tl.where(in_use, a * derivative, 0.0)
            share += tl.where(in_use, a, 0.0)
            if WANTED:
                edge = s + c * (value - s) if GATED else value
                dot = tl.sum(tl.where(inside & in_use, g * edge, 0.0), 0)
                cell = parts + tl.program_id(0) * table + first + k
                tl.store(cell, tl.load(cell) + dot)
        grad_update = c * g * slope
        if GATED:
            grad_gate = c * g * (1.0 - c) * (mixture - share * s)
            grad_s += share * (1.0 - c) * g
            if SHARED:
                sum_gate += grad_gate
            else:
                tl.store(product + place, grad_gate.to(product.dtype.element_ty), mask=inside)
        if SHARED:
            sum_update += grad_update
        else:
            to = product + place + (PARTS - 1) * size
            tl.store(to, grad_update.to(product.dtype.element_ty), mask=inside)
    if SHARED:
        if GATED:
            tl.store(product + start, sum_gate.to(product.dtype.element_ty), mask=inside)
        tl.store(product + start + (PARTS - 1) * size, sum_update.to(product.dtype.element_ty), mask=inside)
    tl.store(grad_state + at, grad_s, mask=inside)


@triton.jit
def settle(
    total, mask, mean, variance, state, masked, output,
    batch, size, eps, share,
    MODE: tl.constexpr, MASKED: tl.constexpr, OUTPUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program (columns): normalise (by the batch, or given mean and inverse deviation), mask, add up."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < size
    row = tl.arange(0, ROWS)
    zero = tl.load(total + column, mask=known, other=0.0) * 0
    centre = zero
    scale = zero + 1
    if MODE == 1:
        for begin in range(0, batch, ROWS):
            here = ((begin + row) < batch)[:, None] & known[None, :]
            at = (begin + row)[:, None] * size + column[None, :]
            centre += tl.sum(tl.load(total + at, mask=here, other=0.0), 0)
        centre = centre / batch
        spread = zero
        for begin in range(0, batch, ROWS):
            here = ((begin + row) < batch)[:, None] & known[None, :]
            at = (begin + row)[:, None] * size + column[None, :]
            distance = tl.where(here, tl.load(total + at, mask=here, other=0.0) - centre[None, :], 0.0)
            spread += tl.sum(distance * distance, 0)
        spread = spread / batch
        scale = 1.0 / tl.sqrt(spread + eps)
        tl.store(mean + column, centre, mask=known)
        tl.store(variance + column, spread, mask=known)
    elif MODE == 2:
        centre = tl.load(mean + column, mask=known, other=0.0)
        scale = tl.load(variance + column, mask=known, other=0.0)
    for begin in range(0, batch, ROWS):
        here = ((begin + row) < batch)[:, None] & known[None, :]
        at = (begin + row)[:, None] * size + column[None, :]
        value = (tl.load(total + at, mask=here, other=0.0) - centre[None, :]) * scale[None, :]
        tl.store(state + at, value, mask=here)
        if MASKED:
            tl.store(masked + at, value * tl.load(mask + at, mask=here, other=0.0), mask=here)
        if OUTPUT:
            tl.store(output + at, tl.load(output + at, mask=here, other=0.0) + share * value, mask=here)


@triton.jit
def _gathered(grad_state, grad_masked, mask, grad_output, at, here, share, PRODUCT: tl.constexpr, MASKED: tl.constexpr,
              OUTPUT: tl.constexpr):  # fmt: skip
    grad = tl.load(grad_state + at, mask=here, other=0.0)
    if PRODUCT:
        through = tl.load(grad_masked + at, mask=here, other=0.0)
        if MASKED:
            through = through * tl.load(mask + at, mask=here, other=0.0)
        grad += through
    if OUTPUT:
        grad += share * tl.load(grad_output + at, mask=here, other=0.0)
    return grad


@triton.jit
def settle_backward(
    grad_state, grad_masked, mask, grad_output, state, variance, grad_total,
    batch, size, eps, share,
    MODE: tl.constexpr, PRODUCT: tl.constexpr, MASKED: tl.constexpr, OUTPUT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program (columns): the transpose of ``settle``."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < size
    row = tl.arange(0, ROWS)
    zero = tl.load(state + column, mask=known, other=0.0) * 0
    mean_grad = zero
    mean_dot = zero
    scale = zero + 1
    if MODE == 1:
        for begin in range(0, batch, ROWS):
            here = ((begin + row) < batch)[:, None] & known[None, :]
            at = (begin + row)[:, None] * size + column[None, :]
            grad = _gathered(grad_state, grad_masked, mask, grad_output, at, here, share, PRODUCT, MASKED, OUTPUT)
            mean_grad += tl.sum(grad, 0)
            mean_dot += tl.sum(grad * tl.load(state + at, mask=here, other=0.0), 0)
        mean_grad = mean_grad / batch
        mean_dot = mean_dot / batch
        scale = 1.0 / tl.sqrt(tl.load(variance + column, mask=known, other=1.0) + eps)
    elif MODE == 2:
        scale = tl.load(variance + column, mask=known, other=0.0)
    for begin in range(0, batch, ROWS):
        here = ((begin + row) < batch)[:, None] & known[None, :]
        at = (begin + row)[:, None] * size + column[None, :]
        grad = _gathered(grad_state, grad_masked, mask, grad_output, at, here, share, PRODUCT, MASKED, OUTPUT)
        if MODE == 1:
            grad = grad - mean_grad[None, :] - tl.load(state + at, mask=here, other=0.0) * mean_dot[None, :]
        tl.store(grad_total + at, grad * scale[None, :], mask=here)


KERNELS = (spread, spread_backward, settle, settle_backward)
