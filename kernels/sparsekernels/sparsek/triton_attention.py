# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Triton forward and backward of SparseK attention; the torch form in `blocks` is the reference.

A program of the forward, and of dq, holds a block of query rows of one head and walks over two sets of
key tiles: the contiguous window and the block's gathered list. Key and value gradients come from a
walk over rows for window keys, and are added atomically for listed keys (so their last bits may vary
from run to run). Gates are recomputed from scores and thresholds; nothing quadratic is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.sparsek.blocks import Gradients
from sparsekernels.sparsek.definition import Gating

if TYPE_CHECKING:
    from sparsekernels.sparsek.attention import Prepared

LIST_PARTS = 4
"""Programs that share a row block's list in the backward: a short sequence has few blocks and many processors."""
LIST_TILE = (64, 64, 4)
"""Rows and keys of a tile there, and warps."""


@triton.jit
def _window_mask(rows, keys, window, n):
    distance = rows[:, None] - keys[None, :]
    return (distance >= 0) & (distance < window) & (rows[:, None] < n) & (keys[None, :] < n)


@triton.jit
def _listed(indices, scores, ends, place, stop, BLOCK_N: tl.constexpr):
    """Positions, scores and end rows of a tile of a list; an end of 0 hides a padded entry."""
    at = place + tl.arange(0, BLOCK_N)
    real = at < stop
    keys = tl.load(indices + at, mask=real, other=0)
    u = tl.load(scores + keys, mask=real, other=0.0)
    e = tl.load(ends + keys, mask=real, other=0)
    return keys, u, e


@triton.jit
def _strip_mask(rows, keys, e, window, n):
    return (rows[:, None] - keys[None, :] >= window) & (rows[:, None] < e[None, :]) & (rows[:, None] < n)


@triton.jit
def _gates(u, tau):
    """Gates [M, N], and which are strictly inside (0, 1), rounded as in `attention.score_gradient`."""
    gates = tl.minimum(tl.maximum(u[None, :] - tau[:, None], 0.0), 1.0)
    return gates, (tau[:, None] < u[None, :]) & (tau[:, None] > (u - 1.0)[None, :])


@triton.jit
def _accumulate(
    q, keys_t, values, gates, mask, scale, m, total, acc, GATE_KEYS: tl.constexpr, GATE_VALUES: tl.constexpr
):
    """One online-softmax step in base 2."""
    logits = tl.dot(q, keys_t, input_precision="ieee") * (scale * 1.4426950408889634)
    if GATE_KEYS:
        logits = logits * gates
    logits = tl.where(mask, logits, -1.0e30)
    new_m = tl.maximum(m, tl.max(logits, 1))
    weights = tl.where(mask, tl.exp2(logits - new_m[:, None]), 0.0)
    shrink = tl.exp2(m - new_m)
    total = total * shrink + tl.sum(weights, 1)
    if GATE_VALUES:
        weights = weights * gates
    acc = acc * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    return new_m, total, acc


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, u_ptr, tau_ptr, end_ptr, index_ptr, start_ptr, out_ptr, lse_ptr,
    n, num_lists, group, scale, window,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ROW_BLOCK: tl.constexpr,
    GATE_KEYS: tl.constexpr, GATE_VALUES: tl.constexpr,
):  # fmt: skip
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    kv = head // group
    first = block * BLOCK_M
    rows = first + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    inside = rows < n
    q = tl.load(q_ptr + (head * n + rows[:, None]) * D + d[None, :], mask=inside[:, None], other=0.0)
    tau = tl.load(tau_ptr + kv * n + rows, mask=inside, other=0.0)
    m = tl.full((BLOCK_M,), -1.0e30, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, D), tl.float32)
    ones = tl.full((BLOCK_M, BLOCK_N), 1.0, tl.float32)
    k_ptr += kv * n * D
    v_ptr += kv * n * D
    for start in range(tl.maximum(0, first - window + 1) // BLOCK_N * BLOCK_N, tl.minimum(n, first + BLOCK_M), BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        keys_t = tl.load(k_ptr + keys[None, :] * D + d[:, None], mask=keys[None, :] < n, other=0.0)
        values = tl.load(v_ptr + keys[:, None] * D + d[None, :], mask=keys[:, None] < n, other=0.0)
        mask = _window_mask(rows, keys, window, n)
        m, total, acc = _accumulate(q, keys_t, values, ones, mask, scale, m, total, acc, False, False)
    place = tl.load(start_ptr + kv * (num_lists + 1) + first // ROW_BLOCK)
    stop = tl.load(start_ptr + kv * (num_lists + 1) + first // ROW_BLOCK + 1)
    for at in range(place, stop, BLOCK_N):
        keys, u, e = _listed(index_ptr, u_ptr + kv * n, end_ptr + kv * n, at, stop, BLOCK_N)
        keys_t = tl.load(k_ptr + keys[None, :] * D + d[:, None])
        values = tl.load(v_ptr + keys[:, None] * D + d[None, :])
        gates, _ = _gates(u, tau)
        mask = _strip_mask(rows, keys, e, window, n)
        m, total, acc = _accumulate(q, keys_t, values, gates, mask, scale, m, total, acc, GATE_KEYS, GATE_VALUES)
    safe = tl.where(total > 0, total, 1.0)
    out = (acc / safe[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + (head * n + rows[:, None]) * D + d[None, :], out, mask=inside[:, None])
    tl.store(lse_ptr + head * n + rows, (m + tl.log2(safe)) * 0.6931471805599453, mask=inside)


@triton.jit
def _weights(
    q, keys, values, d_out, lse, delta, gates, mask, scale,
    GATE_KEYS: tl.constexpr, GATE_VALUES: tl.constexpr, KEY_TERM: tl.constexpr,
):  # fmt: skip
    """Of one tile [M, N]: gated weights, gradient of the content q·k·scale, gradient of the gates."""
    content = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale
    logits = content * gates if GATE_KEYS else content
    weights = tl.where(mask, tl.exp2((logits - lse[:, None]) * 1.4426950408889634), 0.0)
    products = tl.dot(d_out, tl.trans(values), input_precision="ieee")
    gated = products * gates if GATE_VALUES else products
    d_content = weights * (gated - delta[:, None])
    d_gates = weights * products
    if KEY_TERM:
        d_gates += d_content * content
    if GATE_KEYS:
        d_content = d_content * gates
    if GATE_VALUES:
        weights = weights * gates
    return weights, d_content, d_gates


@triton.jit
def _backward_rows(
    q_ptr, k_ptr, v_ptr, u_ptr, tau_ptr, end_ptr, index_ptr, start_ptr, out_ptr, grad_ptr, lse_ptr,
    delta_ptr, dq_ptr, row_ptr, n, num_lists, group, scale, window,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ROW_BLOCK: tl.constexpr,
    GATE_KEYS: tl.constexpr, GATE_VALUES: tl.constexpr, KEY_TERM: tl.constexpr,
):  # fmt: skip
    """dq, out · d_out (δ), and the sum over kept fractional keys of dL/dp, for every row of one query head."""
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    kv = head // group
    first = block * BLOCK_M
    rows = first + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    inside = rows < n
    at_rows = (head * n + rows[:, None]) * D + d[None, :]
    q = tl.load(q_ptr + at_rows, mask=inside[:, None], other=0.0)
    d_out = tl.load(grad_ptr + at_rows, mask=inside[:, None], other=0.0)
    lse = tl.load(lse_ptr + head * n + rows, mask=inside, other=0.0)
    out = tl.load(out_ptr + at_rows, mask=inside[:, None], other=0.0)
    delta = tl.sum(out.to(tl.float32) * d_out.to(tl.float32), 1)
    tl.store(delta_ptr + head * n + rows, delta, mask=inside)
    tau = tl.load(tau_ptr + kv * n + rows, mask=inside, other=0.0)
    dq = tl.zeros((BLOCK_M, D), tl.float32)
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    ones = tl.full((BLOCK_M, BLOCK_N), 1.0, tl.float32)
    k_ptr += kv * n * D
    v_ptr += kv * n * D
    for start in range(tl.maximum(0, first - window + 1) // BLOCK_N * BLOCK_N, tl.minimum(n, first + BLOCK_M), BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k = tl.load(k_ptr + keys[:, None] * D + d[None, :], mask=keys[:, None] < n, other=0.0)
        v = tl.load(v_ptr + keys[:, None] * D + d[None, :], mask=keys[:, None] < n, other=0.0)
        mask = _window_mask(rows, keys, window, n)
        _, d_content, _ = _weights(q, k, v, d_out, lse, delta, ones, mask, scale, False, False, False)
        dq += tl.dot(d_content.to(k.dtype), k, input_precision="ieee")
    place = tl.load(start_ptr + kv * (num_lists + 1) + first // ROW_BLOCK)
    stop = tl.load(start_ptr + kv * (num_lists + 1) + first // ROW_BLOCK + 1)
    for at in range(place, stop, BLOCK_N):
        keys, u, e = _listed(index_ptr, u_ptr + kv * n, end_ptr + kv * n, at, stop, BLOCK_N)
        k = tl.load(k_ptr + keys[:, None] * D + d[None, :])
        v = tl.load(v_ptr + keys[:, None] * D + d[None, :])
        gates, fractional = _gates(u, tau)
        mask = _strip_mask(rows, keys, e, window, n)
        _, d_content, d_gates = _weights(
            q, k, v, d_out, lse, delta, gates, mask, scale, GATE_KEYS, GATE_VALUES, KEY_TERM
        )
        row_sum += tl.sum(tl.where(fractional, d_gates, 0.0), 1)
        dq += tl.dot(d_content.to(k.dtype), k, input_precision="ieee")
    tl.store(dq_ptr + at_rows, (dq * scale).to(dq_ptr.dtype.element_ty), mask=inside[:, None])
    tl.store(row_ptr + head * n + rows, row_sum, mask=inside)


@triton.jit
def _backward_window_keys(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, n, group, scale, window,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Key and value gradients from the rows in whose window a key is; stored, not added."""
    block, kv = tl.program_id(0), tl.program_id(1).to(tl.int64)
    first = block * BLOCK_N
    keys = first + tl.arange(0, BLOCK_N)
    d = tl.arange(0, D)
    at_keys = (kv * n + keys[:, None]) * D + d[None, :]
    k = tl.load(k_ptr + at_keys, mask=keys[:, None] < n, other=0.0)
    v = tl.load(v_ptr + at_keys, mask=keys[:, None] < n, other=0.0)
    dk = tl.zeros((BLOCK_N, D), tl.float32)
    dv = tl.zeros((BLOCK_N, D), tl.float32)
    ones = tl.full((BLOCK_M, BLOCK_N), 1.0, tl.float32)
    for member in range(group):
        head = kv * group + member
        for start in range(first // BLOCK_M * BLOCK_M, tl.minimum(n, first + BLOCK_N + window - 1), BLOCK_M):
            rows = start + tl.arange(0, BLOCK_M)
            inside = rows < n
            at_rows = (head * n + rows[:, None]) * D + d[None, :]
            q = tl.load(q_ptr + at_rows, mask=inside[:, None], other=0.0)
            d_out = tl.load(grad_ptr + at_rows, mask=inside[:, None], other=0.0)
            lse = tl.load(lse_ptr + head * n + rows, mask=inside, other=0.0)
            delta = tl.load(delta_ptr + head * n + rows, mask=inside, other=0.0)
            mask = _window_mask(rows, keys, window, n)
            weights, d_content, _ = _weights(q, k, v, d_out, lse, delta, ones, mask, scale, False, False, False)
            dk += tl.dot(tl.trans(d_content.to(q.dtype)), q, input_precision="ieee")
            dv += tl.dot(tl.trans(weights.to(d_out.dtype)), d_out, input_precision="ieee")
    tl.store(dk_ptr + at_keys, dk * scale, mask=keys[:, None] < n)
    tl.store(dv_ptr + at_keys, dv, mask=keys[:, None] < n)


@triton.jit
def _backward_listed_keys(
    q_ptr, k_ptr, v_ptr, u_ptr, tau_ptr, end_ptr, index_ptr, start_ptr, grad_ptr, lse_ptr, delta_ptr,
    dk_ptr, dv_ptr, kept_ptr, n, num_lists, group, scale, window,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ROW_BLOCK: tl.constexpr, PARTS: tl.constexpr,
    GATE_KEYS: tl.constexpr, GATE_VALUES: tl.constexpr, KEY_TERM: tl.constexpr,
):  # fmt: skip
    """Adds the share of one row block to the gradients of one part of its listed keys."""
    block, kv = tl.program_id(0), tl.program_id(1).to(tl.int64)
    d = tl.arange(0, D)
    k_ptr += kv * n * D
    v_ptr += kv * n * D
    dk_ptr += kv * n * D
    dv_ptr += kv * n * D
    place = tl.load(start_ptr + kv * (num_lists + 1) + block)
    stop = tl.load(start_ptr + kv * (num_lists + 1) + block + 1)
    for at in range(place + tl.program_id(2) * BLOCK_N, stop, BLOCK_N * PARTS):
        keys, u, e = _listed(index_ptr, u_ptr + kv * n, end_ptr + kv * n, at, stop, BLOCK_N)
        at_keys = keys[:, None] * D + d[None, :]
        k, v = tl.load(k_ptr + at_keys), tl.load(v_ptr + at_keys)
        dk = tl.zeros((BLOCK_N, D), tl.float32)
        dv = tl.zeros((BLOCK_N, D), tl.float32)
        kept = tl.zeros((BLOCK_N,), tl.float32)
        for first in range(block * ROW_BLOCK, block * ROW_BLOCK + ROW_BLOCK, BLOCK_M):
            rows = first + tl.arange(0, BLOCK_M)
            inside = rows < n
            tau = tl.load(tau_ptr + kv * n + rows, mask=inside, other=0.0)
            for head in range(kv * group, kv * group + group):
                at_rows = (head * n + rows[:, None]) * D + d[None, :]
                q = tl.load(q_ptr + at_rows, mask=inside[:, None], other=0.0)
                d_out = tl.load(grad_ptr + at_rows, mask=inside[:, None], other=0.0)
                lse = tl.load(lse_ptr + head * n + rows, mask=inside, other=0.0)
                delta = tl.load(delta_ptr + head * n + rows, mask=inside, other=0.0)
                gates, fractional = _gates(u, tau)
                mask = _strip_mask(rows, keys, e, window, n)
                weights, d_content, d_gates = _weights(
                    q, k, v, d_out, lse, delta, gates, mask, scale, GATE_KEYS, GATE_VALUES, KEY_TERM
                )
                kept += tl.sum(tl.where(fractional, d_gates, 0.0), 0)
                dk += tl.dot(tl.trans(d_content.to(q.dtype)), q, input_precision="ieee")
                dv += tl.dot(tl.trans(weights.to(d_out.dtype)), d_out, input_precision="ieee")
        real = at + tl.arange(0, BLOCK_N) < stop
        tl.atomic_add(dk_ptr + at_keys, dk * scale, mask=real[:, None], sem="relaxed")
        tl.atomic_add(dv_ptr + at_keys, dv, mask=real[:, None], sem="relaxed")
        tl.atomic_add(kept_ptr + kv * n + keys, kept, mask=real, sem="relaxed")


def forward(q: Tensor, k: Tensor, v: Tensor, prepared: Prepared) -> tuple[Tensor, Tensor]:
    """Output [heads, n, d] and log-sum-exp [heads, n]; see `blocks.forward`."""
    _check(q, k, v, prepared)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    heads, n, d = q.shape
    block_m = min(128, prepared.lists.row_block)
    gates = _gate_flags(prepared.gating)
    _forward[(triton.cdiv(n, block_m), heads)](
        q, k, v, *_pattern(prepared), out, lse, n, _num_lists(prepared), heads // len(k), prepared.scale,
        prepared.budget.window, D=d, BLOCK_M=block_m, BLOCK_N=64, ROW_BLOCK=prepared.lists.row_block,
        GATE_KEYS=gates["GATE_KEYS"], GATE_VALUES=gates["GATE_VALUES"],
        num_warps=8 if block_m == 128 else 4, num_stages=3 if d <= 64 else 2,
    )  # fmt: skip
    return out, lse


def backward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad: Tensor, prepared: Prepared) -> Gradients:
    """Gradients before the operator's Jacobian; see `blocks.backward`."""
    heads, n, d = q.shape
    kv_heads, group = len(k), heads // len(k)
    dq = torch.empty_like(q)
    row_sums, delta = (torch.empty(heads, n, dtype=torch.float32, device=q.device) for _ in range(2))
    dk, dv = (torch.empty(k.shape, dtype=torch.float32, device=q.device) for _ in range(2))
    kept = torch.zeros(kv_heads, n, dtype=torch.float32, device=q.device)
    pattern, row_block = _pattern(prepared), prepared.lists.row_block
    sizes: dict[str, Any] = {"D": d, "BLOCK_M": min(64, row_block), "BLOCK_N": 64, "num_warps": 4, "num_stages": 2}
    numbers = (n, _num_lists(prepared), group, prepared.scale, prepared.budget.window)
    flags = _gate_flags(prepared.gating)
    _backward_rows[(triton.cdiv(n, sizes["BLOCK_M"]), heads)](
        q, k, v, *pattern, out, grad, lse, delta, dq, row_sums, *numbers, ROW_BLOCK=row_block, **flags, **sizes
    )
    _backward_window_keys[(triton.cdiv(n, sizes["BLOCK_N"]), kv_heads)](
        q, k, v, grad, lse, delta, dk, dv, n, group, prepared.scale, prepared.budget.window, **sizes
    )
    tile_rows, tile_keys, warps = LIST_TILE
    sizes |= {"BLOCK_M": min(tile_rows, row_block), "BLOCK_N": tile_keys, "num_warps": warps}
    _backward_listed_keys[(_num_lists(prepared), kv_heads, LIST_PARTS)](
        q,
        k,
        v,
        *pattern,
        grad,
        lse,
        delta,
        dk,
        dv,
        kept,
        *numbers,
        ROW_BLOCK=row_block,
        PARTS=LIST_PARTS,
        **flags,
        **sizes,
    )
    return Gradients(dq, dk.to(k.dtype), dv.to(v.dtype), kept, row_sums.view(kv_heads, group, n).sum(1))


def _pattern(prepared: Prepared) -> tuple[Tensor, ...]:
    found, lists = prepared.pattern, prepared.lists
    indices = lists.indices if len(lists.indices) else lists.indices.new_zeros(1)
    return prepared.scores.contiguous(), found.thresholds, found.ends, indices, lists.starts.contiguous()


def _num_lists(prepared: Prepared) -> int:
    return prepared.lists.starts.shape[1] - 1


def _gate_flags(gating: Gating) -> dict[str, bool]:
    return {
        "GATE_KEYS": gating is Gating.KEYS_AND_VALUES,
        "GATE_VALUES": gating is not Gating.STRAIGHT_THROUGH,
        "KEY_TERM": gating is not Gating.VALUES,
    }


def _check(q: Tensor, k: Tensor, v: Tensor, prepared: Prepared) -> None:
    width, rows = q.shape[-1], prepared.lists.row_block
    if width & (width - 1) or width < 16:
        raise ValueError(f"head_dim is {width}; the Triton kernels need a power of two, at least 16")
    if rows & (rows - 1) or rows < 16:
        raise ValueError(f"row_block is {rows}; the Triton kernels need a power of two, at least 16")
    if not (q.is_contiguous() and k.is_contiguous() and v.is_contiguous()):
        raise ValueError("q, k and v must be contiguous")
    if prepared.scores.dtype != torch.float32:
        raise TypeError(f"scores are {prepared.scores.dtype}; the Triton kernels need float32")
