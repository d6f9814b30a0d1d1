# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Inside Triton kernels: where a token's key begins, and the queries that share a list."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def token_units(token, mask, block_table, page_units, token_stride_units, PAGE: tl.constexpr, PAGED: tl.constexpr):
    """int64 units (see `sparsekernels.virtual`) of `token` in head 0; not PAGED: contiguous keys, no block table."""
    if PAGED:
        page = tl.load(block_table + token // PAGE, mask=mask, other=0).to(tl.int64)
        return page * page_units + (token % PAGE).to(tl.int64) * token_stride_units
    return token.to(tl.int64) * token_stride_units


@triton.jit
def load_group(q, batch, list_head, stride_qb, stride_qh, D: tl.constexpr, GROUP: tl.constexpr, PAD: tl.constexpr):
    """The queries [PAD, D] of the heads that share a list, zero from GROUP on."""
    d, g = tl.arange(0, D), tl.arange(0, PAD)
    source = q + batch.to(tl.int64) * stride_qb + (list_head * GROUP + g)[:, None] * stride_qh + d[None, :]
    return tl.load(source, mask=g[:, None] < GROUP, other=0.0)
