"""The method's one function."""

from __future__ import annotations

import torch
from sparsekernels.choosing import Place
from sparsekernels.selection import Selection, from_page_mask, rows_of_sequence
from torch import Tensor

from frontier_example.a_shape import AShape


def select(q: Tensor, k: Tensor, method: AShape, place: Place) -> Selection:
    """What the rows q [T, Hq, D], the last T of k [L, Hkv, D], read: the same for all heads."""
    size, length = method.block_size, k.shape[0]
    rows = rows_of_sequence(q.shape[0], length, size, device=q.device)
    own = (rows.position // size)[:, None]
    block = torch.arange(-(-length // size), device=q.device)
    read = (block <= own) & ((block < method.sink_blocks) | (block >= own - method.local_blocks))
    return from_page_mask(rows, read[:, None].expand(-1, k.shape[1], -1), page_size=size, row_block=size)
