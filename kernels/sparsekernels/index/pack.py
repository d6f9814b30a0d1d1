# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Rows token by token to rows head by head, and back, at the speed of memory.

Packed rows lie head by head with their row blocks in falling order, so that the blocks with the longest lists are
attended to first; rows keep their order inside a block."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.index.launch import CHANGING


@triton.jit
def packed_row(row, first, num_rows, ROWS: tl.constexpr):
    """Where a row lies in its head's packed rows; row 0 has the position `first`, blocks lie at multiples of ROWS."""
    block = (first + row) // ROWS
    start = tl.maximum(block * ROWS - first, 0)
    stop = tl.minimum(block * ROWS + ROWS - first, num_rows)
    return num_rows - stop + row - start


@triton.jit(do_not_specialize=CHANGING)
def _copy_rows(
    source, target, first, num_rows, stride_t, stride_h, D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    PACK: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    row = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    d = tl.arange(0, D)
    inside = row[:, None] < num_rows
    place = packed_row(row, first, num_rows, ROWS)
    packed = (head * num_rows + place)[:, None] * D + d[None, :]
    wide = row[:, None] * stride_t + head * stride_h + d[None, :]
    if PACK:
        tl.store(target + packed, tl.load(source + wide, mask=inside), mask=inside)
    else:
        tl.store(target + wide, tl.load(source + packed, mask=inside), mask=inside)


def pack_heads(x: Tensor, row_block: int, first: int) -> Tensor:
    """[T, H, D] of any row and head strides, positions `first` …, to packed rows [H, T, D]."""
    num_rows, heads, d = x.shape
    packed = torch.empty(heads, num_rows, d, dtype=x.dtype, device=x.device)
    _copy_rows[(heads, triton.cdiv(num_rows, 64))](
        x, packed, first, num_rows, x.stride(0), x.stride(1), D=d, BLOCK=64, ROWS=row_block, PACK=True
    )
    return packed


def unpack_heads(packed: Tensor, out: Tensor, row_block: int, first: int) -> None:
    """Packed rows [H, T, D] into out [T, H, D] of any row and head strides."""
    heads, num_rows, d = packed.shape
    _copy_rows[(heads, triton.cdiv(num_rows, 64))](
        packed, out, first, num_rows, out.stride(0), out.stride(1), D=d, BLOCK=64, ROWS=row_block, PACK=False,
    )  # fmt: skip
