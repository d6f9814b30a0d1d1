# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Rows token by token to rows head by head, and back, at the speed of memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _copy_rows(
    source, target, num_rows, stride_st, stride_sh, stride_tt, stride_th, D: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    row = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    d = tl.arange(0, D)
    inside = row[:, None] < num_rows
    x = tl.load(source + row[:, None] * stride_st + head * stride_sh + d[None, :], mask=inside)
    tl.store(target + row[:, None] * stride_tt + head * stride_th + d[None, :], x, mask=inside)


def pack_heads(x: Tensor) -> Tensor:
    """[T, H, D] of any row and head strides to contiguous [H, T, D]."""
    num_rows, heads, d = x.shape
    packed = torch.empty(heads, num_rows, d, dtype=x.dtype, device=x.device)
    _copy_rows[(heads, triton.cdiv(num_rows, 64))](
        x, packed, num_rows, x.stride(0), x.stride(1), d, num_rows * d, D=d, BLOCK=64
    )
    return packed


def unpack_heads(packed: Tensor, out: Tensor) -> None:
    """Contiguous [H, T, D] into out [T, H, D] of any row and head strides."""
    heads, num_rows, d = packed.shape
    _copy_rows[(heads, triton.cdiv(num_rows, 64))](
        packed, out, num_rows, d, num_rows * d, out.stride(0), out.stride(1), D=d, BLOCK=64
    )
