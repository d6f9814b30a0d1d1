# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""The portable executor: prefill over virtual page lists in Triton, one program a (row block tile, head)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.virtual import VirtualCache, VirtualLists

LOG2E = 1.4426950408889634


@triton.jit
def _attend_lists(
    q, k, v, out, lse, table, lengths,
    stride_qt, stride_qh, stride_ot, stride_oh, token_stride_units,
    first, num_rows, length, first_block, num_blocks, width, scale_log2,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    tile = tl.program_id(0)
    block, part = tile // (ROWS // BLOCK_M), tile % (ROWS // BLOCK_M)
    line = head * num_blocks + block
    block = num_blocks - 1 - block
    num_tokens = tl.load(lengths + line)
    stop = tl.minimum((first_block + block) * ROWS + ROWS, length)
    position = (first_block + block) * ROWS + part * BLOCK_M + tl.arange(0, BLOCK_M)
    row = (position - first).to(tl.int64)
    inside = (row >= 0) & (position < stop)
    # The list ends with the row block's own tokens: token t of the list is visible to a row at position p when
    # t ≤ p − (stop − num_tokens), the bottom-right causal rule.
    limit = position - (stop - num_tokens)
    d = tl.arange(0, D)
    query = tl.load(q + row[:, None] * stride_qt + head * stride_qh + d[None, :], mask=inside[:, None], other=0.0)
    high = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    for n in range(0, num_tokens, BLOCK_N):
        t = n + tl.arange(0, BLOCK_N)
        there = t < num_tokens
        unit = tl.load(table + line * width + t // PAGE, mask=there, other=0).to(tl.int64)
        unit += (t % PAGE).to(tl.int64) * token_stride_units
        key = tl.load(k + unit[None, :] * D + d[:, None], mask=there[None, :], other=0.0)
        scores = tl.dot(query, key, input_precision="ieee") * scale_log2
        scores = tl.where(there[None, :] & (t[None, :] <= limit[:, None]), scores, float("-inf"))
        new = tl.maximum(high, tl.max(scores, 1))
        safe = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp2(scores - safe[:, None])
        fade = tl.exp2(high - safe)
        value = tl.load(v + unit[:, None] * D + d[None, :], mask=there[:, None], other=0.0)
        acc = acc * fade[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        total = total * fade + tl.sum(weight, 1)
        high = new
    filled = tl.where(total > 0, total, 1.0)
    result = acc / filled[:, None]
    where = out + row[:, None] * stride_ot + head * stride_oh + d[None, :]
    tl.store(where, result.to(out.dtype.element_ty), mask=inside[:, None])
    natural = tl.where(total > 0, (high + tl.log2(filled)) * 0.6931471805599453, float("-inf"))
    tl.store(lse + head * num_rows + row, natural, mask=inside)


def attend_lists(
    q: Tensor, cache: VirtualCache, lists: VirtualLists, *, length: int, row_block: int, scale: float, out: Tensor,
) -> Tensor:  # fmt: skip
    """Attention of q [T, H, D], the last T of `length` positions, over lists for each (head, row block), into `out`.

    Returns the log-sum-exp, float32 [H, T]. The last page's tail is not read.
    """
    num_rows, heads, d = q.shape
    first = length - num_rows
    num_blocks = lists.table.shape[1]
    block_m = min(64, row_block)
    lse = torch.empty(heads, num_rows, dtype=torch.float32, device=q.device)
    _attend_lists[(num_blocks * (row_block // block_m), heads)](
        q, cache.keys, cache.values, out, lse, lists.table, lists.lengths,
        q.stride(0), q.stride(1), out.stride(0), out.stride(1), cache.token_units,
        first, num_rows, length, first // row_block, num_blocks, lists.table.shape[2], scale * LOG2E,
        D=d, ROWS=row_block, BLOCK_M=block_m, BLOCK_N=64 if d <= 128 else 32, PAGE=lists.page_size,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return lse
