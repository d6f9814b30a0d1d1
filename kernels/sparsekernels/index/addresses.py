# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Where a token's key begins, in units of the head size (see `sparsekernels.virtual`), inside a Triton kernel."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def token_units(token, mask, block_table, page_units, token_stride_units, PAGE: tl.constexpr, PAGED: tl.constexpr):
    """int64 units of `token` in head 0; not PAGED: contiguous keys, the block table is not read."""
    if PAGED:
        page = tl.load(block_table + token // PAGE, mask=mask, other=0).to(tl.int64)
        return page * page_units + (token % PAGE).to(tl.int64) * token_stride_units
    return token.to(tl.int64) * token_stride_units
